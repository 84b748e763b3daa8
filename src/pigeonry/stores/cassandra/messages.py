"""Messages, their bodies and how their recipients ended, by key: what anybody in the cluster may read.

Written once and before the journal names them (``keep``), except ``outcome``, which follows the journal.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import (
    Accept,
    BodyRef,
    Message,
    MessageKey,
    NewRecipient,
    Pending,
    RecipientState,
    RecipientView,
    minute_of,
)
from pigeonry.stores.cassandra.session import Consistency
from pigeonry.stores.cassandra.tables import PART_META, PART_VOID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.stores.cassandra.entries import Settled
    from pigeonry.stores.cassandra.session import Session

__all__ = ["PART_OCTETS", "Messages", "Stored"]

PART_OCTETS: Final = 256 * 1024  # of one row of a body: what one request carries, and one read gives back
PARTS_AT_ONCE: Final = 4  # rows of one body that are read or written at the same time

_KEEP: Final = "INSERT INTO message(shard, serial, part, meta, octets) VALUES (?,?,?,?,?) USING TTL ?"
_PART: Final = "INSERT INTO message(shard, serial, part, octets) VALUES (?,?,?,?) USING TTL ?"
_MARK_VOID: Final = "INSERT INTO message(shard, serial, part) VALUES (?,?,?) USING TTL ?"
_FIND: Final = "SELECT part, meta FROM message WHERE shard = ? AND serial = ? AND part < 0"
_VOID: Final = "SELECT part FROM message WHERE shard = ? AND serial = ? AND part = ?"
_BODY: Final = "SELECT octets FROM message WHERE shard = ? AND serial = ? AND part = ?"
_ROWS: Final = "SELECT part, meta, octets FROM message WHERE shard = ? AND serial = ?"
_END: Final = "INSERT INTO outcome(shard, serial, recipient, octets) VALUES (?,?,?,?) USING TTL ?"
_ENDS: Final = "SELECT recipient, octets FROM outcome WHERE shard = ? AND serial = ?"
_END_ONE: Final = "SELECT recipient, octets FROM outcome WHERE shard = ? AND serial = ? AND recipient = ?"

_WRITES: Final = frozenset({_KEEP, _PART})
_READS: Final = frozenset({_FIND, _BODY, _ENDS, _END_ONE})


class Stored(msgspec.Struct, frozen=True):
    """A message as it was accepted.

    Args:
        body: Where its octets are: in its own row when ``segment`` is its serial and ``offset`` 0.
    """

    message: Message
    body: BodyRef
    recipients: tuple[NewRecipient, ...]


class _End(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a recipient ended."""

    state: RecipientState
    due: float
    attempts: int
    first_attempt_at: float


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Stored).decode
_encode_end: Final = msgspec.msgpack.Encoder().encode
_decode_end: Final = msgspec.msgpack.Decoder(_End).decode


