"""What the benchmarks of a cluster share: a Cassandra node beside them, and how a node of ours is told of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parts import ROOT

from pigeonry.net.environment import SystemClock
from pigeonry.testing.cassandra import Cluster, parts

HEAP_MB = 512
STORE = """
[store]
engine = "cassandra"
[cassandra]
contact_points = [{points}]
local_datacenter = "dc1"
keyspace = "{name}"
lease_keyspace = "{name}_lease"
replication = {{ dc1 = 1 }}
"""
_numbers = itertools.count(1)


@contextmanager
def cassandra(*, heap_mb: int = HEAP_MB) -> Iterator[Cluster]:
    """One node until the block ends."""
    with tempfile.TemporaryDirectory(prefix="pigeonry-cassandra-") as folder:
        cluster = Cluster(Path(folder), parts(ROOT / ".parts"), {"dc1": 1}, clock=SystemClock(), heap_mb=heap_mb)
        try:
            asyncio.run(cluster.start())
            yield cluster
        finally:
            cluster.stop()


def store_of(cluster: Cluster) -> str:
    """The sections of a configuration for keyspaces that nobody uses yet."""
    points = ", ".join(f'"{point}"' for point in cluster.contact_points())
    return STORE.format(points=points, name=f"bench{os.getpid()}_{next(_numbers)}")
