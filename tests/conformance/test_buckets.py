"""Every store of token buckets is held to ``ports.buckets.Buckets``, with two instances as two workers have them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemClock, SystemIds
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.buckets import Bucket, Buckets
from pigeonry.stores.cassandra.buckets import CassandraBuckets
from pigeonry.stores.memory.buckets import MemoryBuckets
from pigeonry.stores.sqlite.buckets import SqliteBuckets
from pigeonry.testing.cassandra import Cluster
from support.cassandra_leases import LEASE_KEYSPACE, lease_sessions

Two = tuple[Buckets, Buckets]


@pytest.fixture(params=["memory", "sqlite", "cassandra"])
def engine(request: pytest.FixtureRequest) -> str | Cluster:
    """Which store; for Cassandra its node, which starts where no loop runs."""
    return request.getfixturevalue("cassandra") if request.param == "cassandra" else request.param


@pytest.fixture
async def two(engine: str | Cluster, tmp_path: Path) -> AsyncIterator[Two]:
    if not isinstance(engine, str):
        async with lease_sessions(engine, 2) as (one, other):
            yield buckets(one), buckets(other)
        return
    if engine == "memory":
        table: dict[str, Bucket] = {}
        yield MemoryBuckets(table), MemoryBuckets(table)
        return
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    disk, path = LocalDisk(str(tmp_path)), str(tmp_path / "rates.db")
    first, second = (SqliteBuckets(path, disk=disk, lane=lane, clock=SystemClock()) for lane in lanes)
    yield first, second
    for each, lane in zip((first, second), lanes, strict=True):
        await each.close()
        lane.close()


def buckets(session) -> CassandraBuckets:
    return CassandraBuckets(session, keyspace=LEASE_KEYSPACE, ids=SystemIds())


@pytest.fixture
def name() -> str:
    return uuid4().hex


async def test_what_one_changed_the_other_finds(two: Two, name: str) -> None:
    assert await two[0].change(name, lambda bucket: (Bucket(7.5, 12.25), bucket)) is None
    assert await two[1].change(name, lambda bucket: (Bucket(6.5, 13.0), bucket)) == Bucket(7.5, 12.25)
    assert await two[0].change(name, lambda bucket: (Bucket(0.0, 0.0), bucket)) == Bucket(6.5, 13.0)


async def test_of_changes_at_the_same_time_none_is_lost(two: Two, name: str) -> None:
    def more(bucket: Bucket | None) -> tuple[Bucket, float]:
        level = 1.0 if bucket is None else bucket.level + 1.0
        return Bucket(level, 0.0), level

    found = await asyncio.gather(*(each.change(name, more) for each in two for _ in range(3)))
    assert sorted(found) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


async def test_work_that_fails_changes_nothing(two: Two, name: str) -> None:
    def fails(_bucket: Bucket | None) -> tuple[Bucket, None]:
        raise ArithmeticError

    await two[0].change(name, lambda _: (Bucket(3.0, 1.0), None))
    with pytest.raises(ArithmeticError):
        await two[1].change(name, fails)
    assert await two[1].change(name, lambda bucket: (Bucket(2.0, 1.0), bucket)) == Bucket(3.0, 1.0)
