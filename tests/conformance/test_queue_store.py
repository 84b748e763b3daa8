"""Every queue store is held to ``ports.queue_store.QueueStore``."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.domain.errors import BadRequest, StoreBusy, StoreInDoubt
from pigeonry.domain.message import DotSent, Note, RecipientState, Settle, Transition, Void
from pigeonry.ports.queue_store import DueMark, Later
from support.queue_stores import IN_DOUBT_DELAY_S, START, Node, Store, accept, due, log, soon, turns

KILLABLE = pytest.mark.parametrize("made", ["memory", "sqlite-one-connection", "cassandra"], indirect=True)
SHARED = pytest.mark.parametrize("made", ["memory", "sqlite", "cassandra"], indirect=True)


async def test_what_was_accepted_is_due_readable_and_in_the_log(node: Node, store: Store) -> None:
    work = accept(node, store, "b@y.test", "c@y.test", body=b"Subject: x\r\n\r\nhello")
    await store.commit(work, deadline=soon(node))
    waiting = await due(store)
    assert [(p.address, p.serial - work.message.key.serial, p.attempts) for p in waiting] == [
        ("b@y.test", 0, 0),
        ("c@y.test", 1, 0),
    ]
    assert {(p.message, p.day, p.tenant, p.in_doubt) for p in waiting} == {
        (work.message.key, work.message.key.day, "acct", False)
    }
    assert {(p.domain, p.pool, p.expires_at) for p in waiting} == {("x.test", "dedicated", 1e12)}
    assert await store.message(work.message.key) == work.message
    assert await store.body(work.message.key) == b"Subject: x\r\n\r\nhello"
    views = await store.recipients(work.message.key)
    assert [view.pending for view in views] == waiting
    assert {(view.state, view.variables, view.notify, view.original) for view in views} == {
        (RecipientState.PENDING, b'{"n":1}', "FAILURE", "rfc822;o@x.test")
    }
    assert await store.recipient(waiting[1]) == views[1]
    assert await log(store) == list(work.events)


async def test_keys_are_given_out_once_and_name_an_owned_shard(store: Store) -> None:
    first, second = store.allocate(3), store.allocate(1)
    assert first.shard in store.owned()
    assert second.shard != first.shard or second.serial >= first.serial + 3


async def test_due_pages_in_order_of_time_then_shard_then_serial(node: Node, store: Store) -> None:
    for number in range(7):
        await store.commit(accept(node, store, f"r{number}@y.test", due=10.0 - number % 3), deadline=soon(node))
    mark, seen = START, []
    while page := await due(store, after=mark, limit=2):
        assert len(page) <= 2
        seen += page
        mark = DueMark(page[-1].due, page[-1].message.shard, page[-1].serial)
    assert [(p.due, p.serial) for p in seen] == sorted((p.due, p.serial) for p in await due(store))
    assert len(seen) == 7
    assert [p.due for p in await due(store, until=8.0)] == [8.0, 8.0]


async def test_a_settled_recipient_is_never_due_again_and_its_event_is_beside_it(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    await store.commit(DotSent(pending, 1), deadline=soon(node))
    await store.commit(Settle(pending, RecipientState.DELIVERED, b'{"d":1}', attempts=1), deadline=soon(node))
    assert await due(store) == []
    view = await store.recipient(pending)
    assert view is not None
    assert (view.state, view.pending.attempts) == (RecipientState.DELIVERED, 1)
    assert (await log(store))[-1] == b'{"d":1}'


async def test_the_first_final_event_stands(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    await store.commit(Settle(pending, RecipientState.DELIVERED, b'{"d":1}', attempts=1), deadline=soon(node))
    await store.commit(Settle(pending, RecipientState.FAILED, b'{"f":1}', attempts=1), deadline=soon(node))
    again = Settle(pending, RecipientState.PENDING, b'{"t":1}', due=9.0, attempts=1)
    await store.commit(again, deadline=soon(node))
    assert await log(store) == [b'{"accepted":"b@y.test"}', b'{"d":1}']
    assert await due(store) == []


async def test_a_retry_is_due_later_with_its_attempts_counted(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    retry = Settle(pending, RecipientState.PENDING, b'{"t":1}', due=77.0, attempts=1, first_attempt_at=2.0)
    await store.commit(retry, deadline=soon(node))
    (again,) = await due(store)
    assert (again.due, again.attempts, again.first_attempt_at, again.in_doubt) == (77.0, 1, 2.0, False)
    assert await due(store, until=76.0) == []


async def test_a_repeated_retry_changes_nothing(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    for when in (77.0, 88.0):
        retry = Settle(pending, RecipientState.PENDING, b'{"t":1}', due=when, attempts=1)
        await store.commit(retry, deadline=soon(node))
    assert await log(store) == [b'{"accepted":"b@y.test"}', b'{"t":1}']
    assert [(p.due, p.attempts) for p in await due(store)] == [(77.0, 1)]


async def test_a_change_without_an_event_leaves_none(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    await store.commit(Settle(pending, RecipientState.PENDING, b"", due=77.0), deadline=soon(node))
    assert [p.due for p in await due(store)] == [77.0]
    assert await log(store) == [b'{"accepted":"b@y.test"}']


async def test_transitions_that_are_handed_over_in_order_take_effect_in_order(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test", "c@y.test"), deadline=soon(node))
    one, two = await due(store)
    handed = [
        DotSent(one, 1),
        Settle(one, RecipientState.PENDING, b"1", due=5.0, attempts=1),
        Settle(two, RecipientState.FAILED, b"2", attempts=1),
        Note(b"3"),
        Settle(two, RecipientState.DELIVERED, b"4", attempts=1),
    ]
    await asyncio.gather(*[store.commit(each, deadline=soon(node)) for each in handed])
    assert (await log(store))[2:] == [b"1", b"2", b"3"]
    assert [(p.address, p.due) for p in await due(store)] == [("b@y.test", 5.0)]


async def test_who_is_told_that_it_cannot_be_made_may_commit_at_once(node: Node, store: Store) -> None:
    refused: list[Exception | None] = []

    def make() -> Transition:
        raise BadRequest("It cannot be made.")

    def told(error: Exception | None) -> None:
        refused.append(error)
        store.commit(Note(b"1"), deadline=soon(node))

    store.commit(Later(make), deadline=soon(node)).then(told)
    async with asyncio.timeout(10.0):  # a writer that ended would tell nobody anything
        await store.commit(Note(b"0"), deadline=soon(node))
        await store.commit(Note(b"2"), deadline=soon(node))
    assert [type(error) for error in refused] == [BadRequest]
    assert sorted(await log(store)) == [b"0", b"1", b"2"]


async def test_everything_acknowledged_is_there_after_a_restart_and_ids_are_not_reused(node: Node) -> None:
    serials: set[tuple[int, int]] = set()
    for round_ in range(3):
        store = await node.open()
        for number in range(5):
            work = accept(node, store, f"r{round_}x{number}@y.test")
            place = (work.message.key.shard, work.message.key.serial)
            assert place not in serials
            serials.add(place)
            await store.commit(work, deadline=soon(node))
        await node.close(store)
    store = await node.open()
    assert len(await due(store)) == 15


@KILLABLE
async def test_a_crash_takes_what_was_not_durable_and_nothing_else(node: Node, store: Store) -> None:
    kept = accept(node, store, "kept@y.test", scope=b"k" * 32)
    await store.commit(kept, deadline=soon(node))
    never = store.allocate(4)
    node.gate.clear()
    lost = accept(node, store, "lost@y.test", scope=b"l" * 32)
    waiting = asyncio.ensure_future(store.commit(lost, deadline=soon(node)))
    await turns()
    await node.crash(store)
    await asyncio.gather(waiting, return_exceptions=True)
    store = await node.open()
    assert [p.address for p in await due(store)] == ["kept@y.test"]
    assert await store.message(lost.message.key) is None
    assert await store.idempotent(b"k" * 32) == kept.idempotency
    assert await store.idempotent(b"l" * 32) is None
    assert await log(store) == list(kept.events)
    new = store.allocate(1)
    assert new.shard != never.shard or new.serial >= never.serial + 4


async def test_an_attempt_whose_dot_may_have_left_is_in_doubt_after_a_restart(node: Node) -> None:
    store = await node.open()
    await store.commit(accept(node, store, "b@y.test", "never@y.test", "settled@y.test"), deadline=soon(node))
    pending, _, settled = await due(store)
    for each in (pending, settled):
        await store.commit(DotSent(each, 1), deadline=soon(node))
    await store.commit(Settle(settled, RecipientState.PENDING, b"{}", due=3.0, attempts=1), deadline=soon(node))
    await node.close(store)
    before = node.clock.now()
    store = await node.open()
    waiting = {p.address: p for p in await due(store)}
    again = waiting["b@y.test"]
    assert (again.in_doubt, again.attempts) == (True, 1)
    assert again.due >= before + IN_DOUBT_DELAY_S
    assert again.first_attempt_at >= before
    assert not waiting["never@y.test"].in_doubt
    assert (waiting["settled@y.test"].in_doubt, waiting["settled@y.test"].attempts) == (False, 1)


async def test_who_is_in_doubt_is_counted_once_however_often_the_store_is_opened(node: Node) -> None:
    store = await node.open()
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    await store.commit(DotSent(pending, 1), deadline=soon(node))
    for _ in range(2):
        await node.close(store)
        store = await node.open()
    assert [(p.in_doubt, p.attempts) for p in await due(store)] == [(True, 1)]


async def test_asking_for_a_retry_does_not_forget_that_an_attempt_may_have_delivered(node: Node) -> None:
    store = await node.open()
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    await store.commit(DotSent(pending, 1), deadline=soon(node))
    await store.commit(Settle(pending, RecipientState.PENDING, b"", due=3.0), deadline=soon(node))
    await node.close(store)
    store = await node.open()
    assert [(p.in_doubt, p.attempts) for p in await due(store)] == [(True, 1)]


async def test_a_voided_message_is_invisible_and_its_idempotency_record_gone(node: Node, store: Store) -> None:
    work = accept(node, store, "b@y.test", "c@y.test", scope=b"k" * 32)
    await store.commit(work, deadline=soon(node))
    await store.commit(Void(work.message.key, 2), deadline=soon(node))
    assert await due(store) == []
    assert await store.message(work.message.key) is None
    assert await store.body(work.message.key) is None
    assert await store.recipients(work.message.key) == []
    assert await store.idempotent(b"k" * 32) is None


async def test_a_deadline_that_is_over_stores_nothing(node: Node, store: Store) -> None:
    work = accept(node, store, "b@y.test")
    with pytest.raises(StoreBusy):
        await store.commit(work, deadline=node.clock.monotonic() - 1.0)
    await store.commit(Note(b"{}"), deadline=soon(node))
    assert await store.message(work.message.key) is None
    assert await log(store) == [b"{}"]


async def test_who_is_late_while_waiting_is_told_so_and_nothing_is_stored(node: Node, store: Store) -> None:
    node.gate.clear()
    first = asyncio.ensure_future(store.commit(accept(node, store, "b@y.test"), deadline=soon(node)))
    await turns()
    late = accept(node, store, "late@y.test")
    second = asyncio.ensure_future(store.commit(late, deadline=node.clock.monotonic() + 5.0))
    await turns()
    node.clock.time += 5.0
    with pytest.raises(StoreBusy):
        await second
    node.gate.set()
    await first
    await store.commit(Note(b"{}"), deadline=soon(node))
    assert [p.address for p in await due(store)] == ["b@y.test"]
    assert await store.message(late.message.key) is None


async def test_who_is_late_while_it_is_written_is_in_doubt_and_voided_before_it_can_be_seen(
    node: Node, store: Store
) -> None:
    await store.commit(accept(node, store, "before@y.test"), deadline=soon(node))
    node.gate.clear()
    doubtful = accept(node, store, "doubt@y.test", scope=b"s" * 32)
    task = asyncio.ensure_future(store.commit(doubtful, deadline=node.clock.monotonic() + 5.0))
    await turns()
    node.clock.time += 5.0
    with pytest.raises(StoreInDoubt):
        await task
    assert store.head(doubtful.message.key.shard) == 1
    node.gate.set()
    await store.commit(Note(b"{}"), deadline=soon(node))
    await store.commit(Note(b"{}"), deadline=soon(node))  # the void is in this one's group at the latest
    assert [p.address for p in await due(store)] == ["before@y.test"]
    assert await store.message(doubtful.message.key) is None
    assert await store.idempotent(b"s" * 32) is None
    assert [octets for octets in await log(store) if octets not in (b"", b"{}")] == [b'{"accepted":"before@y.test"}']


async def test_a_caller_that_is_cancelled_while_it_is_written_has_its_message_voided(node: Node, store: Store) -> None:
    node.gate.clear()
    task = asyncio.ensure_future(store.commit(accept(node, store, "gone@y.test"), deadline=soon(node)))
    await turns()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    node.gate.set()
    await store.commit(accept(node, store, "here@y.test"), deadline=soon(node))
    await store.commit(Note(b"{}"), deadline=soon(node))
    assert [p.address for p in await due(store)] == ["here@y.test"]
    assert b'{"accepted":"gone@y.test"}' not in await log(store)


async def test_a_caller_that_is_cancelled_while_it_waits_leaves_nothing(node: Node, store: Store) -> None:
    node.gate.clear()
    first = asyncio.ensure_future(store.commit(Note(b"1"), deadline=soon(node)))
    await turns()
    task = asyncio.ensure_future(store.commit(accept(node, store, "gone@y.test"), deadline=soon(node)))
    await turns()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    node.gate.set()
    await first
    await store.commit(Note(b"2"), deadline=soon(node))
    assert await log(store) == [b"1", b"2"]


async def test_nothing_is_seen_before_it_is_durable(node: Node, store: Store) -> None:
    node.gate.clear()
    work = accept(node, store, "b@y.test")
    task = asyncio.ensure_future(store.commit(work, deadline=soon(node)))
    await turns()
    assert not task.done()
    assert store.shards() == []
    node.gate.set()
    await task
    assert [p.address for p in await due(store)] == ["b@y.test"]


async def test_the_idempotency_record_comes_with_its_message_and_ends_in_time(node: Node, store: Store) -> None:
    work = accept(node, store, "b@y.test", scope=b"k" * 32)
    await store.commit(work, deadline=soon(node))
    assert await store.idempotent(b"k" * 32) == work.idempotency
    assert await store.idempotent(b"z" * 32) is None
    node.clock.time += 61.0
    assert await store.idempotent(b"k" * 32) is None


async def test_what_another_shard_owns_is_refused(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    free = next(number for number in range(17) if number not in store.owned())
    key = type(pending.message)(free, pending.message.day, pending.message.serial)
    with pytest.raises(StoreBusy):
        await store.commit(Void(key, 1), deadline=soon(node))
    assert await due(store) == [pending]


async def test_a_message_that_nobody_accepted_is_none(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    unknown = store.allocate(1)
    assert await store.message(unknown) is None
    assert await store.body(unknown) is None
    assert await store.recipients(unknown) == []


async def test_a_store_that_is_closed_refuses_and_sheds(node: Node, store: Store) -> None:
    assert store.reason_to_shed() is None
    await node.close(store)
    assert store.reason_to_shed() is not None
    with pytest.raises(StoreBusy):
        await store.commit(Note(b"{}"), deadline=soon(node))


@SHARED
async def test_two_workers_share_the_node_and_read_each_other(node: Node) -> None:
    first, second = await node.open(slot=0, slots=2), await node.open(slot=1, slots=2)
    work = accept(node, first, "b@y.test", scope=b"k" * 32)
    await first.commit(work, deadline=soon(node))
    assert set(first.owned()).isdisjoint(second.owned())
    assert await second.message(work.message.key) == work.message
    assert await second.body(work.message.key) == b"body"
    assert [view.pending.address for view in await second.recipients(work.message.key)] == ["b@y.test"]
    assert await second.idempotent(b"k" * 32) == work.idempotency
    assert await due(second) == []


@SHARED
async def test_another_number_of_workers_finds_all_that_waits_and_each_of_it_once(node: Node) -> None:
    sent: list[str] = []
    for slots in (3, 1, 4, 2):
        stores = [await node.open(slot=slot, slots=slots) for slot in range(slots)]
        found = [pending.address for store in stores for pending in await due(store)]
        assert sorted(found) == sorted(sent)
        for slot, store in enumerate(stores):
            sent.append(f"r{slot}of{slots}@y.test")
            await store.commit(accept(node, store, sent[-1]), deadline=soon(node))
        for store in stores:
            await node.close(store)


@SHARED
async def test_a_successor_accepts_while_its_predecessor_still_holds_its_shard(node: Node) -> None:
    old, new = await node.open(), await node.open()
    assert set(old.owned()).isdisjoint(new.owned())
    work = accept(node, new, "b@y.test")
    await new.commit(work, deadline=soon(node))
    assert await old.message(work.message.key) == work.message
