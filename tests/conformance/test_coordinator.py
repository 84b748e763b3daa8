"""Every coordinator is held to ``ports.coordinator.Coordinator``, with two instances as two workers have them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from pigeonry.domain.errors import StoreInDoubt
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemIds
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.coordinator import Coordinator, Lease
from pigeonry.stores.cassandra.coordinator import CassandraCoordinator
from pigeonry.stores.cassandra.session import Session
from pigeonry.stores.memory.coordinator import Board, MemoryCoordinator
from pigeonry.stores.sqlite.coordinator import SqliteCoordinator
from pigeonry.testing.cassandra import Cluster
from support.cassandra_leases import LEASE_KEYSPACE, lease_sessions
from support.tenancy import HandClock

Two = tuple[Coordinator, Coordinator]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "sqlite", "cassandra"])
def engine(request: pytest.FixtureRequest) -> str | Cluster:
    """Which store; for Cassandra its node, which starts where no loop runs."""
    return request.getfixturevalue("cassandra") if request.param == "cassandra" else request.param


@pytest.fixture
async def two(engine: str | Cluster, tmp_path: Path, clock: HandClock) -> AsyncIterator[Two]:
    if not isinstance(engine, str):
        async with lease_sessions(engine, 2) as sessions:
            prefix = uuid4().hex
            yield tuple(cassandra_leases(session, clock, prefix) for session in sessions)
        return
    if engine == "memory":
        board = Board()
        yield MemoryCoordinator(clock, board), MemoryCoordinator(clock, board)
        return
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    both = [sqlite(tmp_path, lane, clock) for lane in lanes]
    yield both[0], both[1]
    for one, lane in zip(both, lanes, strict=True):
        await one.close()
        lane.close()


class Named:
    """A coordinator whose leases have names of one test's own, and its clock."""

    def __init__(self, coordinator: Coordinator, prefix: str, clock: HandClock) -> None:
        self.clock = clock
        self._coordinator = coordinator
        self._prefix = prefix

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, ended: Callable[[str], Awaitable[bool]] | None = None
    ) -> Lease | None:
        return self._told(await self._coordinator.acquire(self._prefix + name, owner=owner, ttl_s=ttl_s, ended=ended))

    async def renew(self, lease: Lease, *, ttl_s: float) -> Lease | None:
        return self._told(await self._coordinator.renew(self._meant(lease), ttl_s=ttl_s))

    async def release(self, lease: Lease) -> None:
        await self._coordinator.release(self._meant(lease))

    def _meant(self, lease: Lease) -> Lease:
        return msgspec.structs.replace(lease, name=self._prefix + lease.name)

    def _told(self, lease: Lease | None) -> Lease | None:
        return None if lease is None else msgspec.structs.replace(lease, name=lease.name.removeprefix(self._prefix))


def cassandra_leases(session: Session, clock: HandClock, prefix: str, machine: str = "one") -> Named:
    coordinator = CassandraCoordinator(session, keyspace=LEASE_KEYSPACE, machine=machine, clock=clock, ids=SystemIds())
    return Named(coordinator, prefix, clock)


def sqlite(folder: Path, lane, clock: HandClock) -> SqliteCoordinator:
    return SqliteCoordinator(str(folder / "coordinator.db"), disk=LocalDisk(str(folder)), lane=lane, clock=clock)


async def test_a_lease_whose_owner_has_ended_is_free_and_his_no_more(two: Two):
    lease = await two[0].acquire("x", owner="a", ttl_s=60)
    assert lease is not None
    asked: list[str] = []

    async def ended(owner: str) -> bool:
        asked.append(owner)
        return len(asked) > 1

    assert await two[1].acquire("x", owner="b", ttl_s=60, ended=ended) is None
    taken = await two[1].acquire("x", owner="b", ttl_s=60, ended=ended)
    assert taken is not None
    assert taken.epoch > lease.epoch
    assert asked == ["a", "a"]
    assert await two[0].renew(lease, ttl_s=60) is None
    await two[0].release(lease)
    assert await two[0].acquire("x", owner="c", ttl_s=60) is None


