"""What every queue store, event log and body store owes: the text of ``ports``, over each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import (
    Accept,
    BodyRef,
    DotSent,
    IdempotencyRecord,
    Message,
    MessageKey,
    NewRecipient,
    Note,
    Pending,
    RecipientState,
    Settle,
    Void,
)
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemClock
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.queue_store import DueMark
from pigeonry.stores.sqlite.limits import Limits
from pigeonry.stores.sqlite.queue_store import SqliteStore

CLOCK = SystemClock()
START = DueMark(float("-inf"))
Open = Callable[..., Awaitable[SqliteStore]]


@asynccontextmanager
async def running(root: Path, **options: object) -> AsyncIterator[SqliteStore]:
    given: dict[str, object] = {"slot": 0, "slots": 1, "limits": Limits(in_doubt_delay_s=60.0, free_octets_min=0)}
    store = SqliteStore(
        str(root),
        disk=LocalDisk(str(root)),
        lanes=ThreadLanes(),
        clock=CLOCK,
        **{**given, **options},  # type: ignore[arg-type]
    )
    await store.open()
    task = asyncio.create_task(store.run())
    try:
        yield store
    finally:
        await store.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with running(tmp_path) as opened:
        yield opened


def soon() -> float:
    return CLOCK.monotonic() + 10.0


def accept(
    store: SqliteStore, *addresses: str, due: float = 1.0, body: bytes | BodyRef = b"body", idem: bytes = b""
) -> Accept:
    key = store.allocate(len(addresses))
    summary = EventMessage(headers=MessageHeaders(message_id="m@x"), size=4)
    record = IdempotencyRecord(idem, b"f" * 32, b"{}", CLOCK.now() + 60) if idem else None
    return Accept(
        Message(key, "acct", "x.test", "a@x.test", summary, 1.0, 1e12),
        body,
        tuple(NewRecipient(address, due) for address in addresses),
        tuple(f'{{"accepted":"{address}"}}'.encode() for address in addresses),
        record,
    )


async def due(store: SqliteStore, *, after: DueMark = START, until: float = 1e12, limit: int = 100) -> list[Pending]:
    return list(await store.due(after=after, until=until, limit=limit))


async def log(store: SqliteStore) -> list[bytes]:
    return [entry.octets for shard in store.shards() for entry in await store.tail(shard, after=0, limit=1000)]


async def test_what_was_accepted_is_due_readable_and_in_the_log(store: SqliteStore) -> None:
    work = accept(store, "b@y.test", "c@y.test", body=b"Subject: x\r\n\r\nhello")
    await store.commit(work, deadline=soon())
    waiting = await due(store)
    assert [(p.address, p.serial - work.message.key.serial, p.attempts) for p in waiting] == [
        ("b@y.test", 0, 0),
        ("c@y.test", 1, 0),
    ]
    assert await store.message(work.message.key) == work.message
    assert await store.body(work.message.key) == b"Subject: x\r\n\r\nhello"
    assert [view.state for view in await store.recipients(work.message.key)] == [RecipientState.PENDING] * 2
    assert await log(store) == list(work.events)


async def test_due_pages_in_order_of_time_then_shard_then_serial(store: SqliteStore) -> None:
    for number in range(7):
        await store.commit(accept(store, f"r{number}@y.test", due=10.0 - number % 3), deadline=soon())
    mark, seen = START, []
    while page := await due(store, after=mark, limit=2):
        seen += page
        mark = DueMark(page[-1].due, page[-1].message.shard, page[-1].serial)
    assert [(p.due, p.serial) for p in seen] == sorted((p.due, p.serial) for p in await due(store))
    assert len(seen) == 7
    assert [p.due for p in await due(store, until=8.0)] == [8.0, 8.0]


async def test_a_settled_recipient_is_never_due_again_and_its_event_is_beside_it(store: SqliteStore) -> None:
    await store.commit(accept(store, "b@y.test"), deadline=soon())
    (pending,) = await due(store)
    await store.commit(DotSent(pending, 1), deadline=soon())
    await store.commit(Settle(pending, RecipientState.DELIVERED, b'{"d":1}', attempts=1), deadline=soon())
    assert await due(store) == []
    assert (await log(store))[-1] == b'{"d":1}'


async def test_the_first_final_event_stands(store: SqliteStore) -> None:
    await store.commit(accept(store, "b@y.test"), deadline=soon())
    (pending,) = await due(store)
    await store.commit(Settle(pending, RecipientState.DELIVERED, b'{"d":1}', attempts=1), deadline=soon())
    await store.commit(Settle(pending, RecipientState.FAILED, b'{"f":1}', attempts=1), deadline=soon())
    assert await log(store) == [b'{"accepted":"b@y.test"}', b'{"d":1}']


async def test_a_retry_is_due_later_with_its_attempts_counted(store: SqliteStore) -> None:
    await store.commit(accept(store, "b@y.test"), deadline=soon())
    (pending,) = await due(store)
    await store.commit(
        Settle(pending, RecipientState.PENDING, b'{"t":1}', due=77.0, attempts=1, first_attempt_at=2.0),
        deadline=soon(),
    )
    (again,) = await due(store)
    assert (again.due, again.attempts, again.first_attempt_at) == (77.0, 1, 2.0)


async def test_everything_acknowledged_is_there_after_a_restart_and_ids_are_not_reused(tmp_path: Path) -> None:
    keys: set[MessageKey] = set()
    for round_ in range(3):
        async with running(tmp_path) as store:
            for number in range(5):
                work = accept(store, f"r{round_}x{number}@y.test")
                assert work.message.key not in keys
                keys.add(work.message.key)
                await store.commit(work, deadline=soon())
    async with running(tmp_path) as store:
        assert len(await due(store)) == 15
        seqs = [entry.seq for entry in await store.tail(store.shards()[0], after=0, limit=100)]
        assert seqs == list(range(1, 16))


async def test_an_attempt_whose_dot_may_have_left_is_in_doubt_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        await store.commit(accept(store, "b@y.test"), deadline=soon())
        (pending,) = await due(store)
        await store.commit(DotSent(pending, 1), deadline=soon())
    before = CLOCK.now()
    async with running(tmp_path) as store:
        (again,) = await due(store)
        assert again.in_doubt
        assert again.attempts == 1
        assert again.due >= before + 60.0


async def test_a_voided_message_is_invisible_and_its_events_are_empty(store: SqliteStore) -> None:
    work = accept(store, "b@y.test", "c@y.test", idem=b"k" * 32)
    await store.commit(work, deadline=soon())
    await store.commit(Void(work.message.key, 2), deadline=soon())
    assert await due(store) == []
    assert await store.message(work.message.key) is None
    assert await log(store) == [b"", b""]
    assert await store.idempotent(b"k" * 32) is None


async def test_last_words_void_a_message_before_anything_is_served(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        work = accept(store, "b@y.test")
        await store.commit(work, deadline=soon())
        store._writer.in_doubt.append(work.message.key)
        words = store.last_words()
    async with running(tmp_path, last_words=words) as store:
        assert await due(store) == []
        assert await store.message(work.message.key) is None


async def test_a_deadline_that_is_over_stores_nothing(store: SqliteStore) -> None:
    work = accept(store, "b@y.test")
    with pytest.raises(StoreBusy):
        await store.commit(work, deadline=CLOCK.monotonic() - 1.0)
    assert await store.message(work.message.key) is None


async def test_the_idempotency_record_comes_with_its_message(store: SqliteStore) -> None:
    work = accept(store, "b@y.test", idem=b"k" * 32)
    await store.commit(work, deadline=soon())
    assert await store.idempotent(b"k" * 32) == work.idempotency
    assert await store.idempotent(b"z" * 32) is None


async def test_a_note_is_in_the_log_and_nowhere_else(store: SqliteStore) -> None:
    await store.commit(Note(b'{"n":1}'), deadline=soon())
    assert await log(store) == [b'{"n":1}']
    assert await due(store) == []


async def test_many_at_once_are_all_durable_with_a_gapless_log(store: SqliteStore) -> None:
    await asyncio.gather(*(store.commit(accept(store, f"r{n}@y.test"), deadline=soon()) for n in range(500)))
    assert len(await due(store, limit=1000)) == 500
    entries = await store.tail(store.shards()[0], after=0, limit=1000)
    assert [entry.seq for entry in entries] == list(range(1, 501))
    assert store.head(store.shards()[0]) == 500


async def test_two_workers_share_the_node_and_read_each_other(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(tmp_path, slot=0, slots=2))
        second = await stack.enter_async_context(running(tmp_path, slot=1, slots=2))
        work = accept(first, "b@y.test", idem=b"k" * 32)
        await first.commit(work, deadline=soon())
        assert set(first.owned()).isdisjoint(second.owned())
        assert await second.message(work.message.key) == work.message
        assert await second.body(work.message.key) == b"body"
        assert await second.idempotent(b"k" * 32) == work.idempotency
        assert await due(second) == []


async def test_a_successor_accepts_while_its_predecessor_still_holds_its_shard(tmp_path: Path) -> None:
    async with running(tmp_path) as old, running(tmp_path) as new:
        assert set(old.owned()).isdisjoint(new.owned())
        work = accept(new, "b@y.test")
        await new.commit(work, deadline=soon())
        assert await old.message(work.message.key) == work.message


@pytest.mark.parametrize("octets", [0, 10, 256 * 1024, 256 * 1024 + 1, 3_000_000])
async def test_a_spooled_body_comes_back_octet_for_octet(store: SqliteStore, octets: int) -> None:
    body = bytes(range(256)) * (octets // 256) + b"x" * (octets % 256)
    spool = store.spool()
    for at in range(0, len(body), 100_000):
        spool.write(memoryview(body)[at : at + 100_000])
    assert spool.length == octets
    finished = await spool.finish()
    assert isinstance(finished, bytes) == (octets <= 256 * 1024)
    work = accept(store, "b@y.test", body=finished)
    await store.commit(work, deadline=soon())
    assert await store.body(work.message.key) == body


async def test_a_discarded_spool_leaves_no_file(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        spool = store.spool()
        spool.write(b"x" * 600_000)
        await spool.finish()
        spool.discard()
    assert list(tmp_path.rglob("*.body")) == []  # noqa: ASYNC240  # nothing else runs


async def test_a_corrupt_tail_of_the_newest_segment_is_cut_off_and_said(tmp_path: Path) -> None:
    async with running(tmp_path) as store:
        work = accept(store, "b@y.test", body=b"kept")
        await store.commit(work, deadline=soon())
    (segment,) = tmp_path.rglob("*.seg")  # noqa: ASYNC240  # nothing else runs
    with segment.open("ab") as file:
        file.write(b"torn")
    store = SqliteStore(str(tmp_path), slot=0, slots=1, disk=LocalDisk(str(tmp_path)), lanes=ThreadLanes(), clock=CLOCK)
    reports = await store.open()
    assert any("Cut 4 octets" in repair for report in reports for repair in report.repairs)
    assert await store.body(work.message.key) == b"kept"
    await store.close()
