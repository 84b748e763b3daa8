"""The certificates that nodes show each other: how they are loaded, looked at and loaded anew.

One authority for one cluster: whoever holds a certificate of it that names a member may command that cluster's mail. So
nothing but this authority is trusted here, and certificates of the public are worth nothing.

Standards: RFC 8446 (TLS 1.3), RFC 5280.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from pigeonry.app.tls import no_passphrase
from pigeonry.doors.commands.channel import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ClusterTls"]


class ClusterTls:
    """The contexts of both ends, as the files were when they were last read.

    Args:
        ca: PEM file with the authority's certificate; with two while one follows the other.
        cert, key: PEM files of this node.
        versions: What is spoken, the newest first.

    Raises:
        OSError: A file cannot be read, or does not hold what it should (``ssl.SSLError`` is one).
    """

    def __init__(self, ca: str, cert: str, key: str, *, versions: Sequence[str] = VERSIONS) -> None:
        self._files = (ca, cert, key)
        self._versions = list(versions)
        self.reload()

    def reload(self) -> None:
        """Read the files again; when they are of no use nothing changes.

        Raises:
            OSError: As above.
        """
        called, calling = self._made(ssl.PROTOCOL_TLS_SERVER), self._made(ssl.PROTOCOL_TLS_CLIENT)
        try:
            shown = x509.load_pem_x509_certificate(Path(self._files[1]).read_bytes())
        except ValueError as error:
            raise OSError(f"{self._files[1]}: {error}") from None
        self._called, self._calling, self._shown = called, calling, shown

    def called(self) -> ssl.SSLContext:
        """For who is called: asks for a certificate, and resumes nothing, so each connection is looked at."""
        return self._called

    def calling(self) -> ssl.SSLContext:
        """For who calls."""
        return self._calling

    @property
    def names(self) -> frozenset[str]:
        """What our certificate names, in lower case."""
        try:
            found = self._shown.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return frozenset()
        return frozenset(name.lower() for name in found.value.get_values_for_type(x509.DNSName))

    @property
    def expires_at(self) -> float:
        """When our certificate ends, seconds since the Unix epoch: from then on no other node believes us."""
        return self._shown.not_valid_after_utc.timestamp()

    def _made(self, side: int) -> ssl.SSLContext:
        ca, cert, key = self._files
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(ca)
        context.load_cert_chain(cert, key, no_passphrase)
        context.set_alpn_protocols(self._versions)
        if side == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        return context
