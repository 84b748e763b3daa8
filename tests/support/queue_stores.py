"""Nodes for the conformance suites: what stands on one machine, whichever store writes it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from pigeonry.domain.errors import StoreInDoubt
from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import Accept, BodyRef, IdempotencyRecord, Message, NewRecipient, Options, Pending
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemClock, SystemIds
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.body_store import BodyStore
from pigeonry.ports.disk import Lane
from pigeonry.ports.event_log import EventLog
from pigeonry.ports.queue_store import DueMark, QueueStore
from pigeonry.stores.cassandra.limits import Limits as ClusterLimits
from pigeonry.stores.cassandra.membership import Membership
from pigeonry.stores.cassandra.queue_store import CassandraStore
from pigeonry.stores.cassandra.session import Session
from pigeonry.stores.memory.queue_store import MemoryLimits, MemoryNode, MemoryStore
from pigeonry.stores.sqlite.limits import Limits
from pigeonry.stores.sqlite.queue_store import SqliteStore
from pigeonry.testing.dice import SeededDice
from simulation.faulty_disk import FaultyDisk
from support.day_files import InlineLanes, SetClock, serving
from support.queue_keyspace import QueueKeyspace

P = ParamSpec("P")
T = TypeVar("T")

START = DueMark(-math.inf)
IN_DOUBT_DELAY_S = 60.0
CLUSTER_LIMITS = ClusterLimits(in_doubt_delay_s=IN_DOUBT_DELAY_S, lease_s=1.0, round_s=0.1)
NODES = ("memory", "sqlite", "sqlite-one-connection", "cassandra")


class Store(QueueStore, EventLog, BodyStore, Protocol):
    """One worker's store."""


class ForwardClock(SystemClock):
    """The system's, and what a test puts before it."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return super().now() + self.time

    def monotonic(self) -> float:
        return super().monotonic() + self.time


class _GatedLane:
    """A lane whose work waits for a gate, in order."""

    def __init__(self, lane: Lane, gate: asyncio.Event) -> None:
        self._lane, self._gate = lane, gate

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.shield(asyncio.ensure_future(self._gate.wait()))
        return await self._lane.run(work, *args, **kwargs)

    def close(self) -> None:
        self._lane.close()


class _GatedLanes(ThreadLanes):
    """Threads; a gate before the one that writes."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate

    def lane(self, name: str) -> Lane:
        lane = super().lane(name)
        return _GatedLane(lane, self._gate) if name == "store-write" else lane


class Node(Protocol):
    """Where stores are opened, again and again.

    ``gate`` holds back what is being written while it is not set; ``clock.time`` may be moved forward.
    """

    clock: SetClock | ForwardClock
    gate: asyncio.Event

    async def open(self, *, slot: int = 0, slots: int = 1) -> Store:
        """A store that runs."""
        ...

    async def close(self, store: Store) -> None:
        """End in order."""
        ...

    async def crash(self, store: Store) -> None:
        """End as kill -9 does."""
        ...


