"""DANE for SMTP: TLSA records, which of them count, and whether a certificate chain matches them.

Nothing is counted as matched that was not checked:

* DANE-EE (3): the leaf is what the record says. Names and dates are not looked at (RFC 7672 section 3.1.1).
* DANE-TA (2): a certificate above the leaf, sent by the server or held whole in the record, is what the record says,
  and the leaf leads to it: signatures, dates, basic constraints and name constraints hold, and the leaf names the host
  in its subjectAltName. A bare key (2 1 0) whose certificate the server does not send matches nothing.
* PKIX-TA (0) and PKIX-EE (1) are unusable for SMTP (section 3.1.3), as is what is malformed or of an unknown kind.

Standards: RFC 6698 section 2 (the record), RFC 7671 sections 5 and 9 (matching, digest agility), RFC 7672 section 3.
Trust: records come from an authenticated answer, the chain from anyone: it is parsed by ``cryptography`` and is bounded
in number of certificates.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

__all__ = ["BadTlsa", "Tlsa", "matches", "parse_tlsa", "usable"]

RECORDS_MAX: Final = 32  # usable records of a host that are looked at; published sets have two to four
CHAIN_MAX: Final = 10  # certificates of a chain that are looked at; real ones have up to five
DEPTH_MAX: Final = 8  # certificates between leaf and trust anchor

_TRUST_ANCHOR: Final = 2
_END_ENTITY: Final = 3
_DIGESTS: Final = {1: hashlib.sha256, 2: hashlib.sha512}
_SERVER_AUTH: Final = ExtendedKeyUsageOID.SERVER_AUTH
_ANY_USAGE: Final = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
_ERRORS: Final = (ValueError, TypeError, UnsupportedAlgorithm)


class BadTlsa(ValueError):
    """It is no TLSA record."""


class Tlsa(msgspec.Struct, frozen=True, gc=False):
    """One TLSA record (RFC 6698 section 2.1).

    Args:
        usage: 2 for a trust anchor, 3 for the host's own certificate.
        selector: 0 for the whole certificate, 1 for its public key (SubjectPublicKeyInfo).
        matching: 0 for all of it, 1 for its SHA-256, 2 for its SHA-512.
        data: What it is to be.
    """

    usage: int
    selector: int
    matching: int
    data: bytes

    def text(self) -> str:
        """As zone files have it."""
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"


def parse_tlsa(text: str) -> Tlsa:
    """Read what ``text`` gives.

    Raises:
        BadTlsa: It is none.
    """
    fields = text.split()
    if len(fields) < 4 or not all(field.isascii() and field.isdecimal() and len(field) <= 3 for field in fields[:3]):
        raise BadTlsa("A TLSA record is three numbers and octets.")
    usage, selector, matching = (int(field) for field in fields[:3])
    try:
        data = bytes.fromhex("".join(fields[3:]))
    except ValueError:
        raise BadTlsa("A TLSA record's octets are hexadecimal.") from None
    if max(usage, selector, matching) > 255:
        raise BadTlsa("A TLSA record's numbers have eight bits.")
    return Tlsa(usage, selector, matching, data)


def usable(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """Those that count: of known kinds, whole, and of each usage and selector only those with the strongest digest."""
    known = [record for record in records if _is_known(record)][:RECORDS_MAX]
    best: dict[tuple[int, int], int] = {}
    for record in known:
        key = (record.usage, record.selector)
        best[key] = max(best.get(key, 0), record.matching)
    return tuple(
        record for record in known if record.matching == 0 or record.matching == best[record.usage, record.selector]
    )


def matches(records: Sequence[Tlsa], chain: Sequence[bytes], *, names: Sequence[str], now: dt.datetime) -> bool:
    """Whether the chain that a server showed is one that its usable records allow.

    Args:
        chain: Certificates in DER as they were sent, the server's own first.
        names: By which the host may be named in a certificate below a trust anchor.
        now: With its zone.
    """
    certificates = _loaded(chain)
    if not certificates:
        return False
    return any(
        _is_meant(record, certificates[0])
        if record.usage == _END_ENTITY
        else _leads_to(record, certificates, names=names, now=now)
        for record in records
        if record.usage in (_TRUST_ANCHOR, _END_ENTITY)
    )


def _is_known(record: Tlsa) -> bool:
    if record.usage not in (_TRUST_ANCHOR, _END_ENTITY) or record.selector not in (0, 1):
        return False
    if record.matching in _DIGESTS:
        return len(record.data) == _DIGESTS[record.matching]().digest_size
    return record.matching == 0 and _is_whole(record)


def _is_whole(record: Tlsa) -> bool:
    """Whether the octets are a certificate, or a key."""
    try:
        if record.selector == 0:
            x509.load_der_x509_certificate(record.data)
        else:
            load_der_public_key(record.data)
    except _ERRORS:
        return False
    return True


def _loaded(chain: Sequence[bytes]) -> list[x509.Certificate]:
    """The certificates up to the first that cannot be read: nothing above that one is reached."""
    found = []
    for octets in chain[:CHAIN_MAX]:
        try:
            found.append(x509.load_der_x509_certificate(octets))
        except _ERRORS:
            break
    return found


def _is_meant(record: Tlsa, certificate: x509.Certificate) -> bool:
    try:
        if record.selector == 0:
            octets = certificate.public_bytes(Encoding.DER)
        else:
            octets = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except _ERRORS:
        return False
    digest = _DIGESTS.get(record.matching)
    return (octets if digest is None else digest(octets).digest()) == record.data


def _leads_to(record: Tlsa, chain: Sequence[x509.Certificate], *, names: Sequence[str], now: dt.datetime) -> bool:
    anchors = [certificate for certificate in chain[1:] if _is_meant(record, certificate)]
    if record.selector == 0 and record.matching == 0:
        anchors.append(x509.load_der_x509_certificate(record.data))
    return any(_verifies(chain[0], chain[1:], anchor, name=name, now=now) for anchor in anchors for name in names)


def _verifies(
    leaf: x509.Certificate,
    between: Sequence[x509.Certificate],
    anchor: x509.Certificate,
    *,
    name: str,
    now: dt.datetime,
) -> bool:
    builder = PolicyBuilder().store(Store([anchor])).time(now).max_chain_depth(DEPTH_MAX)
    try:
        verifier = builder.extension_policies(ca_policy=_AUTHORITY, ee_policy=_SERVER).build_server_verifier(
            x509.DNSName(name)
        )
        verifier.verify(leaf, list(between))
    except (VerificationError, *_ERRORS):
        return False
    return True


def _is_authority(_policy: Policy, _certificate: x509.Certificate, found: x509.BasicConstraints) -> None:
    if not found.ca:
        raise ValueError("It is no authority.")


def _signs_certificates(_policy: Policy, _certificate: x509.Certificate, found: x509.KeyUsage | None) -> None:
    if found is not None and not found.key_cert_sign:
        raise ValueError("Its key signs no certificates.")


def _is_for_servers(_policy: Policy, _certificate: x509.Certificate, found: x509.ExtendedKeyUsage | None) -> None:
    if found is not None and _SERVER_AUTH not in found and _ANY_USAGE not in found:
        raise ValueError("It is for no server.")


# Less than the web's authorities must have, since anyone may be one here: what RFC 5280 section 6 needs, and no more.
_AUTHORITY: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
)
_SERVER: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_for_servers)
)
