"""Certificates for tests: authorities, what they sign, chains in DER and PEM."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pigeonry.protocol.tls.dane import Tlsa


class Certificate:
    """A certificate with its key, and those above it."""

    def __init__(
        self,
        name: str,
        *,
        issuer: Certificate | None = None,
        authority: bool = False,
        names: tuple[str, ...] = (),
        days: tuple[float, float] = (-1, 30),
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        serial: int = 0,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.above: tuple[Certificate, ...] = () if issuer is None else (issuer, *issuer.above)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        signer = self if issuer is None else issuer
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.made.subject)
            .public_key(self.key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
        )
        if not authority:
            found = [x509.DNSName(each) for each in names or (name,)]
            builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        self.made = builder.sign(signer.key, hashes.SHA256())

    @property
    def der(self) -> bytes:
        """The certificate alone."""
        return self.made.public_bytes(Encoding.DER)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """It and all above it."""
        return (self.der, *(each.der for each in self.above))

    def tlsa(self, usage: int, selector: int, matching: int) -> Tlsa:
        """The record that means this certificate."""
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        octets = spki if selector else self.der
        if matching:
            octets = hashlib.new({1: "sha256", 2: "sha512"}[matching], octets).digest()
        return Tlsa(usage, selector, matching, octets)

    def write(self, path: Path) -> Path:
        """Key and chain in one PEM file."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = b"".join(each.made.public_bytes(Encoding.PEM) for each in (self, *self.above))
        path.write_bytes(key + chain)
        path.chmod(0o600)
        return path

    def write_alone(self, path: Path) -> Path:
        """The certificate alone, in PEM."""
        path.write_bytes(self.made.public_bytes(Encoding.PEM))
        return path
