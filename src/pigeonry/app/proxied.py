"""Takes a balancer's header off a connection before the door's own protocol sees it, and before TLS begins.

A connection from an address that ``edge.proxy_protocol_from`` names must begin with a header (``protocol.proxy``); from
any other address none is read, whatever it sends. The header is read by itself, never an octet beyond it, so that the
transport can then be handed to a protocol, or to TLS and then to a protocol, as if it came from the socket. Without
that setting none of this is in a connection's way.

Standards: the PROXY protocol by HAProxy, section 2 (a header that is missing, malformed or late ends the connection).
Trust: what is wrong is closed without an answer, counted and said in the log.
"""

from __future__ import annotations

import asyncio
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
    8_192  # connections without their header or TLS yet, some 50 KB each; balancers are to bound theirs
)
SAID_AGAIN_S: Final = 60.0  # seconds between two lines of log on headers: a wrong health check comes every second

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
        self.waiting: set[_Header] = set()
        self._log = log
        self._said_at = -SAID_AGAIN_S

    def before(
        self, make: Make, *, door: str, context: ssl.SSLContext | None
    ) -> Callable[[], asyncio.BufferedProtocol]:
        """What a listener without TLS makes its protocols with.

        Args:
            make: Makes the door's protocol of what the header says; of None where none was read.
            door: The door's name, for the metric.
            context: For TLS between the header and the protocol; None for none.
        """
        return lambda: _Header(self, make, door, context)

    def refuse(self, door: str, reason: str, peer: str) -> None:
        """Count a connection that is closed for its header."""
        self.refused[door, reason] += 1
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= SAID_AGAIN_S:
            self._said_at = now
            self._log.warning("proxy_header_refused", door=door, reason=reason, peer=peer)

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a header, where one must come."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        shared = self._shared
        if len(shared.waiting) >= WAITING_MAX:
            self._refuse("crowded")
        elif not self._peer or not shared.trusted.has(self._peer):
            self._hand_over(None)
        else:
            shared.waiting.add(self)
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
        self._leave()

    def cut(self) -> None:
        """Close it at once."""
        if self._task is not None:
            self._task.cancel()
        self._leave()
        self._transport.abort()

    def _refuse(self, reason: str) -> None:
        self._leave()
        self._shared.refuse(self._door, reason, self._peer)
        self._transport.abort()

    def _leave(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._shared.waiting.discard(self)

    def _hand_over(self, source: proxy.Source | None) -> None:
        self._leave()
        if self._context is not None:
            self._shared.waiting.add(self)
            self._transport.pause_reading()  # not one octet of the handshake may come here
            self._task = asyncio.get_running_loop().create_task(self._start_tls(source, self._context))
            return
        protocol = self._make(source)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)

    async def _start_tls(self, source: proxy.Source | None, context: ssl.SSLContext) -> None:
        early = _Early()
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, early, context, server_side=True, ssl_handshake_timeout=self._shared.handshake_s
            )
        except OSError:
            # The peer's doing (ssl.SSLError and timeouts are OSErrors): there is nobody left to tell.
            self._transport.abort()
            return
        finally:
            self._shared.waiting.discard(self)
        if transport is not None:
            early.hand_over(self._make(source), transport)


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
