"""Ids of events, fixed before they are written.

An id is a keyed hash of what the event is about. A write that is repeated because nobody knows whether it was
stored (invariant I2) therefore carries the same id, and a consumer that sees it twice can tell.

Standards: RFC 7693 (BLAKE2), RFC 4648 section 5 (base64url).
Trust: ids are public. The key keeps an outsider from computing the id of an event that he may not see.
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from typing import Final

__all__ = ["KEY_OCTETS_MAX", "EventIds"]

KEY_OCTETS_MAX: Final = 64  # RFC 7693 section 2.1
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_DIGEST_OCTETS: Final = 16  # 22 characters of base64url, as clients of the events API expect


class EventIds:
    """Derives the ids of events.

    Args:
        key: Secret of the installation, 16 to 64 octets; the same after a restart.
    """

    def __init__(self, key: bytes) -> None:
        assert 16 <= len(key) <= KEY_OCTETS_MAX, "the key of event ids has 16 to 64 octets"
        self._keyed = hashlib.blake2b(key=key, digest_size=_DIGEST_OCTETS)

    def event_id(self, shard: int, serial: int, attempt: int, kind: str) -> str:
        """The id of one event: 22 characters of base64url.

        Args:
            shard: The shard of the message.
            serial: The recipient's serial, unique in its shard.
            attempt: Number of the attempt, 0 for what is no attempt.
            kind: The event's type, such as ``delivered``.
        """
        digest = self._keyed.copy()
        digest.update((shard << 112 | serial << 32 | attempt).to_bytes(16) + kind.encode())
        return b2a_base64(digest.digest(), newline=False)[:22].translate(_URL_SAFE).decode()
