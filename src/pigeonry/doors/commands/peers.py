"""Asks other nodes, over mutual TLS: a few connections to each, kept for the next command.

One command is under way on a connection at a time. A connection whose command was cut off is not used again, and one
that the other side may be about to close neither: what is asked once is done once at most.

Standards: RFC 8446.
Trust: a node is believed to be who its certificate says. What it answers is data, bounded by ``frames``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from pigeonry.domain.errors import Overloaded, OwnerUnreachable, PigeonryError
from pigeonry.doors.commands.channel import names_shown
from pigeonry.doors.commands.client import NobodyListens, unreachable
from pigeonry.doors.commands.frames import REQUEST_OCTETS_MAX, frame, read_frame
from pigeonry.doors.commands.handover import HandOver
from pigeonry.doors.commands.wire import encode_command, result_of

if TYPE_CHECKING:
    import ssl

    from pigeonry.doors.commands.handover import Take
    from pigeonry.doors.commands.wire import Command
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.ownership import Member

__all__ = ["PeerLimits", "Peers"]

_LOG: Final = structlog.stdlib.get_logger("pigeonry.doors.commands")
NODES_MAX: Final = 1024  # of which connections are kept in mind; a cluster has fewer
TOLD_PAUSE_S: Final = 10.0  # a node that cannot be reached is told of this often at most
SHUTDOWN_S: Final = 1.0  # for a peer to say goodbye; then the connection is cut


class PeerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what goes to one node, for one worker.

    Args:
        connections_max: Commands under way at a time.
        waiting_max: Commands that wait for one of these to end; over it they are refused.
        connect_s: What a connection may take until the node has let us in.
        idle_s: How long a connection is kept unused: half of what the other side keeps it, so that it is never closed
            as a command sets out.
    """

    connections_max: int = 4
    waiting_max: int = 256
    connect_s: float = 5.0
    idle_s: float = 30.0


