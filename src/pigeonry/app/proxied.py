"""What stands between a connection and its door: a balancer's header, and TLS on a port that begins with it.

A connection from an address that ``edge.proxy_protocol_from`` names must begin with a header (``protocol.proxy``); from
any other address none is read, whatever it sends. The header is read by itself, never an octet beyond it, so that the
transport can then be handed to a protocol, or to TLS and then to a protocol, as if it came from the socket.

Who has sent neither header nor handshake yet costs memory and a descriptor, whoever he is. So these are bounded in time
and in number, and when there are too many the one that has taken longest gives way: who is quick gets in, whoever else
is slow. A port without TLS has none of this in its connections' way while that setting names nobody.

Standards: the PROXY protocol by HAProxy, section 2 (a header that is missing, malformed or late ends the connection).
Trust: what is wrong is closed without an answer, counted and said in the log.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, cast

from pigeonry.protocol import proxy

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from pigeonry.domain.networks import Networks
    from pigeonry.telemetry.log import Logger

__all__ = ["HEADER_S", "WAITING_MAX", "ProxyDoor"]

HEADER_S: Final = 5.0  # from the connection to the end of its header: sent at once, and once more when a packet is lost
WAITING_MAX: Final = (
    4_096  # connections without their header or TLS yet, some 50 KB each: 200 MB, and of descriptors a few
)
SAID_AGAIN_S: Final = 60.0  # seconds between two lines of log on these: a wrong health check comes every second

Make = Any  # Callable[[proxy.Source | None], asyncio.Protocol]: also uvicorn's protocols, which are made by keyword


class ProxyDoor:
    """What the listeners of a worker share.

    Args:
        trusted: Who must send a header.
        handshake_s: Seconds for a TLS handshake behind it.
    """

    def __init__(self, trusted: Networks, *, handshake_s: float, log: Logger) -> None:
        self.trusted = trusted
        self.handshake_s = handshake_s
        self.refused: Counter[tuple[str, str]] = Counter()
        self.waiting: dict[_Header, None] = {}  # in the order in which they came
        self._log = log
        self._said_at = -SAID_AGAIN_S

    def before(
        self, make: Make, *, door: str, context: ssl.SSLContext | None
    ) -> Callable[[], asyncio.BufferedProtocol]:
        """What a listener makes its protocols with; the listener itself has no TLS.

        Args:
            make: Makes the door's protocol of what the header says; of None where none was read.
            door: The door's name, for the metric.
            context: For TLS between the header and the protocol; None for none.
        """
        return lambda: _Header(self, make, door, context)

    def wait(self, waiting: _Header) -> None:
        """Have one wait, in the place of the one that has waited longest if there are too many."""
        if len(self.waiting) >= WAITING_MAX:
            next(iter(self.waiting)).crowded_out()
        self.waiting[waiting] = None

    def refuse(self, door: str, reason: str, peer: str) -> None:
        """Count a connection that is closed before its door had it."""
        self.refused[door, reason] += 1
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= SAID_AGAIN_S:
            self._said_at = now
            event = "connections_crowded" if reason == "crowded" else "proxy_header_refused"
            self._log.warning(event, door=door, reason=reason, peer=peer)

    def stop(self) -> None:
        """Cut what has not come to its door."""
        for waiting in tuple(self.waiting):
            waiting.cut()


class _Header(asyncio.BufferedProtocol):
    """One connection until its own protocol has it."""

    def __init__(self, shared: ProxyDoor, make: Make, door: str, context: ssl.SSLContext | None) -> None:
        self._shared = shared
        self._make = make
        self._door = door
        self._context = context
        self._header = b""
        self._buffer = bytearray()
        self._peer = ""
        self._late: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._untouched: socket.socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a header, where one must come."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        shared = self._shared
        if not self._peer or not shared.trusted.has(self._peer):
            self._go_round()
        else:
            shared.wait(self)
            self._late = asyncio.get_running_loop().call_later(HEADER_S, self._refuse, "late")
            self._wanted = cast("int", proxy.read(b""))

    def get_buffer(self, _hint: int) -> bytearray:
        """Room for what certainly belongs to the header."""
        self._buffer = bytearray(self._wanted)
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        """Some of it came."""
        self._header += self._buffer[:count]
        try:
            said = proxy.read(self._header)
        except proxy.BadHeader:
            self._refuse("malformed")
            return
        if isinstance(said, int):
            self._wanted = said
        else:
            self._hand_over(said)

    def connection_lost(self, _reason: Exception | None) -> None:
        """Gone before its header was whole: a balancer that only looks whether somebody listens does that."""
        if self._task is None:
            self._leave()

    def cut(self) -> None:
        """Close it at once."""
        if self._task is not None:
            self._task.cancel()
        if self._untouched is not None:
            self._untouched.close()
        self._leave()
        self._transport.abort()

    def crowded_out(self) -> None:
        """Give way to another."""
        self._shared.refuse(self._door, "crowded", self._peer)
        self.cut()

    def _refuse(self, reason: str) -> None:
        self._leave()
        self._shared.refuse(self._door, reason, self._peer)
        self._transport.abort()

    def _leave(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._shared.waiting.pop(self, None)

    def _hand_over(self, source: proxy.Source | None) -> None:
        if self._context is not None:
            self._transport.pause_reading()  # not one octet of the handshake may come here
            self._begin_tls(source, self._context)
            return
        self._leave()
        protocol = self._make(source)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)

    def _go_round(self) -> None:
        """There is no header to be read.

        A transport that was just made reads from now on, and uvloop's cannot be stopped before it has: the handshake
        would come here. So TLS begins on a transport of its own, from the same socket.
        """
        if self._context is None:
            self._hand_over(None)
            return
        self._untouched = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        self._untouched.setblocking(False)
        self._shared.wait(self)
        self._begin_tls(None, self._context)
        self._transport.abort()

    def _begin_tls(self, source: proxy.Source | None, context: ssl.SSLContext) -> None:
        if self._late is not None:
            self._late.cancel()
        self._task = asyncio.get_running_loop().create_task(self._through_tls(source, context))

    async def _through_tls(self, source: proxy.Source | None, context: ssl.SSLContext) -> None:
        early = _Early()
        try:
            transport = await self._shake_hands(early, context)
        except OSError:
            # The peer's doing (ssl.SSLError and timeouts are OSErrors): there is nobody left to tell.
            self._transport.abort()
            return
        finally:
            self._shared.waiting.pop(self, None)
        if transport is not None:
            early.hand_over(self._make(source), transport)

    async def _shake_hands(self, early: _Early, context: ssl.SSLContext) -> asyncio.Transport | None:
        loop, within_s = asyncio.get_running_loop(), self._shared.handshake_s
        untouched, self._untouched = self._untouched, None
        if untouched is None:
            return await loop.start_tls(
                self._transport, early, context, server_side=True, ssl_handshake_timeout=within_s
            )
        transport, _ = await loop.connect_accepted_socket(
            lambda: early, untouched, ssl=context, ssl_handshake_timeout=within_s
        )
        return transport


class _Early(asyncio.Protocol):
    """Keeps what comes with the end of a TLS handshake: at most what one read from the socket held."""

    def __init__(self) -> None:
        self._octets: list[bytes] = []
        self._ended = self._lost = False

    def data_received(self, data: bytes) -> None:
        """Keep it for a moment."""
        self._octets.append(data)

    def eof_received(self) -> bool:
        """Leave the answer to the protocol."""
        self._ended = True
        return True

    def connection_lost(self, _reason: Exception | None) -> None:
        """Nobody will have to hear of this connection."""
        self._lost = True

    def hand_over(self, protocol: asyncio.Protocol, transport: asyncio.Transport) -> None:
        """Begin the protocol with what there is."""
        if self._lost:
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        for octets in self._octets:
            protocol.data_received(octets)
        if self._ended and not protocol.eof_received():
            transport.close()
