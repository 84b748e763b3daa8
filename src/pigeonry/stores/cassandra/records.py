"""Idempotency records in a cluster: a retry on any node finds the answer, and never one that is not kept.

A record is written before the journal names its message and *confirmed* after that, before the request is answered. So
an acknowledged request has a confirmed record. One that is not confirmed belongs to a request that runs, or to one
whose owner ended in the middle: then who takes the shard over confirms, before it serves, every record whose message
the journal has. Hence an unconfirmed record of an epoch that is over, of a shard that is served again, is nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.message import IdempotencyRecord, MessageKey

if TYPE_CHECKING:
    from pigeonry.stores.cassandra.session import Session

__all__ = ["FoundRecord", "Records"]

_PUT: Final = (
    "INSERT INTO idempotency(scope, shard, epoch, serial, octets, confirmed) VALUES (?,?,?,?,?,false) USING TTL ?"
)
_CONFIRM: Final = "UPDATE idempotency USING TTL ? SET confirmed = true WHERE scope = ?"
_REMOVE: Final = "DELETE FROM idempotency WHERE scope = ?"
_FIND: Final = "SELECT shard, epoch, serial, octets, confirmed FROM idempotency WHERE scope = ?"

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(IdempotencyRecord).decode


class FoundRecord(msgspec.Struct, frozen=True):
    """A record, and whose it is.

    Args:
        shard, epoch: Who accepts its message.
        serial: Its message's.
        confirmed: Whether its message is durable and stands.
    """

    record: IdempotencyRecord
    shard: int
    epoch: int
    serial: int
    confirmed: bool


class Records:
    """Reads and writes them.

    Args:
        timeout_s: For one request.
    """

    def __init__(self, session: Session, *, kept_s: float, timeout_s: float) -> None:
        self._session = session
        self._ttl = int(kept_s)
        self._timeout_s = timeout_s

    async def put(self, record: IdempotencyRecord, key: MessageKey, *, epoch: int) -> None:
        """Write a record that counts once it is confirmed."""
        values = (record.scope, key.shard, epoch, key.serial, _encode(record), self._ttl)
        await self._session.execute(_PUT, values, timeout_s=self._timeout_s)

    async def confirm(self, scope: bytes) -> None:
        """Its message is durable and stands."""
        await self._session.execute(_CONFIRM, (self._ttl, scope), timeout_s=self._timeout_s)

    async def remove(self, scope: bytes) -> None:
        """Its message was voided."""
        await self._session.execute(_REMOVE, (scope,), timeout_s=self._timeout_s)

    async def find(self, scope: bytes) -> FoundRecord | None:
        """What there is."""
        rows = await self._session.execute(_FIND, (scope,), timeout_s=self._timeout_s)
        if not rows or rows[0][3] is None:
            return None
        shard, epoch, serial, octets, confirmed = rows[0]
        return FoundRecord(_decode(octets), shard, epoch, serial, bool(confirmed))