async def test_a_held_lease_is_not_given_to_another(two: Two):
    lease = await two[0].acquire("x", owner="a", ttl_s=60)
    assert lease is not None
    assert (lease.name, lease.owner, lease.expires_at) == ("x", "a", 1_000_060.0)
    assert await two[1].acquire("x", owner="b", ttl_s=60) is None
    assert await two[1].acquire("y", owner="b", ttl_s=60) is not None


async def test_who_holds_it_gets_it_renewed_with_the_same_epoch(two: Two):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    again = await two[1].acquire("x", owner="a", ttl_s=90)
    assert first is not None
    assert again is not None
    assert (again.epoch, again.expires_at) == (first.epoch, 1_000_090.0)


async def test_an_expired_lease_is_taken_with_a_higher_epoch_and_cannot_be_renewed(two: Two, clock: HandClock):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    clock.at += 60
    second = await two[1].acquire("x", owner="b", ttl_s=60)
    assert second is not None
    assert second.epoch > first.epoch
    assert await two[0].renew(first, ttl_s=60) is None
    await two[0].release(first)
    assert await two[0].acquire("x", owner="a", ttl_s=60) is None


async def test_who_lets_it_expire_gets_it_back_only_with_a_higher_epoch(two: Two, clock: HandClock):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    clock.at += 61
    second = await two[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    assert second is not None
    assert second.epoch > first.epoch
    assert await two[0].renew(first, ttl_s=60) is None


async def test_an_expired_lease_that_nobody_took_can_be_renewed(two: Two, clock: HandClock):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    clock.at += 61
    renewed = await two[0].renew(first, ttl_s=60)
    assert renewed is not None
    assert (renewed.epoch, renewed.expires_at) == (first.epoch, 1_000_121.0)
    assert await two[1].acquire("x", owner="b", ttl_s=60) is None


async def test_a_renewed_lease_is_held_until_its_new_end(two: Two, clock: HandClock):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    clock.at += 50
    assert await two[0].renew(first, ttl_s=60) is not None
    clock.at += 50
    assert await two[1].acquire("x", owner="b", ttl_s=60) is None


async def test_a_released_lease_is_free_at_once_and_cannot_be_renewed(two: Two):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    await two[0].release(first)
    assert await two[0].renew(first, ttl_s=60) is None
    second = await two[1].acquire("x", owner="b", ttl_s=60)
    assert second is not None
    assert second.epoch > first.epoch


async def test_of_many_who_ask_at_once_one_gets_it(two: Two):
    asked = [two[n % 2].acquire("x", owner=f"owner-{n}", ttl_s=60) for n in range(20)]
    assert sum(lease is not None for lease in await asyncio.gather(*asked)) == 1


async def test_sqlite_epochs_rise_although_the_file_was_lost(tmp_path: Path, clock: HandClock):
    lane = ThreadLanes().lane("leases")
    before = sqlite(tmp_path, lane, clock)
    first = await before.acquire("x", owner="a", ttl_s=60)
    await before.close()
    for name in os.listdir(tmp_path):  # noqa: PTH208
        os.unlink(tmp_path / name)  # noqa: PTH108
    clock.at += 1
    after = sqlite(tmp_path, lane, clock)
    second = await after.acquire("x", owner="b", ttl_s=60)
    assert first is not None
    assert second is not None
    assert second.epoch > first.epoch
    await after.close()
    lane.close()


async def test_sqlite_epochs_rise_although_the_clock_was_set_back(tmp_path: Path, clock: HandClock):
    lane = ThreadLanes().lane("leases")
    leases = sqlite(tmp_path, lane, clock)
    first = await leases.acquire("x", owner="a", ttl_s=60)
    assert first is not None
    await leases.release(first)
    clock.at -= 500
    second = await leases.acquire("x", owner="b", ttl_s=60)
    assert second is not None
    assert second.epoch > first.epoch
    await leases.close()
    lane.close()


async def test_sqlite_lease_survives_its_owners_crash(tmp_path: Path, clock: HandClock):
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    crashed, other = (sqlite(tmp_path, lane, clock) for lane in lanes)
    assert await crashed.acquire("x", owner="a", ttl_s=60) is not None
    await crashed.close()
    assert await other.acquire("x", owner="b", ttl_s=60) is None
    await other.close()
    for lane in lanes:
        lane.close()


async def test_sqlite_forgets_leases_that_expired_long_ago(tmp_path: Path, clock: HandClock):
    lane = ThreadLanes().lane("leases")
    leases = sqlite(tmp_path, lane, clock)
    for number in range(50):
        await leases.acquire(f"request {number}", owner="a", ttl_s=60)
    clock.at += 7200
    await leases.acquire("x", owner="a", ttl_s=60)
    count = await leases._file.read(lambda connection: connection.execute("SELECT count(*) FROM lease").get)
    assert count == 1
    await leases.close()
    lane.close()


@pytest.fixture
async def three(cassandra: Cluster, clock: HandClock) -> AsyncIterator[tuple[Named, Named, Named]]:
    """Two workers of one machine, and one of another whose clock has its own start."""
    other = HandClock()
    other.at = 5.0
    async with lease_sessions(cassandra, 1) as (session,):
        prefix = uuid4().hex
        named = [cassandra_leases(session, clock, prefix) for _ in range(2)]
        yield named[0], named[1], cassandra_leases(session, other, prefix, "two")


Three = tuple[Named, Named, Named]


async def test_cassandra_lease_of_another_machine_is_over_when_it_was_seen_unchanged_for_its_life(
    three: Three, clock: HandClock
):
    """Whatever wall clocks say, and although the observer's monotonic clock shows less than the owner's."""
    owner, _, observer = three
    assert await owner.acquire("x", owner="a", ttl_s=60) is not None
    assert await observer.acquire("x", owner="b", ttl_s=60) is None
    observer.clock.at += 60
    assert await observer.acquire("x", owner="b", ttl_s=60) is None
    observer.clock.at += 13
    taken = await observer.acquire("x", owner="b", ttl_s=60)
    assert taken is not None


async def test_cassandra_lease_that_is_renewed_is_never_over_for_another_machine(three: Three):
    owner, _, observer = three
    lease = await owner.acquire("x", owner="a", ttl_s=60)
    for _ in range(3):
        assert await observer.acquire("x", owner="b", ttl_s=60) is None
        observer.clock.at += 100
        lease = await owner.renew(lease, ttl_s=60)
        assert lease is not None


async def test_cassandra_owner_whose_lease_was_taken_finds_out_when_it_renews(three: Three):
    owner, _, observer = three
    first = await owner.acquire("x", owner="a", ttl_s=60)
    await observer.acquire("x", owner="b", ttl_s=60)
    observer.clock.at += 73
    second = await observer.acquire("x", owner="b", ttl_s=60)
    assert second.epoch > first.epoch
    assert await owner.renew(first, ttl_s=60) is None
    await owner.release(first)
    assert await observer.renew(second, ttl_s=60) is not None


async def test_cassandra_worker_of_the_same_machine_takes_over_when_the_lease_ends(three: Three, clock: HandClock):
    owner, beside, _ = three
    await owner.acquire("x", owner="a", ttl_s=60)
    clock.at += 60
    assert await beside.acquire("x", owner="b", ttl_s=60) is not None


async def test_cassandra_lease_whose_taking_was_not_confirmed_is_found_to_be_taken(three: Three, monkeypatch):
    owner, _, observer = three
    conditional = Session.conditional

    async def unheard(self, *args, **kwargs):
        await conditional(self, *args, **kwargs)
        raise StoreInDoubt("the answer was lost")

    monkeypatch.setattr(Session, "conditional", unheard)
    lease = await owner.acquire("x", owner="a", ttl_s=60)
    monkeypatch.undo()
    assert await observer.acquire("x", owner="b", ttl_s=60) is None
    assert await owner.renew(lease, ttl_s=60) is not None
