"""The network as a parameter: names and connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from asyncio import Protocol as StreamProtocol
    from asyncio import Transport
    from collections.abc import Callable, Sequence

__all__ = ["Dialer", "DnsFailure", "MailExchanger", "NoSuchDomain", "Resolver", "SourceGone", "TlsPeer", "TlsaAnswer"]


class DnsFailure(Exception):
    """No answer could be had (SERVFAIL, timeout): ask again later."""


class NoSuchDomain(Exception):
    """The name does not exist (NXDOMAIN)."""


class MailExchanger(msgspec.Struct, frozen=True):
    """One MX record; ``host`` is empty in a null MX (RFC 7505).

    Args:
        authentic: Whether DNSSEC vouches for the records, and whoever says so is trusted.
    """

    preference: int
    host: str
    authentic: bool = False


class TlsaAnswer(msgspec.Struct, frozen=True):
    """TLSA records that DNSSEC vouches for, as text.

    Args:
        base: The name that they stand below, which is also what the server is asked for and may be named as.
    """

    base: str
    records: tuple[str, ...]


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

    async def tlsa(self, host: str, port: int) -> TlsaAnswer | None:
        """The TLSA records of a host's port by RFC 7672 section 2.2; None when there are none that are authentic.

        That is so when the host's addresses are not authentic themselves, or when the resolver is not trusted.

        Raises:
            DnsFailure: It could not be found out, or what there is is forged: the host is not to be connected to.
        """
        ...


class TlsPeer(msgspec.Struct, frozen=True):
    """What STARTTLS led to.

    Args:
        verified: Whether the certificate is the host's by an authority that we trust.
        dane: Whether it is by the host's TLSA records.
        chain: The certificates that were shown, the host's own first, in DER; where that was asked for.
    """

    version: str
    cipher: str
    verified: bool
    dane: bool = False
    chain: tuple[bytes, ...] = ()

    @property
    def authentic(self) -> bool:
        """Whether the peer is known to be the host."""
        return self.verified or self.dane


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
        self,
        transport: Transport,
        protocol: StreamProtocol,
        *,
        server_name: str,
        verify: bool,
        timeout_s: float,
        keep_chain: bool = False,
    ) -> tuple[Transport, TlsPeer]:
        """Encrypt a connection; returns the transport to write to from now on.

        Args:
            verify: Whether the certificate must match ``server_name``; when not, ``TlsPeer.verified`` still says.
            keep_chain: Whether ``TlsPeer.chain`` is wanted; it may be empty all the same, where it cannot be had.

        Raises:
            OSError: The handshake failed (``ssl.SSLError`` is one); the connection is of no use any more.
        """
        ...
