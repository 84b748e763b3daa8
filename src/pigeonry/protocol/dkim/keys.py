"""DKIM keys: making them, reading them back, and the DNS record that publishes them.

Making an RSA-2048 key takes some 100 ms of CPU: call it on a lane.

Standards: RFC 6376 sections 3.3 (algorithms), 3.6.1 (key record); RFC 8301 (RSA sizes); RFC 8463 (Ed25519).
"""

from __future__ import annotations

import base64
from typing import Final, Literal, TypeAlias

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

__all__ = [
    "RSA_BITS",
    "RSA_BITS_MIN",
    "Algorithm",
    "BadDkimKey",
    "NewKey",
    "PrivateKey",
    "generate",
    "load_private_key",
    "public_text",
    "record_name",
    "record_value",
]

PrivateKey: TypeAlias = RSAPrivateKey | Ed25519PrivateKey
Algorithm: TypeAlias = Literal["rsa", "ed25519"]

RSA_BITS: Final = 2048  # RFC 8301 section 3.2: signers should use at least 2048
RSA_BITS_MIN: Final = 1024  # RFC 8301 section 3.2: verifiers must not accept less


class BadDkimKey(ValueError):
    """The octets are no private key that DKIM can sign with."""


class NewKey(msgspec.Struct, frozen=True):
    """A key fresh from its making.

    Args:
        private: PKCS#8 DER, not encrypted: seal it before it is written anywhere.
        public: What the record's ``p=`` holds, base64.
    """

    algorithm: Algorithm
    private: bytes
    public: str


def generate(algorithm: Algorithm = "rsa", *, bits: int = RSA_BITS) -> NewKey:
    """Make a key from the system's randomness. Blocks: some 100 ms for RSA-2048.

    Args:
        bits: Size of an RSA key.

    Raises:
        BadDkimKey: The size is under ``RSA_BITS_MIN``.
    """
    key: PrivateKey
    if algorithm == "ed25519":
        key = Ed25519PrivateKey.generate()
    else:
        if bits < RSA_BITS_MIN:
            raise BadDkimKey(f"An RSA key for DKIM has at least {RSA_BITS_MIN} bits.")
        key = generate_private_key(public_exponent=65537, key_size=bits)
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return NewKey(algorithm=algorithm, private=private, public=public_text(key))


def load_private_key(der: bytes) -> PrivateKey:
    """Read a key that ``generate`` made, or one like it.

    The numbers of an RSA key are not proved again: what we sealed is what we made, and the proof costs more than a
    hundred signatures.

    Raises:
        BadDkimKey: Not a PKCS#8 key, or of another kind.
    """
    try:
        key = load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadDkimKey("The octets are not a private key.") from None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, RSAPrivateKey):
        if key.key_size < RSA_BITS_MIN:
            raise BadDkimKey(f"An RSA key for DKIM has at least {RSA_BITS_MIN} bits.")
        return key
    raise BadDkimKey("DKIM signs with RSA or Ed25519 keys only.")


def public_text(key: PrivateKey) -> str:
    """What the key record's ``p=`` holds: base64 of SubjectPublicKeyInfo for RSA, of the bare key for Ed25519."""
    public = key.public_key()
    if isinstance(key, Ed25519PrivateKey):
        octets = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    else:
        octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(octets).decode("ascii")


def record_name(*, selector: str, domain: str) -> str:
    """Where the key record stands."""
    return f"{selector}._domainkey.{domain}"


def record_value(*, algorithm: Algorithm, public: str) -> str:
    """The text of the key record."""
    return f"v=DKIM1; k={algorithm}; p={public}"
