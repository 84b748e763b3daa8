"""A network of virtual wires: connections with latency, resets and silence, and names that sometimes do not resolve.

Octets take a while to arrive, in order and sometimes in pieces. A machine that goes down takes its ends of all wires
with it; what it had handed to the network may still arrive.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from pigeonry.ports.network import DnsFailure, MailExchanger, NoSuchDomain, SourceGone, TlsPeer

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from pigeonry.testing.dice import SeededDice

__all__ = ["FakeDialer", "FakeResolver", "Listener", "WireEnd", "connect"]

LATENCY_S: Final = (0.000_2, 0.03)  # seconds that octets travel, drawn once for each wire
SPLIT: Final = 0.05  # how often octets arrive in two pieces


class WireEnd(asyncio.Transport):
    """One end of a connection.

    Args:
        loop: Whose time passes.
        latency_s: Seconds from here to the other end.
        name: Address and port of this end.
        dice: Decide whether what is written arrives in pieces; None for never.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        latency_s: float,
        name: tuple[str, int],
        dice: SeededDice | None = None,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._latency_s = latency_s
        self.name = name
        self._dice = dice
        self.peer: WireEnd | None = None
        self._protocol: asyncio.Protocol | None = None
        self.arriving: deque[bytes | None] = deque()  # None is the end of what the other side sends
        self._held: deque[bytes] = deque()
        self._reading = True
        self._closing = False
        self._gone = False
        self.spy: Callable[[bytes], None] | None = None

    def join(self, peer: WireEnd, protocol: asyncio.Protocol) -> None:
        """Become one end of a connection with ``peer``."""
        self.peer = peer
        self._protocol = protocol

    # -- what a protocol may ask of its transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send octets; they are lost when the connection is closing."""
        if self._closing or self._gone or not data:
            return
        octets = bytes(data)
        if self.spy is not None:
            self.spy(octets)
        assert self.peer is not None
        if self._dice is not None and len(octets) > 1 and self._dice.chance(SPLIT):
            cut = self._dice.count(1, len(octets) - 1)
            self._send(octets[:cut])
            self._send(octets[cut:])
        else:
            self._send(octets)

    def writelines(self, list_of_data: Any) -> None:
        """Send them all in one."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """End what this side sends."""
        self.close()

    def can_write_eof(self) -> bool:
        """Half-closed connections are not simulated."""
        return False

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._closing or self._gone

    def close(self) -> None:
        """Close once what was written has arrived."""
        if self._closing or self._gone:
            return
        self._closing = True
        self._send(None)
        self._loop.call_soon(self.lost, None)

    def abort(self) -> None:
        """Close at once; what is still on its way here is lost."""
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Addresses of both ends."""
        assert self.peer is not None
        return {"sockname": self.name, "peername": self.peer.name}.get(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told of what arrives."""
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell another one from now on."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def pause_reading(self) -> None:
        """Hold back what arrives."""
        self._reading = False

    def resume_reading(self) -> None:
        """Hand over what arrived meanwhile."""
        self._reading = True
        while self._held and self._reading and not self._gone:
            self.get_protocol().data_received(self._held.popleft())  # type: ignore[attr-defined]

    def is_reading(self) -> bool:
        """Whether what arrives is handed over."""
        return self._reading

    def get_write_buffer_size(self) -> int:
        """The network takes everything at once."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer to limit."""

    # -- what may happen to it

    def reset(self) -> None:
        """The other side hears of a reset, with all that was on its way; so does this one."""
        assert self.peer is not None
        self.peer.lost(ConnectionResetError("Connection reset by peer"))
        self.lost(None)

    def vanish(self, *, sent_arrives: bool) -> None:
        """This machine is gone: it hears nothing any more; the other side sees the connection end.

        Args:
            sent_arrives: Whether what was written so far still arrives (a process was killed, not the power cut).
        """
        if self._gone:
            return
        self._gone = True
        assert self.peer is not None
        if sent_arrives:
            if not self._closing:
                self._send(None)
        else:
            self.peer.arriving.clear()
            self._loop.call_soon(self.peer.lost, ConnectionResetError("Connection reset by peer"))

    def _send(self, octets: bytes | None) -> None:
        assert self.peer is not None
        self.peer.arriving.append(octets)
        self._loop.call_later(self._latency_s, self.peer.arrive)

    def arrive(self) -> None:
        """What was sent first is here now."""
        if self._gone or not self.arriving:
            return
        octets = self.arriving.popleft()
        if octets is None:
            self.lost(None)
        elif not self._reading:
            self._held.append(octets)
        elif not self._closing:
            self.get_protocol().data_received(octets)  # type: ignore[attr-defined]

    def lost(self, error: Exception | None) -> None:
        """The connection is over, on this side."""
        if self._gone:
            return
        self._gone = True
        self.get_protocol().connection_lost(error)


def connect(
    loop: asyncio.AbstractEventLoop,
    dice: SeededDice,
    *,
    client: asyncio.Protocol,
    client_name: tuple[str, int],
    server: asyncio.Protocol,
    server_name: tuple[str, int],
) -> tuple[WireEnd, WireEnd]:
    """Wire two protocols together; both have heard ``connection_made``, the client first."""
    latency_s = dice.between(*LATENCY_S)
    near = WireEnd(loop, latency_s, client_name, dice)
    far = WireEnd(loop, latency_s, server_name, dice)
    near.join(far, client)
    far.join(near, server)
    client.connection_made(near)
    loop.call_soon(server.connection_made, far)
    return near, far


class Listener(Protocol):
    """Who answers at an address."""

    def answer(self, address: str, port: int) -> asyncio.Protocol | None:
        """The server's side of a new connection, None when it is refused."""
        ...

    def silent(self, address: str) -> bool:
        """Whether packets to it are lost just now."""
        ...

    def handshake_fails(self, address: str) -> bool:
        """Whether TLS does not come about this time."""
        ...

    def secured(self, server: asyncio.Protocol) -> None:
        """The connection of this server protocol is encrypted from now on."""
        ...


class FakeDialer:
    """Connects to listeners over virtual wires.

    Args:
        loop: Whose time passes.
        listener: Answers at all addresses.
        dice: Draw latencies.
        spy: Sees all that is written on any connection, before it leaves, with the connection's number.
        addresses: The machine's own that may be asked for; may change while time passes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
        dice: SeededDice,
        *,
        spy: Callable[[int, bytes], None] | None = None,
        addresses: Container[str] = frozenset(),
    ) -> None:
        self._addresses = addresses
        self._loop = loop
        self._listener = listener
        self._dice = dice
        self._spy = spy
        self.sources: dict[int, str] = {}
        """The local address of each connection, by its number."""
        self._ends: dict[int, WireEnd] = {}
        self._count = 0
        self._down = False

    async def dial(
        self, protocol: Callable[[], asyncio.Protocol], address: str, port: int, *, source: str, timeout_s: float
    ) -> asyncio.Transport:
        """Connect."""
        if self._down:
            raise ConnectionRefusedError("Connection refused")
        if source and not self.has_address(source):
            raise SourceGone("Cannot assign requested address")
        if self._listener.silent(address):
            await asyncio.sleep(timeout_s)  # noqa: TID251  # the network is a part of virtual time
            raise TimeoutError("Timed out")
        await asyncio.sleep(self._dice.between(*LATENCY_S))  # noqa: TID251
        server = None if self._down else self._listener.answer(address, port)
        if server is None:
            raise ConnectionRefusedError("Connection refused")
        self._count += 1
        self.sources[self._count] = source
        near, _ = connect(
            self._loop,
            self._dice,
            client=protocol(),
            client_name=(source or "192.0.2.1", 40_000 + self._count),
            server=server,
            server_name=(address, port),
        )
        number = self._count
        spy = self._spy
        if spy is not None:
            near.spy = lambda octets: spy(number, octets)
        self._ends = {known: end for known, end in self._ends.items() if not end.is_closing()}
        self._ends[number] = near
        return near

    def has_address(self, address: str) -> bool:
        """Whether that address is the machine's just now."""
        return address in self._addresses

    async def start_tls(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,  # noqa: ARG002  # it stays on the same wire
        *,
        server_name: str,  # noqa: ARG002  # every certificate here is for every name
        verify: bool,  # noqa: ARG002  # and is always good
        timeout_s: float,  # noqa: ARG002  # a handshake is quick or fails
        keep_chain: bool = False,  # noqa: ARG002  # there are no certificates
    ) -> tuple[asyncio.Transport, TlsPeer]:
        """Pretend to encrypt."""
        await asyncio.sleep(self._dice.between(*LATENCY_S))  # noqa: TID251
        assert isinstance(transport, WireEnd), "it was made here"
        peer = transport.peer
        if transport.is_closing() or peer is None:
            raise ConnectionResetError("Connection lost")
        if self._listener.handshake_fails(transport.get_extra_info("peername")[0]):
            transport.reset()
            raise ssl.SSLError("handshake failure")
        server = peer.get_protocol()
        assert isinstance(server, asyncio.Protocol)
        self._listener.secured(server)
        return transport, TlsPeer("TLSv1.3", "TLS_AES_128_GCM_SHA256", verified=True)

    def go_down(self, *, sent_arrives: bool) -> None:
        """The machine is gone with all its connections."""
        self._down = True
        for end in self._ends.values():
            end.vanish(sent_arrives=sent_arrives)


class FakeResolver:
    """Names from a table, with faults.

    Args:
        exchangers: MX records by domain; a domain that is not here does not exist.
        hosts: Addresses by host.
        dice: Decide on faults and how long an answer takes.
        fault: How likely a look-up just fails, now.
    """

    def __init__(
        self,
        *,
        exchangers: Mapping[str, Sequence[MailExchanger]],
        hosts: Mapping[str, Sequence[str]],
        dice: SeededDice,
        fault: Callable[[], float],
    ) -> None:
        self._exchangers = exchangers
        self._hosts = hosts
        self._dice = dice
        self._fault = fault

    async def mx(self, domain: str) -> Sequence[MailExchanger]:
        """MX records of a domain."""
        await self._ask()
        if domain not in self._exchangers:
            raise NoSuchDomain(domain)
        return self._exchangers[domain]

    async def addresses(self, host: str) -> Sequence[str]:
        """Addresses of a host."""
        await self._ask()
        if host not in self._hosts:
            raise NoSuchDomain(host)
        return self._hosts[host]

    async def txt(self, name: str) -> Sequence[str]:
        """No name here has text."""
        await self._ask()
        raise NoSuchDomain(name)

    async def tlsa(self, host: str, port: int) -> None:
        """No name here is signed."""

    async def _ask(self) -> None:
        await asyncio.sleep(self._dice.between(*LATENCY_S))  # noqa: TID251
        if self._dice.chance(self._fault()):
            raise DnsFailure("no answer")
