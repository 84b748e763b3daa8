"""The one Cassandra node that all tests share, and rings of their own for those that hurt nodes.

A node takes seconds to start, a keyspace with its tables too (every change of the schema is a round of its own), so a
test module has a keyspace and each test its own names in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pigeonry.net.environment import SystemClock
from pigeonry.testing.cassandra import Cluster, CommitLog, Parts, PartsMissing, parts
from support.process import missing_part

T = TypeVar("T")
SHARED_HEAP_MB = 512  # the tables of all modules stay till the end
ROOT = Path(__file__).parents[2]


def cassandra_parts() -> Parts:
    """What a node is made of; skips, loudly, when it cannot be had, and fails then with CI=true."""
    try:
        return parts(ROOT / ".parts")
    except PartsMissing as missing:
        missing_part(str(missing))


@asynccontextmanager
async def ring(
    folder: Path,
    locations: Mapping[str, int],
    *,
    commit_log: CommitLog = CommitLog.PERIODIC,
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[Cluster]:
    """A cluster of one's own until the block ends."""
    made = Cluster(folder, cassandra_parts(), locations, clock=SystemClock(), commit_log=commit_log, settings=settings)
    try:
        await made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def cassandra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The node that all tests share. Who pauses or kills nodes makes a ring of its own."""
    folder = tmp_path_factory.mktemp("cassandra")
    made = Cluster(folder, cassandra_parts(), {"dc1": 1}, clock=SystemClock(), heap_mb=SHARED_HEAP_MB)
    try:
        blocking(made.start())
        yield made
    finally:
        made.stop()


async def make_keyspace(cluster: Cluster, name: str, *tables: str) -> str:
    """Make a keyspace in the first node's location, and tables in it; its name."""
    node = cluster.nodes[0]
    replicas = min(3, sum(other.seat.location == node.seat.location for other in cluster.nodes))
    replication = f"{{'class': 'NetworkTopologyStrategy', '{node.seat.location}': {replicas}}}"
    await node.rows(f"CREATE KEYSPACE {name} WITH replication = {replication}")
    for table in tables:
        await node.rows(table.replace("CREATE TABLE ", f"CREATE TABLE {name}."))
    await cluster.agreed()
    return name


def blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run it where no loop runs, in this thread, for nodes die with the thread that started them."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
