"""The network as a parameter: names and connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from asyncio import Protocol as StreamProtocol
    from asyncio import Transport
    from collections.abc import Callable, Sequence

__all__ = ["Dialer", "DnsFailure", "MailExchanger", "NoSuchDomain", "Resolver", "SourceGone", "TlsPeer"]


class DnsFailure(Exception):
    """No answer could be had (SERVFAIL, timeout): ask again later."""


class NoSuchDomain(Exception):
    """The name does not exist (NXDOMAIN)."""


class MailExchanger(msgspec.Struct, frozen=True):
    """One MX record; ``host`` is empty in a null MX (RFC 7505)."""

    preference: int
    host: str


class Resolver(Protocol):
    """DNS, cached by TTL (negative answers too), with one query in flight for each name.

    tests/conformance/test_resolver.py holds every implementation to this.
    """

    async def mx(self, domain: str) -> Sequence[MailExchanger]:
        """MX records by preference; empty when the name exists and has none.

        Raises:
            NoSuchDomain: The name does not exist.
            DnsFailure: No answer could be had.
        """
        ...

    async def addresses(self, host: str) -> Sequence[str]:
        """IPv6 and IPv4 addresses; an address literal is its own answer; empty when there are none.

        Raises:
            NoSuchDomain: The name does not exist.
            DnsFailure: No answer could be had.
        """
        ...

    async def txt(self, name: str) -> Sequence[str]:
        """TXT records, the strings of each joined.

        Raises:
            NoSuchDomain: The name does not exist.
            DnsFailure: No answer could be had.
        """
        ...


class TlsPeer(msgspec.Struct, frozen=True):
    """What STARTTLS led to."""

    version: str
    cipher: str
    verified: bool


class SourceGone(OSError):
    """No connection can be made from the local address that was asked for, or the node that has it makes none."""


class Dialer(Protocol):
    """Outgoing TCP connections."""

    def has_address(self, address: str) -> bool:
        """Whether that IP address is one of this machine's now, so that connections may be made from it."""
        ...

    async def dial(
        self, protocol: Callable[[], StreamProtocol], address: str, port: int, *, source: str, timeout_s: float
    ) -> Transport:
        """Connect; the protocol's ``connection_made`` has run when this returns.

        Args:
            protocol: Makes the protocol that is to receive.
            address: IP address.
            source: Local IP address, empty for the system's choice.
            timeout_s: Seconds until it is given up.

        Raises:
            SourceGone: The source is no address of this machine (any more).
            OSError: No connection (``TimeoutError`` when it took too long).
        """
        ...

    async def start_tls(
        self, transport: Transport, protocol: StreamProtocol, *, server_name: str, verify: bool, timeout_s: float
    ) -> tuple[Transport, TlsPeer]:
        """Encrypt a connection; returns the transport to write to from now on.

        Args:
            verify: Whether the certificate must match ``server_name``; when not, ``TlsPeer.verified`` still says.

        Raises:
            OSError: The handshake failed (``ssl.SSLError`` is one); the connection is of no use any more.
        """
        ...
