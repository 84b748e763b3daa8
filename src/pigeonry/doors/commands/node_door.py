"""Serves commands to other nodes, over mutual TLS.

Before a peer has shown a certificate of the cluster's authority it costs a handshake, and no more: handshakes are
bounded in number and in time, and when there are too many the one that lasts longest gives way, so that a peer that is
quick gets in whoever else is slow. Then its certificate must name a member. Only then are its octets read, within the
bounds of ``frames``.

Standards: RFC 8446.
Trust: anyone who reaches the address may try; who passes is a node of the cluster, and may do to messages what an
operator may, and send from this node's addresses what ``relay`` lets it. It may ask for nothing else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from pigeonry import __version__
from pigeonry.domain.errors import NotAllowed, Overloaded, PigeonryError
from pigeonry.doors.commands.answering import answer
from pigeonry.doors.commands.channel import VERSIONS, names_shown, version_spoken
from pigeonry.doors.commands.frames import REQUEST_OCTETS_MAX, frame, read_length, read_rest
from pigeonry.doors.commands.relay import asked_to_dial
from pigeonry.doors.commands.wire import Answer, encode_answer, refusal

if TYPE_CHECKING:
    import socket
    import ssl

    from pigeonry.doors.commands.answering import Act
    from pigeonry.doors.commands.relay import Relays
    from pigeonry.doors.commands.wire import Command
    from pigeonry.ports.environment import Clock

__all__ = ["REASONS", "DoorLimits", "NodeDoor"]

_LOG: Final = structlog.stdlib.get_logger("pigeonry.doors.commands")
REASONS: Final = ("handshake", "slow", "peer", "resources")
"""Why a connection is refused: it is no TLS of ours, another was quicker, it is no member's, we have no room for it."""
ACCEPT_PAUSE_S: Final = 1.0  # without descriptors or memory for one more connection, the next is taken after a while
TOLD_PAUSE_S: Final = 10.0  # refusals are told this often at most, however many there are
SHUTDOWN_S: Final = 1.0  # for a peer to say goodbye; then the connection is cut


class DoorLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the door, for one worker.

    Args:
        handshakes_max: Peers that have not shown who they are yet. One costs some 300 KiB and 1 ms.
        handshake_s: What that may take, from the connection on. Over the slowest line it takes three round trips.
        connections_max: Peers that have. A node's worker holds four at most.
        idle_s: A connection that asks for nothing for so long is closed; the next command makes another.
        frame_s: What a command may take to arrive, or its answer to be taken, once begun.
        life_s: A connection is not used any longer, so that what a certificate says is looked at again.
    """

    handshakes_max: int = 64
    handshake_s: float = 5.0
    connections_max: int = 512
    idle_s: float = 60.0
    frame_s: float = 10.0
    life_s: float = 3_600.0


class NodeDoor:
    """One worker's door for other nodes.

    Args:
        act: Does a command and gives back its result.
        context: Gives the TLS context that the next handshake is made with: it asks for a certificate.
        is_member: Whether a node of that name is a member.
        clock: Time.
        relays: What connections become that ask for one of ours; None where nothing is lent.
    """

    def __init__(
        self,
        act: Act,
        *,
        context: Callable[[], ssl.SSLContext],
        is_member: Callable[[str], Awaitable[bool]],
        clock: Clock,
        limits: DoorLimits | None = None,
        relays: Relays | None = None,
    ) -> None:
        self._act = act
        self._context = context
        self._is_member = is_member
        self._clock = clock
        self._relays = relays
        self._relayed = 0
        self._limits = limits or DoorLimits()
        self._shaking: dict[asyncio.Task[None], None] = {}  # in the order in which they came
        self._open: dict[asyncio.Task[None], int] = {}  # the generation of each
        self._quiet: set[asyncio.StreamWriter] = set()
        self._generation = 0
        self._told_at = -TOLD_PAUSE_S
        self._untold = 0
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))

    @property
    def connections(self) -> int:
        """Connections for commands, of nodes that have shown who they are."""
        return len(self._open) - self._relayed

    async def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serve listening sockets until cancelled; connections end with it."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            loop.add_reader(listening, self._accept, loop, listening)
        try:
            await asyncio.Event().wait()
        finally:
            for listening in sockets:
                loop.remove_reader(listening)
            tasks = [*self._shaking, *self._open]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def renew(self) -> None:
        """End each connection when it is quiet: certificates have changed, and the next handshake looks at them."""
        self._generation += 1
        for writer in tuple(self._quiet):
            writer.close()

    def _accept(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        """Take one connection, in a turn of the loop of its own."""
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:
            self._refuse("resources", "", str(error))
            loop.remove_reader(listening)
            loop.call_later(ACCEPT_PAUSE_S, self._accept_again, loop, listening)
            return
        accepted.setblocking(False)
        if len(self._shaking) >= self._limits.handshakes_max:
            slowest = next(iter(self._shaking))
            del self._shaking[slowest]
            slowest.cancel()
        self._shaking[loop.create_task(self._attend(accepted))] = None

    def _accept_again(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            loop.add_reader(listening, self._accept, loop, listening)

    async def _attend(self, accepted: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            entered = await self._enter(accepted)
        finally:
            self._shaking.pop(task, None)
        if entered is None:
            return
        node, reader, writer = entered
        self._open[task] = self._generation
        try:
            await self._converse(node, reader, writer)
        except (OSError, TimeoutError, PigeonryError) as error:  # the last: who is a member cannot be found out
            writer.transport.abort()
            _LOG.debug("node_lost", node=node, reason=str(error))
        finally:
            del self._open[task]
            writer.close()

    async def _enter(self, accepted: socket.socket) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The peer's node, once it has shown who it is; None when it is refused."""
        address = _address_of(accepted)
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                reader, writer = await self._shake_hands(accepted)
                try:
                    node = await self._admit(writer)
                except PigeonryError as error:
                    self._refuse("peer", address, error.text)
                    writer.write(frame(encode_answer(refusal(error))))
                    writer.close()
                    return None
                writer.write(frame(encode_answer(Answer({"release": __version__}))))
                return node, reader, writer
        except asyncio.CancelledError:
            self.refused["slow"] += 1
            raise
        except (OSError, TimeoutError) as error:
            self._refuse("handshake", address, str(error) or "it took too long")
            return None

    async def _shake_hands(self, accepted: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=REQUEST_OCTETS_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            accepted,
            ssl=self._context(),
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _admit(self, writer: asyncio.StreamWriter) -> str:
        """The name of the member that called.

        Raises:
            NotAllowed: It is none, or speaks no version of ours.
            Overloaded: There are too many connections.
        """
        if version_spoken(writer) is None:
            raise NotAllowed(f"No version is spoken by both; here it is {', '.join(VERSIONS)}.")
        names = names_shown(writer)
        members = [name for name in sorted(names) if await self._is_member(name)]
        if not members:
            shown = ", ".join(sorted(names)) or "nothing"
            raise NotAllowed(f"The certificate names no member of the cluster, but {shown}.")
        if self.connections >= self._limits.connections_max:
            raise Overloaded("Too many connections between nodes.", retry_after_s=1.0)
        return members[0]

    async def _converse(self, node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        generation, until = self._generation, self._clock.monotonic() + self._limits.life_s
        while generation == self._generation and self._clock.monotonic() < until and await self._is_member(node):
            try:
                octets = await self._next(reader, writer)
            except PigeonryError as error:
                writer.write(frame(encode_answer(refusal(error))))
                return
            if octets is None:
                return
            asked = None if self._relays is None else asked_to_dial(octets)
            if self._relays is not None and asked is not None:
                await self._relay(self._relays, asked, node, reader, writer)
                return
            writer.write(frame(await answer(octets, self._act)))
            async with asyncio.timeout(self._limits.frame_s):
                await writer.drain()

    async def _relay(
        self, relays: Relays, asked: Command, node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """The connection is not for commands any more; it is not closed when certificates change."""
        self._relayed += 1
        try:
            await relays.serve(asked, reader, writer, is_known=lambda: self._is_member(node))
        finally:
            self._relayed -= 1

    async def _next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """The next command; None when there comes none.

        Raises:
            TooLarge: It is announced too large.
            TimeoutError: It was begun and did not come.
        """
        self._quiet.add(writer)
        try:
            async with asyncio.timeout(self._limits.idle_s):
                length = await read_length(reader, octets_max=REQUEST_OCTETS_MAX)
        except TimeoutError:
            return None
        finally:
            self._quiet.discard(writer)
        if length is None:
            return None
        async with asyncio.timeout(self._limits.frame_s):
            return await read_rest(reader, length)

    def _refuse(self, why: str, address: str, reason: str) -> None:
        """Count a refusal, and tell of it where none was told lately."""
        self.refused[why] += 1
        now = self._clock.monotonic()
        if now - self._told_at < TOLD_PAUSE_S:
            self._untold += 1
            return
        _LOG.warning("node_refused", address=address, reason=reason, untold=self._untold)
        self._told_at, self._untold = now, 0


def _address_of(accepted: socket.socket) -> str:
    try:
        return str(accepted.getpeername()[0])
    except OSError:  # it is gone already
        return ""