class Messages:
    """Reads and writes them.

    Args:
        kept_s: How long a message can be read after it was written.
        writes: When a message is durable: at a quorum of this location, or of each.
        reads: How many replicas are asked.
        timeout_s: For one request.
    """

    def __init__(
        self,
        session: Session,
        *,
        kept_s: float,
        timeout_s: float,
        writes: Consistency = Consistency.LOCAL_QUORUM,
        reads: Consistency = Consistency.LOCAL_QUORUM,
    ) -> None:
        self._session = session
        self._ttl = int(kept_s)
        self._timeout_s = timeout_s
        self._writes = writes
        self._reads = reads

    def read_at(self, reads: Consistency) -> Messages:
        """The same, read at another consistency."""
        return Messages(self._session, kept_s=self._ttl, timeout_s=self._timeout_s, writes=self._writes, reads=reads)

    async def keep(self, accept: Accept) -> None:
        """Write a message with its body; durable at its return.

        Raises:
            StoreBusy, StoreInDoubt: It could not be written in time; nothing names it yet.
        """
        key, body = accept.message.key, accept.body
        octets = b""
        if isinstance(body, bytes):
            octets, body = body, BodyRef(key.shard, key.serial, 0, len(body), zlib.crc32(body))
        if len(octets) > PART_OCTETS:
            await self.keep_parts(key.shard, key.serial, octets)
            octets, body = b"", msgspec.structs.replace(body, offset=-1)
        meta = _encode(Stored(accept.message, body, accept.recipients))
        await self._execute(_KEEP, (key.shard, key.serial, PART_META, meta, octets, self._ttl))

    async def keep_part(self, shard: int, serial: int, part: int, octets: bytes) -> None:
        """Write one part of a body.

        Raises:
            StoreBusy, StoreInDoubt: It could not be written in time.
        """
        await self._execute(_PART, (shard, serial, part, octets, self._ttl))

    async def keep_parts(self, shard: int, serial: int, octets: bytes) -> None:
        """Write a body in parts, some at the same time."""
        parts = range((len(octets) + PART_OCTETS - 1) // PART_OCTETS)
        for first in range(0, len(parts), PARTS_AT_ONCE):
            await asyncio.gather(
                *(
                    self.keep_part(shard, serial, part, octets[part * PART_OCTETS : (part + 1) * PART_OCTETS])
                    for part in parts[first : first + PARTS_AT_ONCE]
                )
            )

    async def void(self, shard: int, serial: int) -> None:
        """Say that a message was never acknowledged."""
        await self._execute(_MARK_VOID, (shard, serial, PART_VOID, self._ttl))

    async def is_void(self, shard: int, serial: int) -> bool:
        """Whether that is written of a message."""
        return bool(await self._execute(_VOID, (shard, serial, PART_VOID)))

    async def find(self, key: MessageKey) -> Stored | None:
        """A message; None when there is none, or it was voided."""
        rows = await self._execute(_FIND, (key.shard, key.serial))
        if len(rows) != 1 or rows[0][0] != PART_META:
            return None
        stored = _decode(rows[0][1])
        return stored if stored.message.key == key else None

    async def octets(self, ref: BodyRef) -> bytes:
        """The octets of a body, checked.

        Raises:
            StoreBusy: They are not there, or are not what the reference says.
        """
        if ref.offset == 0:
            rows = await self._execute(_BODY, (ref.shard, ref.segment, PART_META))
            octets = rows[0][0] if rows else None
        else:
            octets = await self._parts(ref)
        octets = octets or b""
        if len(octets) != ref.length or zlib.crc32(octets) != ref.crc:
            raise StoreBusy("The message's body could not be read.", retry_after_s=1.0)
        return octets

    async def carry(self, key: MessageKey) -> None:
        """Write a message and its body again, so that they stay as long as new ones.

        Raises:
            StoreBusy, StoreInDoubt: Not all of it was written: try again.
        """
        await self._carry_rows(key.shard, key.serial)
        stored = await self.find(key)
        if stored is not None and stored.body.segment != key.serial:
            await self._carry_rows(stored.body.shard, stored.body.segment)

    async def _carry_rows(self, shard: int, serial: int) -> None:
        pages = self._session.pages(
            _ROWS, (shard, serial), timeout_s=self._timeout_s, page_rows=PARTS_AT_ONCE, consistency=self._reads
        )
        async for page in pages:
            await asyncio.gather(*(self._keep_row(shard, serial, part, meta, octets) for part, meta, octets in page))

    async def _keep_row(self, shard: int, serial: int, part: int, meta: bytes | None, octets: bytes | None) -> None:
        """As it was read: what is absent stays so, for a null that is written is a tombstone."""
        if meta is not None:
            await self._execute(_KEEP, (shard, serial, part, meta, octets or b"", self._ttl))
        elif octets is not None:
            await self.keep_part(shard, serial, part, octets)
        else:
            await self.void(shard, serial)

    async def end(self, shard: int, settled: Settled) -> None:
        """Write how a recipient ended; the same twice is no harm."""
        end = _End(RecipientState(settled.state), settled.due, settled.attempts, settled.first_attempt_at)
        recipient = settled.serial - settled.message
        await self._execute(_END, (shard, settled.message, recipient, _encode_end(end), self._ttl))

    async def views(self, key: MessageKey, stored: Stored, indexes: Sequence[int] | None = None) -> list[RecipientView]:
        """The recipients of a message as far as is written here: those that go on waiting look as when accepted.

        Args:
            indexes: Only these; all when None.
        """
        one = indexes is not None and len(indexes) == 1
        values = (key.shard, key.serial)
        rows = await self._execute(_END_ONE if one else _ENDS, (*values, indexes[0]) if one and indexes else values)
        ends = {recipient: _decode_end(octets) for recipient, octets in rows}
        chosen = range(len(stored.recipients)) if indexes is None else indexes
        return [_view(stored, index, ends.get(index)) for index in chosen if index < len(stored.recipients)]

    async def _parts(self, ref: BodyRef) -> bytes:
        count = (ref.length + PART_OCTETS - 1) // PART_OCTETS
        found: list[bytes] = []
        for first in range(0, count, PARTS_AT_ONCE):
            wanted = range(first, min(first + PARTS_AT_ONCE, count))
            rows = await asyncio.gather(*(self._execute(_BODY, (ref.shard, ref.segment, part)) for part in wanted))
            found += [row[0][0] or b"" for row in rows if row]
        return b"".join(found)

    async def _execute(self, cql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        consistency = self._writes if cql in _WRITES else self._reads if cql in _READS else Consistency.LOCAL_QUORUM
        return await self._session.execute(cql, values, timeout_s=self._timeout_s, consistency=consistency)


def _view(stored: Stored, index: int, end: _End | None) -> RecipientView:
    recipient, key = stored.recipients[index], stored.message.key
    message = stored.message
    pending = Pending(
        key,
        key.serial + index,
        key.day,
        recipient.address,
        recipient.due,
        message.account,
        message.domain,
        message.options.pool,
        message.expires_at,
        accepted_minute=minute_of(message.accepted_at),
    )
    state = RecipientState.PENDING
    if end is not None:
        state = end.state
        pending = msgspec.structs.replace(
            pending, due=end.due, attempts=end.attempts, first_attempt_at=end.first_attempt_at
        )
    return RecipientView(pending, state, recipient.variables, recipient.notify, recipient.original)
