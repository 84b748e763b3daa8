"""Every store of roll-ups is held to ``ports.counters.Counters``, with two instances as two workers have them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemClock
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.counters import Cell, Count, Counters
from pigeonry.stores.cassandra.counters import COUNTER_TABLES, CassandraCounters
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.stores.memory.counters import MemoryCounters, Sheet
from pigeonry.stores.sqlite.counters import SqliteCounters
from pigeonry.testing.cassandra import Cluster
from support.cassandra import blocking, make_keyspace

Two = tuple[Counters, Counters]
KEYSPACE = "counters_test"
HOUR = 490_000  # in 2025
_shards = iter(range(1, 10_000, 10))


@pytest.fixture(params=["memory", "sqlite", "cassandra"])
def engine(request: pytest.FixtureRequest) -> str | CassandraSettings:
    return request.getfixturevalue("counters_keyspace") if request.param == "cassandra" else request.param


@pytest.fixture(scope="module")
def counters_keyspace(cassandra: Cluster) -> CassandraSettings:
    tables = [table.replace("IF NOT EXISTS ", "") for table in COUNTER_TABLES]
    location = cassandra.nodes[0].seat.location
    return CassandraSettings(
        contact_points=cassandra.contact_points(location),
        local_datacenter=location,
        keyspace=blocking(make_keyspace(cassandra, KEYSPACE, *tables)),
    )


@pytest.fixture
async def two(engine: str | CassandraSettings, tmp_path: Path) -> AsyncIterator[Two]:
    if isinstance(engine, CassandraSettings):
        session = await Session.open(engine, SystemClock())
        yield CassandraCounters(session), CassandraCounters(session)
        await session.close()
        return
    if engine == "memory":
        sheet = Sheet()
        yield MemoryCounters(sheet), MemoryCounters(sheet)
        return
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    both = [
        SqliteCounters(str(tmp_path / "counters.db"), disk=LocalDisk(str(tmp_path)), lane=lane, clock=SystemClock())
        for lane in lanes
    ]
    yield both[0], both[1]
    for one, lane in zip(both, lanes, strict=True):
        await one.close()
        lane.close()


@pytest.fixture
def scope() -> str:
    return f"{uuid4().hex}.example"


@pytest.fixture
def shard() -> int:
    """The first of ten that are this test's own."""
    return next(_shards)


async def numbers(counters: Counters, scope: str, *, hours: int = 1_000, **options) -> dict[tuple[str, int], int]:
    found = await counters.totals(scope, begin=HOUR, end=HOUR + hours, **options)
    return {(total.cell.event, total.cell.hour - HOUR): total.number for total in found}


async def test_what_was_counted_is_read_by_the_other(two: Two, scope: str, shard: int):
    cell = Cell(scope, HOUR, "delivered")
    assert await two[0].cursor(shard) == 0
    await two[0].count(shard, [Count(1, cell), Count(3, cell), Count(4, Cell(scope, HOUR + 1, "failed"), 2)], upto=5)
    assert await two[1].cursor(shard) == 5
    assert await numbers(two[1], scope) == {("delivered", 0): 2, ("failed", 1): 2}


async def test_totals_go_on_from_batch_to_batch(two: Two, scope: str, shard: int):
    cell = Cell(scope, HOUR, "delivered")
    for seq in range(1, 6):
        await two[0].count(shard, [Count(seq, cell)], upto=seq)
    assert await numbers(two[1], scope) == {("delivered", 0): 5}


async def test_all_shards_are_added_up(two: Two, scope: str, shard: int):
    cell = Cell(scope, HOUR, "delivered")
    await two[0].count(shard, [Count(1, cell, 10)], upto=1)
    await two[1].count(shard + 1, [Count(1, cell, 5)], upto=1)
    assert await numbers(two[0], scope) == {("delivered", 0): 15}
    assert (await two[0].cursor(shard), await two[0].cursor(shard + 1)) == (1, 1)


async def test_what_is_brought_again_is_not_counted_again_whatever_its_pieces(two: Two, scope: str, shard: int):
    cell = Cell(scope, HOUR, "delivered")
    entries = [Count(seq, cell) for seq in range(1, 11)]
    await two[0].count(shard, entries[:6], upto=6)
    await two[0].count(shard, entries[:6], upto=6)
    await two[0].count(shard, entries[:3], upto=3)
    assert await two[0].cursor(shard) == 6
    await two[1].count(shard, entries, upto=10)
    assert await numbers(two[0], scope) == {("delivered", 0): 10}


async def test_next_owner_of_a_shard_goes_on_where_the_last_one_was(two: Two, scope: str, shard: int):
    cell = Cell(scope, HOUR, "delivered")
    await two[0].count(shard, [Count(1, cell)], upto=1)
    await two[1].count(shard, [Count(2, cell)], upto=2)
    assert await two[0].cursor(shard) == 2
    await two[0].count(shard, [Count(3, cell)], upto=3)
    assert await numbers(two[1], scope) == {("delivered", 0): 3}


