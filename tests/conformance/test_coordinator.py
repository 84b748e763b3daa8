"""Every coordinator is held to ``ports.coordinator.Coordinator``, with two instances as two workers have them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pigeonry.net.disk import LocalDisk
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.coordinator import Coordinator
from pigeonry.stores.memory.coordinator import Board, MemoryCoordinator
from pigeonry.stores.sqlite.coordinator import SqliteCoordinator

Two = tuple[Coordinator, Coordinator]


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture(params=["memory", "sqlite"])
async def two(request: pytest.FixtureRequest, tmp_path: Path, clock: Hands) -> AsyncIterator[Two]:
    if request.param == "memory":
        board = Board()
        yield MemoryCoordinator(clock, board), MemoryCoordinator(clock, board)
        return
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    both = [sqlite(tmp_path, lane, clock) for lane in lanes]
    yield both[0], both[1]
    for one, lane in zip(both, lanes, strict=True):
        await one.close()
        lane.close()


def sqlite(folder: Path, lane, clock: Hands) -> SqliteCoordinator:
    return SqliteCoordinator(str(folder / "coordinator.db"), disk=LocalDisk(str(folder)), lane=lane, clock=clock)


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


async def test_an_expired_lease_is_taken_with_a_higher_epoch_and_cannot_be_renewed(two: Two, clock: Hands):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    clock.at += 60
    second = await two[1].acquire("x", owner="b", ttl_s=60)
    assert second is not None
    assert second.epoch > first.epoch
    assert await two[0].renew(first, ttl_s=60) is None
    await two[0].release(first)
    assert await two[0].acquire("x", owner="a", ttl_s=60) is None


async def test_who_lets_it_expire_gets_it_back_only_with_a_higher_epoch(two: Two, clock: Hands):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    clock.at += 61
    second = await two[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    assert second is not None
    assert second.epoch > first.epoch
    assert await two[0].renew(first, ttl_s=60) is None


async def test_an_expired_lease_that_nobody_took_can_be_renewed(two: Two, clock: Hands):
    first = await two[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    clock.at += 61
    renewed = await two[0].renew(first, ttl_s=60)
    assert renewed is not None
    assert (renewed.epoch, renewed.expires_at) == (first.epoch, 1_000_121.0)
    assert await two[1].acquire("x", owner="b", ttl_s=60) is None


async def test_a_renewed_lease_is_held_until_its_new_end(two: Two, clock: Hands):
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


async def test_sqlite_epochs_rise_although_the_file_was_lost(tmp_path: Path, clock: Hands):
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


async def test_sqlite_epochs_rise_although_the_clock_was_set_back(tmp_path: Path, clock: Hands):
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


async def test_sqlite_lease_survives_its_owners_crash(tmp_path: Path, clock: Hands):
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    crashed, other = (sqlite(tmp_path, lane, clock) for lane in lanes)
    assert await crashed.acquire("x", owner="a", ttl_s=60) is not None
    await crashed.close()
    assert await other.acquire("x", owner="b", ttl_s=60) is None
    await other.close()
    for lane in lanes:
        lane.close()


async def test_sqlite_forgets_leases_that_expired_long_ago(tmp_path: Path, clock: Hands):
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
