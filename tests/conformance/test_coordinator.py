"""What every coordinator owes: the text of ``ports.coordinator``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pigeonry.net.disk import LocalDisk
from pigeonry.net.lanes import ThreadLanes
from pigeonry.stores.sqlite.coordinator import SqliteCoordinator


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


@pytest.fixture
async def pair(tmp_path: Path, clock: Hands) -> AsyncIterator[tuple[SqliteCoordinator, SqliteCoordinator]]:
    """Two coordinators as two workers of a node have them."""
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    path = str(tmp_path / "coordinator.db")
    both = [SqliteCoordinator(path, disk=LocalDisk(str(tmp_path)), lane=lane, clock=clock) for lane in lanes]
    for one in both:
        await one.open()
    yield both[0], both[1]
    for one in both:
        await one.close()
    for lane in lanes:
        lane.close()


async def test_a_held_lease_is_not_given_to_another(pair: tuple[SqliteCoordinator, SqliteCoordinator]) -> None:
    assert await pair[0].acquire("x", owner="a", ttl_s=60) is not None
    assert await pair[1].acquire("x", owner="b", ttl_s=60) is None


async def test_who_holds_it_gets_it_renewed_with_the_same_epoch(
    pair: tuple[SqliteCoordinator, SqliteCoordinator],
) -> None:
    first = await pair[0].acquire("x", owner="a", ttl_s=60)
    again = await pair[0].acquire("x", owner="a", ttl_s=90)
    assert first is not None
    assert again is not None
    assert again.epoch == first.epoch


async def test_an_expired_lease_is_taken_with_a_higher_epoch_and_cannot_be_renewed(
    pair: tuple[SqliteCoordinator, SqliteCoordinator], clock: Hands
) -> None:
    first = await pair[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    clock.at += 61
    second = await pair[1].acquire("x", owner="b", ttl_s=60)
    assert second is not None
    assert second.epoch > first.epoch
    assert await pair[0].renew(first, ttl_s=60) is None
    await pair[0].release(first)
    assert await pair[0].acquire("x", owner="a", ttl_s=60) is None


async def test_a_released_lease_is_free_at_once(pair: tuple[SqliteCoordinator, SqliteCoordinator]) -> None:
    first = await pair[0].acquire("x", owner="a", ttl_s=60)
    assert first is not None
    await pair[0].release(first)
    second = await pair[1].acquire("x", owner="b", ttl_s=60)
    assert second is not None
    assert second.epoch > first.epoch
