"""Makes the certificates of a cluster: an authority of its own, and one for each node.

Files in one folder: ``ca.crt`` and ``ca.key`` of the authority, ``NAME.crt`` and ``NAME.key`` of each node. A private
key is made once and kept when a certificate is renewed, so renewal replaces one file as a whole and a node that reads
its files meanwhile never finds half a pair.

Standards: RFC 5280 (their shape).
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pigeonry.domain.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AUTHORITY", "AUTHORITY_DAYS", "NODE_DAYS", "make_certificates"]

AUTHORITY: Final = "ca"  # the stem of its files, so no node may be called that here
AUTHORITY_DAYS: Final = 3_650  # it signs nothing but this cluster's nodes, and to replace it takes every node
NODE_DAYS: Final = 365  # renewed by one command and a SIGHUP
EARLY: Final = dt.timedelta(hours=1)  # for nodes whose clocks are behind


def make_certificates(folder: Path, nodes: Sequence[str], *, now: float, days: int = NODE_DAYS) -> list[Path]:
    """Make or renew the certificates of nodes, and the authority where there is none; the files written.

    Args:
        folder: Where they are, and where the authority's key is found again.
        nodes: Names, as the settings have them.
        now: Seconds since the Unix epoch, the start of their validity.
        days: That a node's certificate is valid.

    Raises:
        BadRequest: A node cannot have that name here, or the authority's files cannot be used.
        OSError: A file cannot be read or written.
    """
    if AUTHORITY in nodes:
        raise BadRequest(f"A node cannot be called {AUTHORITY}: that is the authority's name.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    start = dt.datetime.fromtimestamp(now, tz=dt.UTC) - EARLY
    written: list[Path] = []
    authority = _authority(folder, start, written)
    for node in nodes:
        key = _key(folder / f"{node}.key", written)
        _write(folder / f"{node}.crt", _node(node, key.public_key(), authority, start, days), written)
    return written


class _Authority(NamedTuple):
    """Who signs."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey


def _authority(folder: Path, start: dt.datetime, written: list[Path]) -> _Authority:
    """The authority whose files are in a folder, made if it is not there."""
    key = _key(folder / f"{AUTHORITY}.key", written)
    path = folder / f"{AUTHORITY}.crt"
    if not path.exists():
        itself = _Authority(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pigeonry cluster")]), key)
        made = (
            _begun(itself.name, key.public_key(), itself, start, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        _write(path, _signed(made, itself), written)
        return itself
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise BadRequest(f"{path} holds no certificate.") from None
    if found.public_key() != key.public_key():
        raise BadRequest(f"{path} and its key are no pair.")
    if found.not_valid_after_utc <= start + EARLY:
        raise BadRequest(f"{path} has expired: the cluster needs a new authority.")
    return _Authority(found.subject, key)


def _node(node: str, public: ec.EllipticCurvePublicKey, authority: _Authority, start: dt.datetime, days: int) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _signed(
        _begun(name, public, authority, start, days)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(node)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False),
        authority,
    )


def _begun(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, authority: _Authority, start: dt.datetime, days: int
) -> x509.CertificateBuilder:
    signer = authority.key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + EARLY + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _signed(certificate: x509.CertificateBuilder, authority: _Authority) -> bytes:
    return certificate.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key(path: Path, written: list[Path]) -> ec.EllipticCurvePrivateKey:
    """The private key in a file, made if there is none."""
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError):
            raise BadRequest(f"{path} holds no private key that can be read.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise BadRequest(f"{path} holds no elliptic curve's key.")
        return key
    made = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    _write(path, made.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), written)
    return made


def _write(path: Path, octets: bytes, written: list[Path]) -> None:
    """Put a file in its place as a whole, for its owner alone."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    written.append(path)
