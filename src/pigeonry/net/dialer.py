"""Outgoing TCP connections and TLS on them, by the event loop.

Standards: RFC 3207 (STARTTLS), RFC 8446 and RFC 5246 (TLS 1.3, 1.2), RFC 7817 section 3 (names in certificates).
Trust: the peer may be anyone. A certificate that does not verify still hides the mail from those who only listen, so
whoever dials asks for a verified handshake first and, where policy allows, for any handshake on a new connection.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from asyncio import Protocol as StreamProtocol
from asyncio import Transport
from collections.abc import Callable
from typing import Final

from pigeonry.ports.network import SourceGone, TlsPeer

__all__ = ["TcpDialer"]

_DISCARD: Final = 9  # any port does: nothing is sent


class TcpDialer:
    """Implements ``ports.network.Dialer``.

    Args:
        trust: Makes the context that certificates are verified with; the system's roots when not given.
    """

    def __init__(self, *, trust: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> None:
        self._trust = trust
        self._verifying: ssl.SSLContext | None = None
        self._lenient: ssl.SSLContext | None = None

    async def dial(
        self, protocol: Callable[[], StreamProtocol], address: str, port: int, *, source: str, timeout_s: float
    ) -> Transport:
        """Connect to an IP address. See the port."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                transport, _ = await loop.create_connection(
                    protocol, address, port, local_addr=(source, 0) if source else None
                )
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and source and not self.has_address(source):
                raise SourceGone(error.errno, "The source is no address of this machine.") from error
            raise
        return transport

    def has_address(self, address: str) -> bool:
        """Whether that IP address is one of this machine's now. See the port.

        To bind is not proof: where ``ip_nonlocal_bind`` is set, as it commonly is beside keepalived, every address can
        be bound. But a packet to an address of our own leaves with that very address as its source; loopback's all
        leave with the first one.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as bound:
                bound.bind((address, 0))
            with socket.socket(family, socket.SOCK_DGRAM) as routed:
                routed.connect((address, _DISCARD))
                chosen = ipaddress.ip_address(routed.getsockname()[0])
        except OSError:
            return False
        wanted = ipaddress.ip_address(address)
        return chosen == wanted or (chosen.is_loopback and wanted.is_loopback)

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
        """Encrypt a connection. See the port; without ``verify`` nothing is known of the certificate."""
        loop = asyncio.get_running_loop()
        context = self._strict() if verify else self._any()
        try:
            async with asyncio.timeout(timeout_s):
                upgraded = await loop.start_tls(transport, protocol, context, server_hostname=server_name)
        except BaseException:
            transport.abort()
            raise
        if upgraded is None:
            raise ConnectionResetError("The connection ended during the handshake.")
        tls: ssl.SSLObject = upgraded.get_extra_info("ssl_object")
        cipher = tls.cipher()
        chain = _chain(tls) if keep_chain else ()
        return upgraded, TlsPeer(tls.version() or "", cipher[0] if cipher else "", verify, chain=chain)

    def _strict(self) -> ssl.SSLContext:
        if self._verifying is None:
            self._verifying = self._trust()
        return self._verifying

    def _any(self) -> ssl.SSLContext:
        if self._lenient is None:
            self._lenient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._lenient.check_hostname = False
            self._lenient.verify_mode = ssl.CERT_NONE
        return self._lenient


def _chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """What the server showed, in DER.

    Python has a public way to it from 3.13 on; before, the object inside has one since 3.10. Without either only the
    server's own certificate is known, so that nothing above it can match.
    """
    if hasattr(tls, "get_unverified_chain"):
        return tuple(tls.get_unverified_chain())
    inner = getattr(getattr(tls, "_sslobj", None), "get_unverified_chain", None)
    if inner is not None:
        return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in inner() or ())
    leaf = tls.getpeercert(binary_form=True)
    return () if leaf is None else (leaf,)
