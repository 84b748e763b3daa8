"""What a caller is told, and what is true of it: deadlines, doubt, full disks, failed syncs, and a crash at every step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.domain.message import Accept, DotSent, MessageKey, Note, Pending, RecipientState, Settle
from pigeonry.ports.queue_store import DueMark
from pigeonry.stores.sqlite.limits import Limits
from pigeonry.stores.sqlite.queue_store import SqliteStore
from pigeonry.testing.dice import SeededDice
from simulation.faulty_disk import FaultyDisk
from support.day_files import LIMITS, InlineLanes, SetClock, letter, serving

SOON = 1e12
START = DueMark(float("-inf"))


async def due(store: SqliteStore) -> list[Pending]:
    return list(await store.due(after=START, until=SOON, limit=1000))


async def log(store: SqliteStore) -> list[tuple[int, bytes]]:
    return [(entry.seq, entry.octets) for entry in await store.tail(0, after=0, limit=1000)]


def delivered(pending: Pending) -> Settle:
    event = f'{{"delivered":"{pending.address}"}}'.encode()
    return Settle(pending, RecipientState.DELIVERED, event, attempts=pending.attempts + 1)


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(SeededDice(1))


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def lanes() -> InlineLanes:
    return InlineLanes()


@pytest.fixture
async def store(disk: FaultyDisk, clock: SetClock, lanes: InlineLanes) -> AsyncIterator[SqliteStore]:
    async with serving(disk, clock, lanes=lanes) as opened:
        yield opened


async def test_what_comes_while_a_group_is_written_goes_together_into_the_next(
    store: SqliteStore, disk: FaultyDisk, lanes: InlineLanes
) -> None:
    lanes.gate.clear()
    first = asyncio.ensure_future(store.commit(letter(store, "b@y.test"), deadline=SOON))
    await turns()
    others = [asyncio.ensure_future(store.commit(letter(store, f"{n}@y.test"), deadline=SOON)) for n in range(50)]
    await turns()
    syncs = 0
    sync = disk.sync

    def counted(file: object) -> None:
        nonlocal syncs
        syncs += 1
        sync(file)  # type: ignore[arg-type]

    disk.sync = counted  # type: ignore[method-assign, assignment]
    lanes.gate.set()
    await asyncio.gather(first, *others)
    assert syncs == 4  # twice a segment, twice a WAL


async def test_who_is_late_while_waiting_is_told_so_and_nothing_is_stored(
    store: SqliteStore, clock: SetClock, lanes: InlineLanes
) -> None:
    lanes.gate.clear()
    first = asyncio.ensure_future(store.commit(letter(store, "b@y.test"), deadline=SOON))
    await turns()
    late = letter(store, "late@y.test")
    second = asyncio.ensure_future(store.commit(late, deadline=clock.time + 5.0))
    await turns()
    clock.time += 5.0
    with pytest.raises(StoreBusy):
        await second
    lanes.gate.set()
    await first
    await store.commit(Note(b"{}"), deadline=SOON)
    assert [p.address for p in await due(store)] == ["b@y.test"]
    assert await store.message(late.message.key) is None


async def test_who_is_late_while_it_is_written_is_in_doubt_and_voided_before_anyone_sees_it(
    store: SqliteStore, clock: SetClock, lanes: InlineLanes
) -> None:
    await store.commit(letter(store, "before@y.test"), deadline=SOON)
    lanes.gate.clear()
    doubtful = letter(store, "doubt@y.test", scope=b"s" * 32)
    task = asyncio.ensure_future(store.commit(doubtful, deadline=clock.time + 5.0))
    await turns()
    clock.time += 5.0
    with pytest.raises(StoreInDoubt):
        await task
    assert store.head(0) == 1
    lanes.gate.set()
    seen: set[str] = set()
    told: set[bytes] = set()
    heads = []
    for _ in range(40):
        await asyncio.sleep(0)
        heads.append(store.head(0))
        seen |= {p.address for p in store._questions.due(START, SOON, 10)}
        told |= {entry.octets for entry in store._questions.tail(0, 0, 10)}
    assert seen == {"before@y.test"}
    assert told <= {b'{"accepted":"before@y.test"}', b""}
    assert sorted(set(heads)) in ([1, 2], [2])
    assert await log(store) == [(1, b'{"accepted":"before@y.test"}'), (2, b"")]
    assert await store.message(doubtful.message.key) is None
    assert await store.idempotent(b"s" * 32) is None
    assert store.last_words() == b"\x90"  # nothing is in doubt any more


async def test_a_caller_that_is_cancelled_while_it_is_written_has_its_message_voided(
    store: SqliteStore, lanes: InlineLanes
) -> None:
    lanes.gate.clear()
    task = asyncio.ensure_future(store.commit(letter(store, "gone@y.test"), deadline=SOON))
    await turns()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    lanes.gate.set()
    await store.commit(letter(store, "here@y.test"), deadline=SOON)
    await turns()
    assert [p.address for p in await due(store)] == ["here@y.test"]
    assert [octets for _, octets in await log(store)] == [b"", b'{"accepted":"here@y.test"}']


async def test_a_void_that_finds_no_room_waits_for_it_and_nothing_is_seen_before(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock, lanes: InlineLanes
) -> None:
    lanes.gate.clear()
    doubtful = letter(store, "doubt@y.test")
    task = asyncio.ensure_future(store.commit(doubtful, deadline=clock.time + 5.0))
    await turns()
    clock.time += 5.0
    disk.is_full = lambda: store.last_words() != b"\x90"
    with pytest.raises(StoreInDoubt):
        await task
    lanes.gate.set()
    await turns()
    assert store.last_words() != b"\x90"
    assert await due(store) == []
    assert await log(store) == []
    disk.calm()
    await turns()
    assert store.last_words() == b"\x90"
    assert await due(store) == []
    assert await log(store) == [(1, b"")]


async def test_a_body_file_is_not_discarded_while_its_message_may_be_stored(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock, lanes: InlineLanes
) -> None:
    """A crash before the void would leave a message that is ours to deliver, without its octets."""

    def files() -> list[str]:
        return [name for name in disk.list("/q/shards/0000/segments") if name.endswith(".body")]

    spool = store.spool()
    spool.write(b"x" * 300_000)
    work = letter(store, "doubt@y.test", body=await spool.finish())
    lanes.gate.clear()
    doubtful = asyncio.ensure_future(store.commit(work, deadline=clock.time + 5.0))
    await turns()
    clock.time += 5.0
    with pytest.raises(StoreInDoubt):
        await doubtful
    spool.discard()
    lanes.gate.set()
    await turns()
    assert await due(store) == []
    assert len(files()) == 1

    spool = store.spool()
    spool.write(b"x" * 300_000)
    refused = letter(store, "full@y.test", body=await spool.finish())
    assert len(files()) == 2
    disk.is_full = lambda: True
    with pytest.raises(StoreBusy):
        await store.commit(refused, deadline=SOON)
    spool.discard()
    disk.calm()
    await turns()
    assert len(files()) == 1


async def test_a_repeated_settle_changes_nothing(store: SqliteStore, clock: SetClock) -> None:
    await store.commit(letter(store, "b@y.test"), deadline=SOON)
    (pending,) = await due(store)
    retry = Settle(pending, RecipientState.PENDING, b'{"t":1}', due=clock.time + 9.0, attempts=1)
    await store.commit(retry, deadline=SOON)
    await store.commit(retry, deadline=SOON)
    assert [octets for _, octets in await log(store)] == [b'{"accepted":"b@y.test"}', b'{"t":1}']
    assert [p.attempts for p in await due(store)] == [1]


async def test_asking_for_a_retry_does_not_forget_that_an_attempt_may_have_delivered(
    disk: FaultyDisk, clock: SetClock
) -> None:
    async with serving(disk, clock) as store:
        await store.commit(letter(store, "b@y.test"), deadline=SOON)
        (pending,) = await due(store)
        await store.commit(DotSent(pending, 1), deadline=SOON)
        await store.commit(Settle(pending, RecipientState.PENDING, b"", due=clock.time), deadline=SOON)
    async with serving(disk, clock) as store:
        assert [(p.in_doubt, p.attempts) for p in await due(store)] == [(True, 1)]


async def test_a_full_disk_refuses_and_sheds_and_is_tried_again(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    await store.commit(letter(store, "b@y.test"), deadline=SOON)
    disk.is_full = lambda: True
    with pytest.raises(StoreBusy):
        await store.commit(letter(store, "c@y.test", body=b"x" * 20_000), deadline=SOON)
    assert store.reason_to_shed() == "the disk is full"
    with pytest.raises(StoreBusy):
        await store.commit(letter(store, "d@y.test"), deadline=SOON)
    disk.calm()
    clock.time += LIMITS.full_retry_s
    assert store.reason_to_shed() is None
    work = letter(store, "e@y.test", body=b"y")
    await store.commit(work, deadline=SOON)
    assert await store.body(work.message.key) == b"y"
    assert await log(store) == [(1, b'{"accepted":"b@y.test"}'), (2, b'{"accepted":"e@y.test"}')]


@pytest.mark.parametrize("failing", [1, 2], ids=["segment", "wal"])
async def test_after_a_failed_sync_nothing_is_believed_and_the_successor_voids_what_was_in_doubt(
    disk: FaultyDisk, clock: SetClock, failing: int
) -> None:
    async with serving(disk, clock) as store:
        await store.commit(letter(store, "kept@y.test"), deadline=SOON)
        disk.syncs_until_failure = failing
        with pytest.raises(StoreInDoubt):
            await store.commit(letter(store, "doubt@y.test"), deadline=SOON)
        assert store.broken.is_set()
        assert store.reason_to_shed()
        with pytest.raises(StoreBusy):
            await store.commit(letter(store, "after@y.test"), deadline=SOON)
        words = store.last_words()
        disk.go_down(power=False)
    async with serving(disk.come_up(), clock, last_words=words) as store:
        assert [p.address for p in await due(store)] == ["kept@y.test"]
        assert b'{"accepted":"doubt@y.test"}' not in [octets for _, octets in await log(store)]


async def test_a_backlog_over_its_bound_is_refused(disk: FaultyDisk, clock: SetClock) -> None:
    lanes = InlineLanes()
    limits = Limits(backlog_transitions_max=4, backlog_octets_max=100, free_octets_min=0)
    async with serving(disk, clock, limits=limits, lanes=lanes) as store:
        lanes.gate.clear()
        tasks = [asyncio.ensure_future(store.commit(letter(store, "f@y.test", body=b"x" * 10), deadline=SOON))]
        await turns()
        assert store.reason_to_shed() is None
        tasks += [
            asyncio.ensure_future(store.commit(letter(store, f"{n}@y.test", body=b"x" * 30), deadline=SOON))
            for n in range(4)
        ]
        await turns()
        assert store.reason_to_shed() is not None
        with pytest.raises(StoreBusy):
            await store.commit(letter(store, "over@y.test"), deadline=SOON)
        lanes.gate.set()
        await asyncio.gather(*tasks)
        assert store.reason_to_shed() is None


async def test_a_group_takes_no_more_batches_than_the_loop_can_bear(disk: FaultyDisk, clock: SetClock) -> None:
    limits = Limits(group_recipients_max=5, free_octets_min=0)
    async with serving(disk, clock, limits=limits) as store:
        batches = [letter(store, *(f"{n}x{each}@y.test" for each in range(3))) for n in range(6)]
        commits = [store.commit(batch, deadline=SOON) for batch in batches]
        groups: list[int] = []
        write_group = store._writer._write_group

        async def counted() -> bool:
            before = len(store._writer._backlog)
            held_up = await write_group()
            groups.append(before - len(store._writer._backlog))
            return held_up

        store._writer._write_group = counted  # type: ignore[method-assign]
        for commit in commits:
            await commit
        assert groups == [2, 2, 2]
        assert len(await due(store)) == 18


class _Down:
    """Takes the disk down at the n-th write or sync."""

    def __init__(self, at: int, *, power: bool) -> None:
        self.left, self.power = at, power
        self.disk: FaultyDisk | None = None
        self.happened = False

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0 and self.disk is not None:
            self.happened = True
            self.disk.go_down(power=self.power)


class _Client:
    """Hands in letters, delivers them, and writes down what it was promised before the crash."""

    def __init__(self, store: SqliteStore, down: _Down) -> None:
        self.store, self.down = store, down
        self.keys: list[MessageKey] = []
        self.accepted: set[str] = set()
        self.dots: set[str] = set()
        self.settled: set[str] = set()
        self.begun: set[str] = set()

    async def run(self) -> None:
        for name in ("one", "two", "three"):
            work = letter(self.store, f"{name}@y.test", f"{name}2@y.test", body=name.encode() * 100)
            if not self.down.happened:
                self.keys.append(work.message.key)
            if await self._tell(work):
                self.accepted |= {f"{name}@y.test", f"{name}2@y.test"}
        for pending in (await due(self.store))[:4]:
            if await self._tell(DotSent(pending, 1)):
                self.dots.add(pending.address)
            self.begun.add(pending.address)
            if pending.address != "two2@y.test" and await self._tell(delivered(pending)):
                self.settled.add(pending.address)

    async def _tell(self, transition: Accept | DotSent | Settle) -> bool:
        await self.store.commit(transition, deadline=SOON)
        return not self.down.happened


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power-cut"])
async def test_a_crash_at_any_step_keeps_every_promise(power: bool) -> None:
    at = 0
    happened = True
    while happened:
        at += 1
        down = _Down(at, power=power)
        disk, clock = FaultyDisk(SeededDice(at), step=down), SetClock()
        down.disk = disk
        async with serving(disk, clock) as store:
            client = _Client(store, down)
            await client.run()
            happened = down.happened
            if not happened:
                break
        async with serving(disk.come_up(), clock) as store:
            await _check(store, client, at)
    assert at > 30


async def _check(store: SqliteStore, client: _Client, at: int) -> None:
    waiting = {pending.address: pending for pending in await due(store)}
    entries = await log(store)
    assert [seq for seq, _ in entries] == list(range(1, len(entries) + 1)), at
    events = [octets.decode() for _, octets in entries]
    accepted = {event.split('"')[3] for event in events if "accepted" in event}
    ended = {event.split('"')[3] for event in events if "delivered" in event}
    assert len(events) == len(set(events)), at
    assert client.accepted <= accepted, at
    assert client.settled <= ended, at
    assert set(waiting) == accepted - ended, at  # state and event agree
    for address in client.dots - ended:
        assert waiting[address].in_doubt, at
    for address, pending in waiting.items():
        assert address in client.begun or not pending.in_doubt, at
    for key in client.keys:
        message = await store.message(key)
        if message is not None:
            assert (await store.body(key)) in {b"one" * 100, b"two" * 100, b"three" * 100}, at
    new = letter(store, "new@y.test")
    assert not any(key.serial <= new.message.key.serial < key.serial + 2 for key in client.keys), at
    await store.commit(new, deadline=SOON)
    assert (await log(store))[-1] == (len(entries) + 1, b'{"accepted":"new@y.test"}'), at
