"""Certificates of clusters, good and bad, and the two ends of a command connection between nodes."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pigeonry.app.cluster_certificates import NODE_DAYS, make_certificates
from pigeonry.app.cluster_tls import ClusterTls
from pigeonry.app.sockets import Listener, bind
from pigeonry.doors.commands.answering import Act, by_name
from pigeonry.doors.commands.channel import VERSIONS
from pigeonry.doors.commands.frames import frame, read_frame
from pigeonry.doors.commands.node_door import DoorLimits, NodeDoor
from pigeonry.doors.commands.peers import PeerLimits, Peers
from pigeonry.doors.commands.relay import Relays
from pigeonry.doors.commands.wire import Command, encode_command, result_of
from pigeonry.net.environment import SystemClock
from pigeonry.ports.ownership import Member

DAY_S = 86_400.0


def certificates(folder: Path, *nodes: str, age_days: float = 0.0, days: int = NODE_DAYS) -> Path:
    """A cluster's certificates, made so long ago."""
    make_certificates(folder, nodes, now=time.time() - age_days * DAY_S, days=days)
    return folder


def shown(folder: Path, node: str, *, ca: Path | None = None, versions: Sequence[str] = VERSIONS) -> ClusterTls:
    """What a node shows and trusts."""
    authority = (ca or folder) / "ca.crt"
    return ClusterTls(str(authority), str(folder / f"{node}.crt"), str(folder / f"{node}.key"), versions=versions)


async def holds(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110  # nobody sets an event for what a test wants to know
            await asyncio.sleep(0.01)


class Called:
    """A node that is called, in this process.

    Args:
        tls: What it shows.
        members: Nodes that it lets in.
    """

    def __init__(
        self, tls: ClusterTls, members: set[str], act: Act, limits: DoorLimits | None, relays: Relays | None
    ) -> None:
        self.tls, self.members = tls, members
        self.trouble: Exception | None = None
        self.sockets = bind(Listener("cluster", "127.0.0.1", 0), slots=1)
        self.port = self.sockets[0].getsockname()[1]
        self.door = NodeDoor(
            act, context=self.context, is_member=self.knows, clock=SystemClock(), limits=limits, relays=relays
        )

    def context(self) -> ssl.SSLContext:
        return self.tls.called()

    async def knows(self, name: str) -> bool:
        if self.trouble is not None:
            raise self.trouble
        return name in self.members

    def member(self, node: str = "a", slot: int = 0) -> Member:
        return Member(node, slot, f"127.0.0.1:{self.port}")

    async def refusals(self, count: int = 1) -> dict[str, int]:
        """How it refused, once it has so often."""
        await holds(lambda: self.door.refused.total() >= count)
        return {why: count for why, count in self.door.refused.items() if count}


@asynccontextmanager
async def called(
    tls: ClusterTls,
    *members: str,
    act: Act | None = None,
    limits: DoorLimits | None = None,
    relays: Relays | None = None,
) -> AsyncIterator[Called]:
    node = Called(tls, set(members), act or by_name({"double": double}), limits, relays)
    task = asyncio.ensure_future(node.door.run(node.sockets))
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for listening in node.sockets:
            listening.close()


async def double(argument: Any) -> Any:
    return argument * 2


def calling(tls: ClusterTls, limits: PeerLimits | None = None) -> Peers:
    return Peers(context=tls.calling, clock=SystemClock(), limits=limits)


def cut(peers: Peers) -> None:
    """End its connections at once, so that the loop may end."""
    for node in peers._nodes.values():
        while node.idle:
            node.idle.pop().writer.transport.abort()


async def ask(peers: Peers, member: Member, name: str = "double", argument: Any = 21, timeout_s: float = 10.0) -> Any:
    return await peers.call(member, Command(name, argument, slot=member.slot), timeout_s=timeout_s)


class Raw:
    """A peer that says what it likes, inside TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def hear(self) -> Any:
        """What was answered, decoded; None when the connection was closed."""
        async with asyncio.timeout(10.0):
            octets = await read_frame(self.reader)
        return None if octets is None else result_of(octets)

    async def ask(self, name: str, argument: Any) -> Any:
        self.say(frame(encode_command(Command(name, argument))))
        return await self.hear()


@asynccontextmanager
async def raw(port: int, tls: ClusterTls, change: Callable[[ssl.SSLContext], None] | None = None) -> AsyncIterator[Raw]:
    context = tls.calling()
    if change is not None:
        change(context)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="a", ssl_shutdown_timeout=0.1
    )
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
