"""Days come, empty and go: carrying, finishing and retiring, and a crash at every step of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import DotSent, Pending, RecipientState, Settle
from pigeonry.ports.queue_store import DueMark
from pigeonry.stores.sqlite import rows
from pigeonry.stores.sqlite.queue_store import SqliteStore
from pigeonry.testing.dice import SeededDice
from simulation.faulty_disk import FaultyDisk
from support.day_files import DAY_S, LIMITS, MONDAY, SetClock, letter, serving

SOON = 1e12
START = DueMark(float("-inf"))


async def due(store: SqliteStore) -> list[Pending]:
    return list(await store.due(after=START, until=SOON, limit=1000))


async def log(store: SqliteStore) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while page := await store.tail(0, after=found[-1][0] if found else 0, limit=1000):
        found += [(entry.seq, entry.octets) for entry in page]
    return found


def delivered(pending: Pending) -> Settle:
    event = f'{{"delivered":"{pending.address}"}}'.encode()
    return Settle(pending, RecipientState.DELIVERED, event, attempts=pending.attempts + 1)


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(SeededDice(1))


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def store(disk: FaultyDisk, clock: SetClock) -> AsyncIterator[SqliteStore]:
    async with serving(disk, clock) as opened:
        yield opened


def balances(store: SqliteStore, disk: FaultyDisk) -> list[tuple[int, int]]:
    """Of each file, who waits in it and what is pending by its ledger."""
    files = store._shards[0].files.values()
    return [rows.ledger_page(file.open(disk), kept=0, audited=0)[:2] for file in files]


async def next_day(store: SqliteStore, clock: SetClock) -> None:
    clock.time += DAY_S
    await store._janitor.round()


def days(disk: FaultyDisk) -> list[str]:
    return [name for name in disk.list("/q/shards/0000") if name.endswith(".db")]


async def test_what_waits_when_its_day_is_old_goes_on_in_todays_file(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    work = letter(store, "full@y.test", "c@y.test", body=b"one")
    await store.commit(work, deadline=SOON)
    before = await due(store)
    retry = Settle(before[1], RecipientState.PENDING, b"{}", due=MONDAY + 7.25, attempts=1, first_attempt_at=MONDAY + 1)
    await store.commit(retry, deadline=SOON)
    before = await due(store)
    clock.time += DAY_S + LIMITS.carry_after_s
    await store._janitor.round()
    after = await due(store)
    assert [(p.serial, p.message, p.address, p.due, p.attempts, p.first_attempt_at) for p in after] == [
        (p.serial, p.message, p.address, p.due, p.attempts, p.first_attempt_at) for p in before
    ]
    assert [p.day for p in after] == [before[0].day + 1] * 2
    assert await store.message(work.message.key) == work.message
    assert await store.body(work.message.key) == b"one"
    views = await store.recipients(work.message.key)
    assert [(v.pending.day, v.state, v.variables, v.notify, v.original) for v in views] == [
        (after[0].day, RecipientState.PENDING, b'{"n":1}', "FAILURE", "rfc822;o@x.test"),
        (after[0].day, RecipientState.PENDING, b"", "", ""),
    ]
    view = await store.recipient(before[0])
    assert view is not None
    assert view.pending.day == after[0].day


async def test_each_file_balances_by_itself_whatever_is_carried_out_of_it(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    await store.commit(letter(store, "b@y.test", "c@y.test", "full@y.test"), deadline=SOON)
    await store.commit(letter(store, "d@y.test"), deadline=SOON)
    waiting = await due(store)
    await store.commit(delivered(waiting[0]), deadline=SOON)
    clock.time += DAY_S + LIMITS.carry_after_s
    await store._janitor.round()
    assert sorted(balances(store, disk)) == [(0, 0), (3, 3)]
    await store.commit(delivered(waiting[1]), deadline=SOON)
    await store.commit(delivered((await due(store))[0]), deadline=SOON)
    assert sorted(balances(store, disk)) == [(0, 0), (1, 1)]


async def test_a_file_of_a_release_that_kept_no_ledger_gets_one(disk: FaultyDisk, clock: SetClock) -> None:
    async with serving(disk, clock) as store:
        await store.commit(letter(store, "b@y.test", "c@y.test", "d@y.test"), deadline=SOON)
        await store.commit(delivered((await due(store))[0]), deadline=SOON)
        before = await store.ledger(0)
        (file,) = store._shards[0].files.values()
        file.open(disk).execute("DROP TABLE ledger")
    async with serving(disk, clock) as store:
        assert await store.ledger(0) == before
        assert before is not None
        assert [(row.accepted, row.delivered, row.failed) for row in before.rows] == [(3, 1, 0)]


async def test_a_large_body_is_carried_out_of_its_own_file(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    spool = store.spool()
    spool.write(b"x" * 300_000)
    work = letter(store, "b@y.test", body=await spool.finish())
    await store.commit(work, deadline=SOON)
    for _ in range(int(LIMITS.retention_s / DAY_S) + 2):
        await next_day(store, clock)
    assert await store.body(work.message.key) == b"x" * 300_000
    assert not [name for name in disk.list("/q/shards/0000/segments") if name.endswith(".body")]


async def test_who_still_names_the_old_day_is_led_after_the_recipient(store: SqliteStore, clock: SetClock) -> None:
    await store.commit(letter(store, "b@y.test"), deadline=SOON)
    (old,) = await due(store)
    clock.time += DAY_S + LIMITS.carry_after_s
    await store._janitor.round()
    await store.commit(DotSent(old, 1), deadline=SOON)
    await store.commit(delivered(old), deadline=SOON)
    assert await due(store) == []
    assert [octets for _, octets in await log(store)] == [b'{"accepted":"b@y.test"}', b'{"delivered":"b@y.test"}']
    (view,) = await store.recipients(old.message)
    assert view.state is RecipientState.DELIVERED


async def test_a_recipient_is_carried_day_after_day_and_found_when_its_first_day_is_gone(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    work = letter(store, "b@y.test", "c@y.test", body=b"one")
    await store.commit(work, deadline=SOON)
    old, other = await due(store)
    await store.commit(delivered(other), deadline=SOON)
    for _ in range(6):
        clock.time += DAY_S
        await store._janitor.round()
        clock.time += LIMITS.carry_after_s
        await store._janitor.round()
    assert "2024-10-04.db" not in days(disk)
    assert await store.body(work.message.key) == b"one"
    assert [view.pending.address for view in await store.recipients(work.message.key)] == ["b@y.test"]
    await store.commit(delivered(old), deadline=SOON)
    assert await due(store) == []
    assert (await log(store))[-1] == (4, b'{"delivered":"b@y.test"}')


async def test_an_attempt_that_may_have_delivered_is_not_carried_before_it_is_settled(
    store: SqliteStore, clock: SetClock
) -> None:
    await store.commit(letter(store, "b@y.test", "c@y.test"), deadline=SOON)
    flying, _ = await due(store)
    await store.commit(DotSent(flying, 1), deadline=SOON)
    clock.time += DAY_S + LIMITS.carry_after_s
    await store._janitor.round()
    first, second = await due(store)
    assert (first.day, second.day) == (flying.day, flying.day + 1)
    doubt = Settle(flying, RecipientState.PENDING, b"{}", due=clock.time, attempts=1, in_doubt=True)
    await store.commit(doubt, deadline=SOON)
    await store._janitor.round()
    assert [(p.day, p.in_doubt) for p in await due(store)] == [(flying.day + 1, False), (flying.day + 1, True)]


async def test_a_day_is_kept_while_something_waits_and_removed_with_its_bodies_after_its_retention(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    await store.commit(letter(store, "b@y.test"), deadline=SOON)
    spool = store.spool()
    spool.write(b"x" * 300_000)
    large = letter(store, "c@y.test", body=await spool.finish())
    await store.commit(large, deadline=SOON)
    for pending in await due(store):
        await store.commit(delivered(pending), deadline=SOON)
    clock.time += LIMITS.retention_s - 1.0
    await next_day(store, clock)
    await store.commit(letter(store, "d@y.test"), deadline=SOON)
    await store._janitor.round()
    assert len(days(disk)) == 2
    assert await store.body(large.message.key) == b"x" * 300_000
    clock.time += 1.0
    await store._janitor.round()
    assert days(disk) == ["2024-10-07.db", "2024-10-08.db"]
    assert len(disk.list("/q/shards/0000/segments")) == 1
    assert await store.message(large.message.key) is None
    assert await store.body(large.message.key) is None
    assert [octets for _, octets in await log(store)] == [b'{"accepted":"d@y.test"}']


async def test_numbers_are_not_given_out_again_when_the_day_that_had_the_highest_is_gone(
    disk: FaultyDisk, clock: SetClock
) -> None:
    async with serving(disk, clock) as store:
        await store.commit(letter(store, "b@y.test"), deadline=SOON)
        (pending,) = await due(store)
        await next_day(store, clock)
        await store.commit(letter(store, "c@y.test"), deadline=SOON)
        await store.commit(delivered(pending), deadline=SOON)
        assert store.head(0) == 3
        clock.time += LIMITS.retention_s + DAY_S
        await store._janitor.round()
    async with serving(disk, clock) as store:
        work = letter(store, "d@y.test")
        assert work.message.key.serial > pending.serial
        await store.commit(work, deadline=SOON)
        assert store.head(0) == 4


async def test_the_newest_file_of_a_shard_stays_however_old_it_is(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    await store.commit(letter(store, "b@y.test"), deadline=SOON)
    (pending,) = await due(store)
    await store.commit(delivered(pending), deadline=SOON)
    clock.time += 100 * DAY_S
    await store._janitor.round()
    assert len(days(disk)) == 1
    assert store.head(0) == 2


async def test_a_finished_day_leaves_its_wal_and_can_still_be_read_and_written(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    work = letter(store, "b@y.test")
    late = store.allocate(1)
    await store.commit(work, deadline=SOON)
    (pending,) = await due(store)
    await store.commit(delivered(pending), deadline=SOON)
    await next_day(store, clock)
    await store.commit(letter(store, "c@y.test"), deadline=SOON)
    clock.time += 1_000.0
    await store._janitor.round()
    assert disk.size("/q/shards/0000/2024-10-04.db-wal") <= 0
    assert disk.read("/q/shards/0000/2024-10-04.db", 18, 2) == b"\x01\x01"  # the header's words for "no WAL"
    assert await store.message(work.message.key) == work.message
    assert late.day == work.message.key.day
    assert await store.body(work.message.key) == b"body"


async def test_who_names_a_finished_day_is_refused_while_the_disk_is_full_and_harms_no_other(
    store: SqliteStore, disk: FaultyDisk, clock: SetClock
) -> None:
    await store.commit(letter(store, "old@y.test"), deadline=SOON)
    (old,) = await due(store)
    clock.time += DAY_S + LIMITS.carry_after_s
    await store._janitor.round()
    await store._janitor.round()
    await store.commit(letter(store, "new@y.test"), deadline=SOON)
    assert store._shards[0].files[old.day].connection is None
    disk.is_full = lambda: True
    with pytest.raises(StoreBusy):
        await store.commit(delivered(old), deadline=SOON)
    disk.calm()
    clock.time += LIMITS.full_retry_s
    await store.commit(letter(store, "next@y.test"), deadline=SOON)
    await store.commit(delivered(old), deadline=SOON)
    assert [pending.address for pending in await due(store)] == ["new@y.test", "next@y.test"]


@pytest.mark.parametrize("who", ["group", "janitor"])
async def test_a_failed_sync_at_the_beginning_of_a_day_breaks_the_store_and_loses_nothing(
    disk: FaultyDisk, clock: SetClock, who: str
) -> None:
    async with serving(disk, clock) as store:
        await store.commit(letter(store, "b@y.test"), deadline=SOON)
        clock.time += DAY_S
        disk.syncs_until_failure = 1
        if who == "group":
            with pytest.raises(StoreBusy):
                await store.commit(letter(store, "c@y.test"), deadline=SOON)
        else:
            await store._janitor.round()
        assert store.broken.is_set()
        disk.go_down(power=True)
    async with serving(disk.come_up(), clock) as store:
        await store.commit(letter(store, "d@y.test"), deadline=SOON)
        assert [pending.address for pending in await due(store)] == ["b@y.test", "d@y.test"]


async def test_carrying_waits_while_the_disk_has_no_room(store: SqliteStore, disk: FaultyDisk, clock: SetClock) -> None:
    await store.commit(letter(store, "b@y.test"), deadline=SOON)
    await next_day(store, clock)
    await store.commit(letter(store, "c@y.test"), deadline=SOON)
    clock.time += LIMITS.carry_after_s
    before = await due(store)
    disk.is_full = lambda: True
    await store._janitor.round()
    assert not store.broken.is_set()
    disk.calm()
    assert await due(store) == before
    await store._janitor.round()
    assert {p.day for p in await due(store)} == {before[1].day}


async def test_a_failed_sync_while_carrying_breaks_the_store_and_loses_nothing(
    disk: FaultyDisk, clock: SetClock
) -> None:
    async with serving(disk, clock) as store:
        await store.commit(letter(store, "b@y.test"), deadline=SOON)
        await next_day(store, clock)
        await store.commit(letter(store, "c@y.test"), deadline=SOON)
        clock.time += LIMITS.carry_after_s
        disk.syncs_until_failure = 1
        await store._janitor.round()
        assert store.broken.is_set()
        with pytest.raises(StoreBusy):
            await store.commit(letter(store, "d@y.test"), deadline=SOON)
        disk.go_down(power=True)
    async with serving(disk.come_up(), clock) as store:
        assert [p.address for p in await due(store)] == ["b@y.test", "c@y.test"]


class _Crash:
    """Takes the disk down at the n-th write or sync."""

    def __init__(self, at: int, *, power: bool) -> None:
        self.left, self.power = at, power
        self.disk: FaultyDisk | None = None

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0 and self.disk is not None:
            self.disk.go_down(power=self.power)


async def _prepare(clock: SetClock) -> FaultyDisk:
    """Monday has four that wait, one settled, and it is Tuesday, late."""
    disk = FaultyDisk(SeededDice(2))
    async with serving(disk, clock) as store:
        for number in range(4):
            await store.commit(letter(store, f"r{number}@y.test", body=b"b%d" % number), deadline=SOON)
        await store.commit(delivered((await due(store))[0]), deadline=SOON)
        await next_day(store, clock)
        await store.commit(letter(store, "tuesday@y.test", body=b"t"), deadline=SOON)
        clock.time += LIMITS.carry_after_s
    return disk


async def _carry_and_crash(at: int, *, power: bool) -> tuple[FaultyDisk, SetClock] | None:
    clock = SetClock()
    prepared = await _prepare(clock)
    crash = _Crash(at, power=power)
    disk = FaultyDisk(SeededDice(at), files=prepared.files)
    async with serving(disk, clock) as store:
        disk.step, crash.disk = crash, disk
        await store._janitor.round()
        disk.step = lambda: None
        if crash.left > 0:
            return None
    return disk.come_up(), clock


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power-cut"])
async def test_a_crash_at_any_step_of_carrying_leaves_each_recipient_in_one_place_with_its_body(power: bool) -> None:
    at = 0
    while True:
        at += 1
        crashed = await _carry_and_crash(at, power=power)
        if crashed is None:
            break
        disk, clock = crashed
        async with serving(disk, clock) as store:
            waiting = await due(store)
            assert [p.address for p in waiting] == ["r1@y.test", "r2@y.test", "r3@y.test", "tuesday@y.test"], at
            assert len({p.serial for p in waiting}) == 4, at
            for pending, body in zip(waiting, (b"b1", b"b2", b"b3", b"t"), strict=True):
                assert await store.body(pending.message) == body, at
            assert [seq for seq, _ in await log(store)] == list(range(1, 7)), at
            assert all(count == open_ for count, open_ in balances(store, disk)), at
            await store._janitor.round()
            for pending in waiting:
                await store.commit(delivered(pending), deadline=SOON)
            assert await due(store) == [], at
            assert set(balances(store, disk)) == {(0, 0)}, at
    assert at > 5
