"""The tables of the queue store on the Cassandra node that all tests share."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.net.environment import SystemClock
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.stores.cassandra.tables import LEASE_TABLES, QUEUE_TABLES
from pigeonry.testing.cassandra import Cluster
from support.cassandra import blocking, make_keyspace


class QueueKeyspace:
    """The tables of the queue store, leases with them, emptied for each test."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name

    async def session(self) -> Session:
        """A worker's session."""
        settings = CassandraSettings(
            contact_points=self._cluster.contact_points(), local_datacenter="dc1", keyspace=self._name
        )
        return await Session.open(settings, SystemClock())

    async def empty(self, session: Session) -> None:
        """Forget what tests before this one left."""
        names = [table.split("(")[0].split()[-1] for table in QUEUE_TABLES + LEASE_TABLES]
        await asyncio.gather(*(session.execute(f"TRUNCATE {name}", timeout_s=10.0) for name in names))


@pytest.fixture(scope="session")
def queue_keyspace(cassandra: Cluster) -> QueueKeyspace:
    """One for all tests of a run."""
    tables = [table.replace("IF NOT EXISTS ", "") for table in QUEUE_TABLES + LEASE_TABLES]
    return QueueKeyspace(cassandra, blocking(make_keyspace(cassandra, "queue_tests", *tables)))
