"""A recipient that waits, as octets: a fifth of what it takes as an object, for the many of a long queue.

Account, sending domain and pool are a handful for thousands of recipients, so they are kept once and named by number.
"""

from __future__ import annotations

import struct
from typing import Final

from pigeonry.domain.message import MessageKey, Pending

__all__ = ["Packer", "due_of"]

_FIXED: Final = struct.Struct("<dHIIIIIdd?I")
"""Due time, shard, day, the message's day, index in the message, number of whose it is, attempts, expiry, time of the
first attempt, in doubt, minute of acceptance. The address follows."""
_DUE: Final = struct.Struct("<d")


def due_of(octets: bytes) -> float:
    """When it is due: seconds since the Unix epoch."""
    due: float = _DUE.unpack_from(octets)[0]
    return due


class Packer:
    """Packs recipients of one shard, and unpacks what it packed."""

    def __init__(self) -> None:
        self._whose: list[tuple[str, str, str]] = []
        self._numbers: dict[tuple[str, str, str], int] = {}

    def pack(self, pending: Pending) -> bytes:
        """All of it but its serial."""
        key, whose = pending.message, (pending.tenant, pending.domain, pending.pool)
        number = self._numbers.get(whose)
        if number is None:
            number = self._numbers[whose] = len(self._whose)
            self._whose.append(whose)
        fixed = _FIXED.pack(
            pending.due,
            key.shard,
            pending.day,
            key.day,
            pending.serial - key.serial,
            number,
            pending.attempts,
            pending.expires_at,
            pending.first_attempt_at,
            pending.in_doubt,
            pending.accepted_minute,
        )
        return fixed + pending.address.encode()

    def unpack(self, serial: int, octets: bytes) -> Pending:
        """The recipient of that serial."""
        due, shard, day, message_day, index, number, attempts, expires_at, first_attempt_at, in_doubt, minute = (
            _FIXED.unpack_from(octets)
        )
        tenant, domain, pool = self._whose[number]
        return Pending(
            MessageKey(shard, message_day, serial - index),
            serial,
            day,
            octets[_FIXED.size :].decode(),
            due,
            tenant,
            domain,
            pool,
            expires_at,
            attempts,
            first_attempt_at,
            in_doubt,
            minute,
        )

    def clear(self) -> None:
        """Nothing that was packed is asked for any more."""
        self._whose.clear()
        self._numbers.clear()
