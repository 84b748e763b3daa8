"""The one TLS context of all doors, and the self-signed certificate of a development run.

The context lives as long as the process: loading a chain into it again changes what the next handshake presents,
and disturbs no connection that stands.

Standards: RFC 8996 (nothing older than TLS 1.2), RFC 5280 (the certificate's shape).
"""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.app.settings import TlsSettings

__all__ = ["make_self_signed", "no_passphrase", "reload", "reloader", "server_context"]

VALID_DAYS: Final = 825  # longer than any development folder is kept; clients cap what they accept near this


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """A context for servers that presents this chain.

    Raises:
        OSError: A file cannot be read, or does not hold what it should (``ssl.SSLError`` is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key, no_passphrase)
    return context


def reload(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Present another chain from the next handshake on; a pair that does not fit changes nothing.

    Raises:
        OSError: As for ``server_context``.
    """
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_passphrase)
    context.load_cert_chain(cert, key, no_passphrase)


def reloader(context: ssl.SSLContext | None, settings: TlsSettings) -> Callable[[], None]:
    """``reload`` of a context that may not be there."""
    if context is None:
        return lambda: None
    return functools.partial(reload, context, settings.cert, settings.key)


def no_passphrase() -> str:
    """Asked for where the key has one; without this OpenSSL would ask at the terminal, and wait."""
    raise OSError("the key has a passphrase, and nobody is there to type it: write the key without one")


def make_self_signed(cert: Path, key: Path, *, names: tuple[str, ...], now: float) -> None:
    """Write a key and a certificate for these names and loopback, for development only.

    Args:
        now: Seconds since the Unix epoch, the start of its validity.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    start = dt.datetime.fromtimestamp(now, tz=dt.UTC) - dt.timedelta(hours=1)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    key.touch(mode=0o600)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