class _Connection(msgspec.Struct):
    """One that the node has let us in by."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    generation: int
    used_at: float = 0.0

    def has_ended(self) -> bool:
        """Whether the node closed it, or it was cut."""
        return self.reader.at_eof() or self.reader.exception() is not None or self.writer.is_closing()


class _Node:
    """What there is to one node."""

    def __init__(self, name: str, address: str, limits: PeerLimits) -> None:
        self.name = name
        self.address = address
        self.turns = asyncio.Semaphore(limits.connections_max)
        self.under_way = 0
        self.idle: deque[_Connection] = deque()
        self.told_at = -TOLD_PAUSE_S

    def close(self) -> None:
        """Close what is not in use."""
        while self.idle:
            self.idle.pop().writer.close()


class Peers:
    """The other nodes, as this worker reaches them.

    Args:
        context: Gives the TLS context that the next connection is made with: it shows our certificate, and trusts none
            but the cluster's authority.
        clock: Time.
    """

    def __init__(
        self, *, context: Callable[[], ssl.SSLContext], clock: Clock, limits: PeerLimits | None = None
    ) -> None:
        self._context = context
        self._clock = clock
        self._limits = limits or PeerLimits()
        self._nodes: dict[str, _Node] = {}
        self._generation = 0
        self.unanswered = 0

    async def call(self, member: Member, command: Command, *, timeout_s: float) -> Any:
        """Ask a member of another node; its result, decoded.

        Raises:
            NobodyListens: It cannot be reached, or does not let us in; nothing was asked.
            OwnerUnreachable: It does not answer in time. It may have done what was asked.
            Overloaded: Too many commands wait for it.
            PigeonryError: What it refused with, as its own class.
        """
        octets = frame(encode_command(command), octets_max=REQUEST_OCTETS_MAX)
        node = self._node(member)
        asked = False
        try:
            async with asyncio.timeout(timeout_s), self._turn(node):
                connection = self._kept(node) or await self._connect(member)
                try:
                    asked = True
                    connection.writer.write(octets)
                    answered = await _must(read_frame(connection.reader))
                except BaseException:
                    connection.writer.transport.abort()
                    raise
                self._keep(node, connection)
            return result_of(answered)
        except (OSError, TimeoutError, ValueError, RecursionError) as error:
            self._tell(node, member, error)
            raise unreachable(OwnerUnreachable if asked else NobodyListens) from error

    async def hand_over(self, member: Member, command: Command, *, take: Take, timeout_s: float) -> asyncio.Transport:
        """Ask a member of another node for something on a connection of its own, which is for other octets then.

        Args:
            take: Makes of the result and the transport the protocol that is to receive what follows.

        Raises:
            OwnerUnreachable: It does not answer in time.
            PigeonryError: What it refused with, as its own class.
        """
        node = self._node(member)
        host, _, port = member.address.rpartition(":")
        loop = asyncio.get_running_loop()
        asking = HandOver(member.node, command, take, loop.create_future())
        try:
            async with asyncio.timeout(timeout_s):
                async with asyncio.timeout(self._limits.connect_s):
                    await loop.create_connection(
                        lambda: asking,
                        host.strip("[]"),
                        int(port),
                        ssl=self._context(),
                        server_hostname=member.node,
                        ssl_shutdown_timeout=SHUTDOWN_S,
                    )
                return await asking.handed
        except (OSError, TimeoutError, ValueError, RecursionError) as error:
            asking.abort()
            self._tell(node, member, error)
            raise unreachable() from error
        except BaseException:
            asking.abort()
            raise

    def renew(self) -> None:
        """Make new connections from now on: certificates have changed."""
        self._generation += 1
        self.close()

    def close(self) -> None:
        """Close what is not in use."""
        for node in self._nodes.values():
            node.close()

    def _node(self, member: Member) -> _Node:
        node = self._nodes.get(member.node)
        if node is None or node.address != member.address:
            if node is not None:
                node.close()
            elif len(self._nodes) >= NODES_MAX:
                self._forget_one()
            node = self._nodes[member.node] = _Node(member.node, member.address, self._limits)
        return node

    def _forget_one(self) -> None:
        quiet = next((name for name, node in self._nodes.items() if not node.under_way), None)
        if quiet is not None:
            self._nodes.pop(quiet).close()

    @contextlib.asynccontextmanager
    async def _turn(self, node: _Node) -> AsyncIterator[None]:
        """Wait until one more command may be under way."""
        if node.under_way >= self._limits.connections_max + self._limits.waiting_max:
            raise Overloaded("Too many commands wait for that node.", retry_after_s=1.0)
        node.under_way += 1
        try:
            async with node.turns:
                yield
        finally:
            node.under_way -= 1

    def _kept(self, node: _Node) -> _Connection | None:
        """A connection on which the node still waits for a command."""
        while node.idle:
            kept = node.idle.pop()
            if not kept.has_ended() and self._clock.monotonic() - kept.used_at < self._limits.idle_s:
                return kept
            kept.writer.close()
        return None

    def _keep(self, node: _Node, connection: _Connection) -> None:
        if connection.generation != self._generation or self._nodes.get(node.name) is not node:
            connection.writer.close()
            return
        connection.used_at = self._clock.monotonic()
        node.idle.append(connection)

    async def _connect(self, member: Member) -> _Connection:
        """A connection to a node that is who it should be and has let us in.

        Raises:
            OSError, TimeoutError: It cannot be had.
        """
        host, _, port = member.address.rpartition(":")
        generation = self._generation
        async with asyncio.timeout(self._limits.connect_s):
            reader, writer = await asyncio.open_connection(
                host.strip("[]"),
                int(port),
                ssl=self._context(),
                server_hostname=member.node,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
            try:
                await _let_in(member.node, reader, writer)
            except BaseException:
                writer.transport.abort()
                raise
        return _Connection(reader, writer, generation)

    def _tell(self, node: _Node, member: Member, error: Exception) -> None:
        self.unanswered += 1
        now = self._clock.monotonic()
        if now - node.told_at >= TOLD_PAUSE_S:
            node.told_at = now
            reason = str(error) or type(error).__name__
            _LOG.warning("node_unreachable", node=member.node, address=member.address, reason=reason)


async def _let_in(node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """See that it is the node that was meant, and hear its first word."""
    if node not in names_shown(writer):
        raise ConnectionRefusedError(f"its certificate does not name {node}")
    try:
        result_of(await _must(read_frame(reader, octets_max=REQUEST_OCTETS_MAX)))
    except PigeonryError as error:
        raise ConnectionRefusedError(error.text) from None


async def _must(reading: Coroutine[Any, Any, bytes | None]) -> bytes:
    octets = await reading
    if octets is None:
        raise ConnectionResetError("it closed the connection")
    return octets