class MemoryMachine:
    """Stores in memory."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.gate = asyncio.Event()
        self.gate.set()
        self._node = MemoryNode()
        self._running: dict[Store, asyncio.Task[None]] = {}

    async def open(self, *, slot: int = 0, slots: int = 1) -> Store:
        limits = MemoryLimits(in_doubt_delay_s=IN_DOUBT_DELAY_S)
        store = MemoryStore(self._node, clock=self.clock, slot=slot, slots=slots, sync=self._sync, limits=limits)
        await store.open()
        self._running[store] = asyncio.create_task(store.run())
        return store

    async def close(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        await store.close()
        await _end(self._running.pop(store))

    async def crash(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        store.crash()
        await _end(self._running.pop(store))

    async def end(self) -> None:
        for store in list(self._running):
            await self.close(store)

    async def _sync(self) -> None:
        await self.gate.wait()


class SqliteMachine:
    """Stores on the disk that there is, with threads and the system's clock."""

    def __init__(self, root: Path) -> None:
        self.clock = ForwardClock()
        self.gate = asyncio.Event()
        self.gate.set()
        self._root = str(root)
        self._running: dict[Store, asyncio.Task[None]] = {}

    async def open(self, *, slot: int = 0, slots: int = 1) -> Store:
        store = SqliteStore(
            self._root,
            slot=slot,
            slots=slots,
            disk=LocalDisk(self._root),
            lanes=_GatedLanes(self.gate),
            clock=self.clock,
            limits=Limits(in_doubt_delay_s=IN_DOUBT_DELAY_S, free_octets_min=0),
        )
        await store.open()
        self._running[store] = asyncio.create_task(store.run())
        return store

    async def close(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        await store.close()
        await _end(self._running.pop(store))

    async def crash(self, store: Store) -> None:
        """A process cannot be killed from inside: only ``SqliteDiskMachine`` can."""
        raise NotImplementedError

    async def end(self) -> None:
        for store in list(self._running):
            await self.close(store)


class GatedSession:
    """A session whose writes wait for a gate.

    Args:
        only: Those that have this text.

    Attributes:
        held: What waits or waited.
        stumbles: Each of these texts is that of a conditional statement that is not confirmed, once.
    """

    def __init__(self, session: Session, gate: asyncio.Event, *, only: str = "") -> None:
        self._session, self._gate, self._only = session, gate, only
        self.held: list[str] = []
        self.stumbles: list[str] = []
        self.pages, self.circuit = session.pages, session.circuit

    async def conditional(self, cql: str, values: Sequence[object] = (), **more: Any) -> tuple[bool, dict[str, Any]]:
        await self._gate.wait()
        for text in [each for each in self.stumbles if each in cql]:
            self.stumbles.remove(text)
            raise StoreInDoubt("It does not confirm.")
        return await self._session.conditional(cql, values, **more)

    async def execute(self, cql: str, values: Sequence[object] = (), **more: Any) -> list[tuple[Any, ...]]:
        if not cql.lstrip().startswith("SELECT") and self._only in cql:
            if not self._gate.is_set():
                self.held.append(cql)
            await self._gate.wait()
        return await self._session.execute(cql, values, **more)


class CassandraMachine:
    """Stores on a real Cassandra node, as workers of one cluster, with short leases."""

    def __init__(self, keyspace: QueueKeyspace) -> None:
        self.clock = ForwardClock()
        self.gate = asyncio.Event()
        self.gate.set()
        self.leases = asyncio.Event()
        self.leases.set()
        self.stumbles: list[str] = []
        self._keyspace = keyspace
        self._running: dict[Store, tuple[asyncio.Task[None], Session]] = {}
        self._members: dict[Store, Membership] = {}
        self._opened = 0

    async def open(
        self,
        *,
        slot: int = 0,
        slots: int = 1,
        past_leases: bool = False,
        past_gate: bool = False,
        gated: str = "",
        limits: ClusterLimits = CLUSTER_LIMITS,
    ) -> Store:
        session = await self._keyspace.session()
        if not self._opened:
            await self._keyspace.empty(session)
        self._opened += 1
        clock = SystemClock()  # that of the leases goes on by itself
        worker = f"node/{self._opened}"
        behind_gate = GatedSession(session, self.leases)
        behind_gate.stumbles = self.stumbles
        leases = session if past_leases else behind_gate
        membership = Membership(
            leases,  # type: ignore[arg-type]
            worker=worker,
            location="dc1",
            address="",
            ttl_s=1.0,
            clock=clock,
            ids=SystemIds(),
        )
        self.gated = GatedSession(session, self.gate, only=gated)
        store = CassandraStore(
            session if past_gate else self.gated,  # type: ignore[arg-type]
            leases=leases,  # type: ignore[arg-type]
            membership=membership,
            clock=self.clock,
            limits=limits,
        )
        await store.open()
        self._running[store] = asyncio.create_task(store.run()), session
        self._members[store] = membership
        if not past_leases:
            await self.level()
        return store

    async def lapsed(self, store: Store) -> None:
        """Its lease is over."""
        while self._members[store].holds():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)

    async def close(self, store: Store) -> None:
        await self._end(store)
        await self.level()

    def leave(self, store: Store) -> None:
        """It is told that its node goes out of service."""
        self._members[store].drain()

    async def crash(self, store: Store) -> None:
        assert isinstance(store, CassandraStore)
        task, session = self._running.pop(store)
        await _end(task)
        store.crash()
        self.gate.set()
        await session.close()

    async def end(self) -> None:
        for store in list(self._running):
            await self._end(store)

    async def _end(self, store: Store) -> None:
        assert isinstance(store, CassandraStore)
        task, session = self._running.pop(store)
        await _end(task)
        await store.close()
        await session.close()

    async def level(self) -> None:
        """Each shard has one owner, and each store that runs has some."""
        while not self._is_level():  # nobody tells
            await asyncio.sleep(0.01)
            for task, _ in self._running.values():
                assert not task.done() or task.result() is None, "it runs"

    def _is_level(self) -> bool:
        owned = [len(store.owned()) for store in self._running]
        return not owned or (sum(owned) == 16 and all(owned))


