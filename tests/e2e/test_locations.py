"""Two locations and a witness: one dies, the other goes on with its shards, and what came late is late and not lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pigeonry.net.environment import SystemClock, SystemIds
from pigeonry.stores.cassandra.limits import Limits
from pigeonry.stores.cassandra.membership import Membership
from pigeonry.stores.cassandra.queue_store import CassandraStore
from pigeonry.stores.cassandra.schema import Keyspaces, migrate
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.testing.cassandra import Cluster, CommitLog
from support.cassandra import ring
from support.queue_stores import ForwardClock, accept, due

NAMES = Keyspaces(
    queue="q", lease="l", queue_replication={"dc1": 1, "dc2": 1}, lease_replication={"dc1": 1, "dc2": 1, "witness": 1}
)


class Location:
    """The one worker of a location."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.clock = ForwardClock()
        self._cluster = cluster
        self._name = name

    async def session(self, keyspace: str = "") -> Session:
        settings = CassandraSettings(
            contact_points=self._cluster.contact_points(self._name),
            local_datacenter=self._name,
            keyspace=keyspace,
            probe="",
        )
        return await Session.open(settings, SystemClock())

    async def serve(self) -> CassandraStore:
        self._sessions = [await self.session("q"), await self.session("l")]
        membership = Membership(
            self._sessions[1],
            worker=f"{self._name}/0",
            location=self._name,
            address="",
            ttl_s=4.0,
            clock=SystemClock(),
            ids=SystemIds(),
        )
        store = CassandraStore(
            self._sessions[0],
            leases=self._sessions[1],
            membership=membership,
            clock=self.clock,
            shards=4,
            homes=("dc1", "dc2"),
            limits=Limits(lease_s=4.0, round_s=0.2, late_look_s=0.5),
        )
        await store.open()
        self._running = asyncio.create_task(store.run())
        return store

    async def crash(self, store: CassandraStore) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        store.crash()
        for session in self._sessions:
            await session.close()


async def holds(condition: object, seconds: float = 60.0) -> None:
    """Wait until it does."""
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.05)


async def test_a_location_that_dies_is_taken_over_and_brings_what_it_had_when_it_returns(tmp_path: Path) -> None:
    async with ring(tmp_path, {"dc1": 1, "dc2": 1, "witness": 1}, commit_log=CommitLog.BATCH) as cluster:
        here, there = Location(cluster, "dc1"), Location(cluster, "dc2")
        session = await here.session()
        await migrate(session, NAMES, clock=SystemClock(), ids=SystemIds())
        await session.close()
        first = await here.serve()
        second = await there.serve()
        await holds(lambda: (first.owned(), second.owned()) == ([0, 2], [1, 3]))
        await first.commit(accept(here, first, "known@y.test"), deadline=here.clock.monotonic() + 10.0)
        cluster.nodes[1].kill()  # so that the other location hears nothing of what comes now
        late = accept(here, first, "late@y.test", body=b"the body")
        await first.commit(late, deadline=here.clock.monotonic() + 10.0)
        cluster.nodes[0].kill()
        await here.crash(first)
        await cluster.nodes[1].start()
        await holds(lambda: second.owned() == [0, 1, 2, 3])
        assert "late@y.test" not in [each.address for each in await due(second)]
        await second.commit(accept(there, second, "new@y.test"), deadline=there.clock.monotonic() + 10.0)
        await cluster.nodes[0].start()
        await cluster.formed()
        await holds(lambda: second.waiting() == 3)
        assert sorted(each.address for each in await due(second)) == ["known@y.test", "late@y.test", "new@y.test"]
        assert await second.body(late.message.key) == b"the body"
        await there.crash(second)
