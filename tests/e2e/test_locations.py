"""Two locations, with a witness and without: one dies, the other goes on, and what came late is late and not lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pigeonry.domain.errors import Conflict, StoreBusy
from pigeonry.net.environment import SystemClock, SystemIds
from pigeonry.stores.cassandra.limits import Limits
from pigeonry.stores.cassandra.locations import Locations, Operator, needs_operator
from pigeonry.stores.cassandra.membership import Membership
from pigeonry.stores.cassandra.queue_store import CassandraStore
from pigeonry.stores.cassandra.schema import Keyspaces, migrate
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.stores.cassandra.shard import SERIAL_BITS
from pigeonry.testing.cassandra import Cluster, CommitLog
from support.cassandra import ring
from support.queue_stores import ForwardClock, accept, due

PLACES = {"dc1": 1, "dc2": 1}
WITNESSED = Keyspaces(queue="q", lease="l", queue_replication=PLACES, lease_replication={**PLACES, "witness": 1})
UNWITNESSED = Keyspaces(queue="q2", lease="l2", queue_replication=PLACES, lease_replication=PLACES)
LEASE_S = 4.0


class Location:
    """The one worker of a location."""

    def __init__(self, cluster: Cluster, name: str, names: Keyspaces) -> None:
        self.clock = ForwardClock()
        self._cluster = cluster
        self._name = name
        self._names = names

    async def session(self, keyspace: str = "") -> Session:
        settings = CassandraSettings(
            contact_points=self._cluster.contact_points(self._name),
            local_datacenter=self._name,
            keyspace=keyspace,
            probe="",
        )
        return await Session.open(settings, SystemClock())

    async def membership(self) -> tuple[Membership, Session]:
        session, names = await self.session(self._names.lease), self._names
        locations = None
        if needs_operator(names.lease_replication, "dc1"):
            locations = Locations(
                session, keyspace=names.lease, mine=self._name, names=tuple(PLACES), clock=SystemClock()
            )
            session.reach = locations.consistency
        membership = Membership(
            session,
            worker=f"{self._name}/0",
            location=self._name,
            address="",
            ttl_s=LEASE_S,
            clock=SystemClock(),
            ids=SystemIds(),
            locations=locations,
        )
        return membership, session

    async def serve(self) -> CassandraStore:
        membership, leases = await self.membership()
        self._sessions = [await self.session(self._names.queue), leases]
        store = CassandraStore(
            self._sessions[0],
            leases=leases,
            membership=membership,
            clock=self.clock,
            shards=4,
            homes=("dc1", "dc2"),
            limits=Limits(lease_s=LEASE_S, round_s=0.2, late_look_s=0.5),
        )
        await store.open()
        self._running = asyncio.create_task(store.run())
        return store

    def operator(self, session: Session) -> Operator:
        return Operator(
            session,
            keyspace=self._names.lease,
            mine=self._name,
            replication=self._names.lease_replication,
            lease_s=LEASE_S,
            clock=SystemClock(),
        )

    async def crash(self, store: CassandraStore) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        store.crash()
        for session in self._sessions:
            await session.close()


class Pair:
    """Both locations of a cluster, and the three messages of its story."""

    def __init__(self, cluster: Cluster, names: Keyspaces) -> None:
        self.here, self.there = Location(cluster, "dc1", names), Location(cluster, "dc2", names)
        self._names = names

    async def open(self) -> None:
        session = await self.here.session()
        await migrate(session, self._names, clock=SystemClock(), ids=SystemIds())
        await session.close()
        self.first, self.second = await self.here.serve(), await self.there.serve()
        await holds(lambda: (self.first.owned(), self.second.owned()) == ([0, 2], [1, 3]))
        await self.take(self.here, self.first, "known@y.test")

    async def take(self, location: Location, store: CassandraStore, address: str) -> None:
        work = accept(location, store, address, body=b"the body")
        await store.commit(work, deadline=location.clock.monotonic() + 10.0)
        self.last = work.message.key

    async def known(self) -> list[str]:
        return sorted(each.address for each in await due(self.second))


async def holds(condition: object, seconds: float = 60.0) -> None:
    """Wait until it does."""
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.05)


async def test_a_location_that_dies_is_taken_over_and_brings_what_it_had_when_it_returns(tmp_path: Path) -> None:
    async with ring(tmp_path, {"dc1": 1, "dc2": 1, "witness": 1}, commit_log=CommitLog.BATCH) as cluster:
        witnessed, alone = Pair(cluster, WITNESSED), Pair(cluster, UNWITNESSED)
        await witnessed.open()
        await alone.open()
        asking = await alone.there.session()
        operator = alone.there.operator(asking)
        with pytest.raises(Conflict, match="answers"):
            await operator.check("dc1")

        cluster.nodes[1].kill()  # so that the other location hears nothing of what comes now
        late = {}
        for pair in (witnessed, alone):
            await pair.take(pair.here, pair.first, "late@y.test")
            late[pair] = pair.last
        cluster.nodes[0].kill()
        for pair in (witnessed, alone):
            await pair.here.crash(pair.first)
        await cluster.nodes[1].start()

        await holds(lambda: witnessed.second.owned() == [0, 1, 2, 3])  # nobody had to be asked
        assert 0 not in alone.second.owned()
        await operator.give_up("dc1")
        await holds(lambda: alone.second.owned() == [0, 1, 2, 3])
        for pair in (witnessed, alone):
            assert await pair.known() == ["known@y.test"]
            await pair.take(pair.there, pair.second, "new@y.test")
        assert alone.last.serial >> SERIAL_BITS > 32, "nobody who was given up has such epochs"

        await cluster.nodes[0].start()
        await cluster.formed()
        for pair in (witnessed, alone):
            await holds(lambda pair=pair: pair.second.waiting() == 3)  # type: ignore[misc]
            assert await pair.known() == ["known@y.test", "late@y.test", "new@y.test"]
            assert await pair.second.body(late[pair]) == b"the body"

        member, session = await alone.here.membership()
        with pytest.raises(StoreBusy, match="was given up"):
            await member.join()
        await session.close()
        await operator.bring_back("dc1")
        alone.first = await alone.here.serve()
        await holds(lambda: (alone.first.owned(), alone.second.owned()) == ([0, 2], [1, 3]))
        assert alone.first.waiting() + alone.second.waiting() == 3
        await alone.take(alone.here, alone.first, "last@y.test")
        await alone.here.crash(alone.first)
        await asking.close()
        for pair in (witnessed, alone):
            await pair.there.crash(pair.second)
