"""Makes connections for other nodes from an address that this node owns, and passes octets on both ways.

It begins as a command (``egress.dial``) on a connection between nodes; its answer says which address the receiver sees.
From then on the connection carries what goes to the receiver and comes from it, as it is.

Before any octets go to the receiver it is looked whether the lease of the address still holds, and each second besides:
a connection outlives no lease, and a process that was stopped for a while passes nothing on when it wakes.

A node that drains makes no new ones, and ends those that stand at a moment when it takes nothing from anybody: the
receiver spoke last and nothing followed, so that no reply is on its way.

Trust: the caller is a member, and may have gone wrong: what it may connect to and from is decided by ``Lender``. The
receiver may be anyone; its octets are not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from pigeonry.domain.errors import BadRequest, Fault, NotOwner, Overloaded, PigeonryError
from pigeonry.doors.commands.frames import frame
from pigeonry.doors.commands.wire import Answer, decode_command, encode_answer, refusal
from pigeonry.ports.network import SourceGone

if TYPE_CHECKING:
    from pigeonry.doors.commands.wire import Command
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.network import Dialer

__all__ = ["DIAL", "Dialled", "Lender", "RelayLimits", "Relays", "Wanted", "asked_to_dial"]

DIAL: Final = "egress.dial"
BLOCK_OCTETS: Final = 65_536  # passed on at once; as much again waits in each direction
SHUTDOWN_S: Final = 1.0  # for a peer to take what was written when the other side has closed


class Wanted(msgspec.Struct, frozen=True):
    """The connection that is asked for.

    Args:
        source: IP address of this node to connect from.
        address, port: The receiver's.
    """

    source: str
    address: str
    port: int


class Dialled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of it: our end's address and port as the receiver sees them, or the system's error number."""

    address: str = ""
    port: int = 0
    errno: int = 0


class Lender(Protocol):
    """Decides what is lent (``delivery.lending``)."""

    async def lend(self, source: str, address: str, port: int) -> Callable[[], bool]:
        """Let a connection be made; the result says whether its source may still be used.

        Raises:
            PigeonryError: It may not be made.
        """
        ...


class RelayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds, for one worker.

    Args:
        relays_max: Connections for other nodes, each with two descriptors and at most some 300 KiB.
        dial_s: What making one may take, whatever the caller allows.
        idle_s: Silence both ways after which one is cut. The longest that SMTP knows is the wait for the reply to the
            final dot: ten minutes (RFC 5321 section 4.5.3.2.6).
        block_s: What a block may take to be taken by either side (4.5.3.2.5).
        life_s: None lasts longer, whoever speaks.
        look_s: Between looks at what stands: leases, silence, members.
        quiet_s: After a receiver's last word, when draining: a caller that had more to say has said it by then.
    """

    relays_max: int = 512
    dial_s: float = 60.0
    idle_s: float = 660.0
    block_s: float = 180.0
    life_s: float = 3_600.0
    look_s: float = 1.0
    quiet_s: float = 0.5


class _Relay:
    """One that stands, or is being made."""

    __slots__ = ("began_at", "caller", "from_receiver", "heard_at", "holds", "is_known", "receiver")

    def __init__(self, caller: asyncio.StreamWriter, is_known: Callable[[], Awaitable[bool]], now: float) -> None:
        self.caller = caller
        self.receiver: asyncio.StreamWriter | None = None
        self.is_known = is_known
        self.holds: Callable[[], bool] = lambda: True
        self.began_at = self.heard_at = now
        self.from_receiver = False  # who spoke last

    def cut(self) -> None:
        """End it at once: what was not written never leaves."""
        if not self.caller.is_closing():  # one that is ends by itself, as TLS bounds its farewell
            self.caller.transport.abort()
        if self.receiver is not None:
            self.receiver.transport.abort()


class Relays:
    """The connections that a worker makes for other nodes.

    Args:
        lender: What may be made.
        dialer: Makes them.
        clock: Time.
    """

    def __init__(self, lender: Lender, *, dialer: Dialer, clock: Clock, limits: RelayLimits | None = None) -> None:
        self._lender = lender
        self._dialer = dialer
        self._clock = clock
        self._limits = limits or RelayLimits()
        self._relays: set[_Relay] = set()
        self._ending = False
        self._none_left = asyncio.Event()
        self.refused = 0

    def __len__(self) -> int:
        return len(self._relays)

    async def run(self) -> None:
        """Look after what stands, until cancelled."""
        while True:
            await self._clock.sleep(self._limits.look_s)
            for relay in tuple(self._relays):
                if self._is_over(relay) or not await _is_known(relay):
                    relay.cut()

    async def drain(self) -> None:
        """Make no more; return when none is left. The caller bounds the wait."""
        self._ending = True
        if self._relays:
            await self._none_left.wait()

    async def serve(
        self,
        asked: Command,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_known: Callable[[], Awaitable[bool]],
    ) -> None:
        """Do what a caller asks with its connection, until that ends.

        Args:
            is_known: Whether the caller is a member still. May raise ``Fault``.
        """
        relay = _Relay(writer, is_known, self._clock.monotonic())
        try:
            answer = await self._dial(relay, asked)
        except PigeonryError as error:
            self.refused += 1
            writer.write(frame(encode_answer(refusal(error))))
            return
        except OSError as error:
            writer.write(frame(encode_answer(Answer(Dialled(errno=_number(error))))))
            return
        receiver, reader_of_receiver = answer
        try:
            here = receiver.get_extra_info("sockname")
            writer.write(frame(encode_answer(Answer(Dialled(str(here[0]), here[1])))))
            await self._pass_on(relay, (reader, receiver), (reader_of_receiver, writer))
        finally:
            self._forget(relay)
            relay.cut()

    async def _dial(self, relay: _Relay, asked: Command) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
        """The connection to the receiver; it counts from here on.

        Raises:
            PigeonryError: It may not be made.
            OSError: It cannot be.
        """
        try:
            wanted = msgspec.convert(asked.argument, Wanted)
        except msgspec.ValidationError as error:
            raise BadRequest(f"The command is malformed: {error}") from None
        if self._ending:
            raise NotOwner("This node is about to stop.")
        if len(self._relays) >= self._limits.relays_max:
            raise Overloaded("Too many connections for other nodes.", retry_after_s=1.0)
        self._relays.add(relay)
        try:
            relay.holds = await self._lender.lend(wanted.source, wanted.address, wanted.port)
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader(limit=BLOCK_OCTETS, loop=loop)
            protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
            within_s = self._limits.dial_s if asked.within_s is None else min(asked.within_s, self._limits.dial_s)
            transport = await self._dialer.dial(
                lambda: protocol, wanted.address, wanted.port, source=wanted.source, timeout_s=within_s
            )
        except SourceGone as error:
            self._forget(relay)
            raise NotOwner("That address is not on this machine any more.") from error
        except BaseException:
            self._forget(relay)
            raise
        relay.receiver = asyncio.StreamWriter(transport, protocol, reader, loop)
        return relay.receiver, reader

    async def _pass_on(
        self,
        relay: _Relay,
        out: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        back: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass octets on until either side ends; what was taken from it is still given to the other."""
        ways = [asyncio.ensure_future(self._one_way(relay, *out)), asyncio.ensure_future(self._one_way(relay, *back))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if relay.holds():
                for _, writer in (out, back):
                    writer.close()
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(SHUTDOWN_S):
                        await asyncio.gather(out[1].wait_closed(), back[1].wait_closed())
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _one_way(self, relay: _Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass octets on until there are no more, or they may not be."""
        with contextlib.suppress(OSError, TimeoutError):
            while octets := await reader.read(BLOCK_OCTETS):
                relay.heard_at = self._clock.monotonic()
                relay.from_receiver = writer is relay.caller
                if writer is relay.receiver and not relay.holds():
                    return
                writer.write(octets)
                async with asyncio.timeout(self._limits.block_s):
                    await writer.drain()

    def _forget(self, relay: _Relay) -> None:
        self._relays.discard(relay)
        if not self._relays:
            self._none_left.set()

    def _is_over(self, relay: _Relay) -> bool:
        limits, now = self._limits, self._clock.monotonic()
        silent_s = now - relay.heard_at
        if not relay.holds() or silent_s > limits.idle_s or now - relay.began_at > limits.life_s:
            return True
        return self._ending and relay.from_receiver and silent_s >= limits.quiet_s


def asked_to_dial(octets: bytes) -> Command | None:
    """The command in a frame if it is one to dial; None when it is another, or none."""
    try:
        command = decode_command(octets)
    except PigeonryError:
        return None
    return command if command.name == DIAL else None


async def _is_known(relay: _Relay) -> bool:
    try:
        return await relay.is_known()
    except Fault:  # it cannot be found out just now; what the lease allows goes on
        return True


def _number(error: OSError) -> int:
    """The system's number; a connection that was not made in time has none of its own."""
    return error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.ECONNREFUSED)