async def test_hours_and_tags_are_chosen(two: Two, scope: str, shard: int):
    hours = range(0, 60, 12)
    counts = [Count(1, Cell(scope, HOUR + hour, "delivered", tag)) for hour in hours for tag in ("", "news", "z")]
    await two[0].count(shard, [*counts, Count(1, Cell(scope, HOUR, "failed", "news", "google"))], upto=1)
    assert [hour for _, hour in await numbers(two[0], scope)] == list(hours)
    assert [hour for _, hour in await numbers(two[0], scope, hours=24)] == [0, 12]
    found = await two[0].totals(scope, begin=HOUR + 12, end=HOUR + 25, tag=None)
    assert [(total.cell.tag, total.cell.hour - HOUR) for total in found] == [
        ("", 12), ("", 24), ("news", 12), ("news", 24), ("z", 12), ("z", 24)
    ]  # fmt: skip
    found = await two[0].totals(scope, begin=HOUR, end=HOUR + 12, tag="news")
    assert [(total.cell.event, total.cell.provider) for total in found] == [("delivered", ""), ("failed", "google")]
    assert await two[0].totals("nobody.example", begin=HOUR, end=HOUR + 12) == []


async def test_more_cells_than_are_written_at_once(two: Two, scope: str, shard: int):
    counts = [Count(1 + n, Cell(scope, HOUR, "delivered", f"tag{n:03}")) for n in range(200)]
    await two[0].count(shard, counts, upto=200)
    assert len(await two[1].totals(scope, begin=HOUR, end=HOUR + 1, tag=None)) == 200


async def test_sqlite_forgets_totals_that_are_kept_no_longer(tmp_path: Path, scope: str):
    lane = ThreadLanes().lane("counters")
    counters = SqliteCounters(
        str(tmp_path / "counters.db"), disk=LocalDisk(str(tmp_path)), lane=lane, clock=SystemClock()
    )
    await counters.count(1, [Count(1, Cell(scope, HOUR + hour, "delivered")) for hour in range(5)], upto=1)
    await counters.retire(before=HOUR + 3)
    assert [hour for _, hour in await numbers(counters, scope)] == [3, 4]
    await counters.close()
    lane.close()


@pytest.fixture
async def session(counters_keyspace: CassandraSettings) -> AsyncIterator[Session]:
    made = await Session.open(counters_keyspace, SystemClock())
    yield made
    await made.close()


@pytest.mark.parametrize("written", range(4))
@pytest.mark.parametrize("heard", [True, False])
async def test_cassandra_crash_between_any_two_rows_counts_nothing_twice_and_leaves_nothing_out(
    session: Session, scope: str, shard: int, monkeypatch: pytest.MonkeyPatch, *, written: int, heard: bool
):
    """Totals, then the cursor: whoever goes on from the cursor, in other pieces, brings some again."""
    cells = [Cell(scope, HOUR + hour, "delivered") for hour in range(3)]
    await CassandraCounters(session).count(shard, [Count(1, cell) for cell in cells], upto=1)
    execute, left = Session.execute, [written]

    async def cut(self, cql, values=(), **options):
        if cql.startswith("UPDATE"):
            left[0] -= 1
            if left[0] < 0:
                raise StoreBusy("the worker died")
            await execute(self, cql, values, **options)
            if not heard:
                raise StoreInDoubt("the answer was lost")
            return []
        return await execute(self, cql, values, **options)

    monkeypatch.setattr(Session, "execute", cut)
    died = CassandraCounters(session)
    counts = [Count(seq, cell) for seq in range(2, 6) for cell in cells]
    with pytest.raises((StoreBusy, StoreInDoubt)):
        await died.count(shard, counts, upto=5)
    monkeypatch.undo()
    for successor in (CassandraCounters(session), died):
        cursor = await successor.cursor(shard)
        for upto in (3, 6):
            brought = [Count(seq, cell) for seq in range(cursor + 1, upto + 1) for cell in cells if seq < 6]
            await successor.count(shard, brought, upto=upto)
    assert await numbers(successor, scope) == {("delivered", hour): 5 for hour in range(3)}


async def test_cassandra_write_that_arrives_late_does_not_take_a_total_back(
    session: Session, scope: str, shard: int, monkeypatch: pytest.MonkeyPatch
):
    cell = Cell(scope, HOUR, "delivered")
    execute, held = Session.execute, []

    async def hold(self, cql, values=(), **options):
        if cql.startswith("UPDATE"):
            held.append((cql, values, options))
            raise StoreInDoubt("it lies in some queue")
        return await execute(self, cql, values, **options)

    monkeypatch.setattr(Session, "execute", hold)
    with pytest.raises(StoreInDoubt):
        await CassandraCounters(session).count(shard, [Count(1, cell)], upto=1)
    monkeypatch.undo()
    successor = CassandraCounters(session)
    await successor.count(shard, [Count(seq, cell) for seq in range(1, 8)], upto=7)
    for cql, values, options in held:
        await session.execute(cql, values, **options)
    assert await numbers(successor, scope) == {("delivered", 0): 7}
    assert await successor.cursor(shard) == 7