class SqliteDiskMachine:
    """Stores on a disk in memory that may go down, with one connection to each file."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self._lanes = InlineLanes()
        self.gate = self._lanes.gate
        self._disk = FaultyDisk(SeededDice(1))
        self._running: dict[Store, AsyncExitStack] = {}

    async def open(self, *, slot: int = 0, slots: int = 1) -> Store:
        assert (slot, slots) == (0, 1), "with one connection to a file there is one worker"
        stack = AsyncExitStack()
        store = await stack.enter_async_context(serving(self._disk, self.clock, lanes=self._lanes))
        self._running[store] = stack
        return store

    async def close(self, store: Store) -> None:
        await self._running.pop(store).aclose()

    async def crash(self, store: Store) -> None:
        self._disk.go_down(power=False)
        self.gate.set()
        await self.close(store)
        self._disk = self._disk.come_up()

    async def end(self) -> None:
        for store in list(self._running):
            await self.close(store)


Machine = MemoryMachine | SqliteMachine | SqliteDiskMachine | CassandraMachine


def machine(name: str, root: Path, keyspace: QueueKeyspace | None) -> Machine:
    """The node of that name."""
    if name == "memory":
        return MemoryMachine()
    if name == "cassandra":
        assert keyspace is not None
        return CassandraMachine(keyspace)
    return SqliteMachine(root) if name == "sqlite" else SqliteDiskMachine()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def soon(node: Node) -> float:
    """A deadline that nobody misses."""
    return node.clock.monotonic() + 10.0


async def due(store: Store, *, after: DueMark = START, until: float = 1e12, limit: int = 100) -> list[Pending]:
    """Who waits."""
    return list(await store.due(after=after, until=until, limit=limit))


async def log(store: Store) -> list[bytes]:
    """All events of the shards that it owns."""
    return [entry.octets for shard in store.shards() for entry in await store.tail(shard, after=0, limit=1000)]


async def turns(count: int = 30) -> None:
    """Let others run."""
    for _ in range(count):
        await asyncio.sleep(0)


def accept(
    node: Node, store: Store, *addresses: str, due: float = 1.0, body: bytes | BodyRef = b"body", scope: bytes = b""
) -> Accept:
    """A message to these addresses, with one event for each."""
    key = store.allocate(len(addresses))
    summary = EventMessage(headers=MessageHeaders(message_id="m@x"), size=4)
    record = IdempotencyRecord(scope, b"f" * 32, b"{}", node.clock.now() + 60.0) if scope else None
    return Accept(
        Message(key, "acct", "x.test", "a@x.test", summary, 1.0, 1e12, options=Options(pool="dedicated")),
        body,
        tuple(NewRecipient(address, due, b'{"n":1}', "FAILURE", "rfc822;o@x.test") for address in addresses),
        tuple(f'{{"accepted":"{address}"}}'.encode() for address in addresses),
        record,
    )
