"""Sessions with the lease keyspace of the shared node: what the small stores of a cluster are in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pigeonry.net.environment import SystemClock
from pigeonry.stores.cassandra.buckets import BUCKET_TABLES
from pigeonry.stores.cassandra.coordinator import COORDINATOR_TABLES
from pigeonry.stores.cassandra.documents import DOCUMENT_TABLES
from pigeonry.stores.cassandra.quota import QUOTA_TABLES
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.testing.cassandra import Cluster
from support.cassandra import make_keyspace

LEASE_KEYSPACE = "test_lease"
TABLES = (*BUCKET_TABLES, *COORDINATOR_TABLES, *QUOTA_TABLES, *DOCUMENT_TABLES)

_made: set[tuple[str, ...]] = set()  # clusters that have the keyspace; all tests share it, each with names of its own


@asynccontextmanager
async def lease_sessions(cluster: Cluster, count: int) -> AsyncIterator[tuple[Session, ...]]:
    """So many sessions, as so many workers have them."""
    points = cluster.contact_points()
    if points not in _made:
        await make_keyspace(cluster, LEASE_KEYSPACE, *(table.replace("IF NOT EXISTS ", "") for table in TABLES))
        _made.add(points)
    location = cluster.nodes[0].seat.location
    settings = CassandraSettings(contact_points=cluster.contact_points(location), local_datacenter=location)
    sessions = tuple([await Session.open(settings, SystemClock()) for _ in range(count)])
    try:
        yield sessions
    finally:
        for session in sessions:
            await session.close()
