"""Idempotency records in a cluster: a retry on any node finds the answer, and never one that is not kept.

A record is written before the journal names its message and *confirmed* after that, before the request is answered. So
an acknowledged request has a confirmed record. One that is not confirmed belongs to a request that runs, or to one
whose owner ended in the middle: then who takes the shard over confirms, before it serves, every record whose message
the journal has. Hence an unconfirmed record of an epoch that is over, of a shard that is served again, is nobody's.

Each attempt to store a message has a row of its own, and what is written of it is only ever added to. So it makes no
difference in which order writes arrive, and none of one attempt touches another's: a record that a node could not
store in time may appear later. Nothing is removed: the record of a message that was voided counts no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.message import IdempotencyRecord, MessageKey

if TYPE_CHECKING:
    from pigeonry.stores.cassandra.session import Session

__all__ = ["FoundRecord", "Records"]

_PUT: Final = "INSERT INTO idempotency(scope, shard, serial, epoch, octets) VALUES (?,?,?,?,?) USING TTL ?"
_CONFIRM: Final = "UPDATE idempotency USING TTL ? SET confirmed = true WHERE scope = ? AND shard = ? AND serial = ?"
_FIND: Final = "SELECT shard, serial, epoch, octets, confirmed FROM idempotency WHERE scope = ?"

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(IdempotencyRecord).decode


class FoundRecord(msgspec.Struct, frozen=True):
    """A record, and whose it is.

    Args:
        shard, serial: Its message's.
        epoch: Of who accepts it.
        confirmed: Whether its message is durable; it stands unless it was voided.
    """

    record: IdempotencyRecord
    shard: int
    serial: int
    epoch: int
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
        values = (record.scope, key.shard, key.serial, epoch, _encode(record), self._ttl)
        await self._session.execute(_PUT, values, timeout_s=self._timeout_s)

    async def confirm(self, scope: bytes, shard: int, serial: int) -> None:
        """Its message is durable."""
        await self._session.execute(_CONFIRM, (self._ttl, scope, shard, serial), timeout_s=self._timeout_s)

    async def find(self, scope: bytes, *, now: float) -> list[FoundRecord]:
        """Those of all attempts that are not over.

        Args:
            now: Seconds since the Unix epoch.
        """
        rows = await self._session.execute(_FIND, (scope,), timeout_s=self._timeout_s)
        found = [
            FoundRecord(_decode(octets), shard, serial, epoch, bool(confirmed))
            for shard, serial, epoch, octets, confirmed in rows
            if octets is not None  # else it was confirmed here and is not written here yet
        ]
        return [each for each in found if each.record.expires_at > now]
