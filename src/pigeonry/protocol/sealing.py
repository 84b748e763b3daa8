"""Seals private keys at rest: who has the data folder alone can sign nothing.

A sealed value is ``version, key id, nonce, ciphertext with tag``. Its *context* (what it is and whose) is
authenticated with it, so that a sealed key cannot be moved to another domain by someone who can write the store.
The key id lets a wrong key be told apart from damage.

Standards: FIPS 197 and NIST SP 800-38D (AES-256-GCM with random 96-bit nonces: far fewer than 2^32 values a key).
Trust: the store's octets may have been tampered with; nothing is used before its tag was verified.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pigeonry.domain.errors import Fault

__all__ = ["NONCE_OCTETS", "SEAL_KEY_OCTETS", "DamagedSeal", "Seal", "WrongSealKey"]

SEAL_KEY_OCTETS: Final = 32  # AES-256
NONCE_OCTETS: Final = 12  # NIST SP 800-38D section 5.2.1.1
_VERSION: Final = b"\x01"
_KEY_ID_OCTETS: Final = 4  # tells keys apart for people; says nothing of the key
_HEAD: Final = len(_VERSION) + _KEY_ID_OCTETS + NONCE_OCTETS


class WrongSealKey(Fault):
    """The value was sealed with another key than the one at hand."""


class DamagedSeal(Fault):
    """The sealed value was changed, or stands in another place than it was made for."""


class Seal:
    """Seals and opens with one key.

    Args:
        key: 32 octets, kept outside of the data folder.

    Raises:
        ValueError: The key has another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != SEAL_KEY_OCTETS:
            raise ValueError(f"The seal key has {len(key)} octets; it must have {SEAL_KEY_OCTETS}.")
        self._cipher = AESGCM(key)
        self._key_id = blake2b(key, digest_size=_KEY_ID_OCTETS, person=b"pigeonry seal id").digest()

    @property
    def key_id(self) -> str:
        """Names the key, for operators: 8 hex characters that say nothing of it."""
        return self._key_id.hex()

    def close(self, plain: bytes, *, context: str, nonce: bytes) -> bytes:
        """Seal.

        Args:
            plain: What to hide.
            context: What it is and whose; ``open`` must be given the same.
            nonce: ``NONCE_OCTETS`` fresh random octets, never used with this key before.
        """
        assert len(nonce) == NONCE_OCTETS
        return _VERSION + self._key_id + nonce + self._cipher.encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, *, context: str) -> bytes:
        """Open what ``close`` made.

        Raises:
            WrongSealKey: Another key sealed it.
            DamagedSeal: It is not what was sealed, or not for this context.
        """
        if len(sealed) < _HEAD or sealed[:1] != _VERSION:
            raise DamagedSeal("A sealed key is not in a form that this version knows.")
        key_id = sealed[1 : 1 + _KEY_ID_OCTETS]
        if key_id != self._key_id:
            raise WrongSealKey(f"A private key was sealed with key {key_id.hex()}; the seal key is {self.key_id}.")
        try:
            return self._cipher.decrypt(sealed[_HEAD - NONCE_OCTETS : _HEAD], sealed[_HEAD:], context.encode())
        except InvalidTag:
            raise DamagedSeal("A sealed key was changed, or belongs elsewhere.") from None
