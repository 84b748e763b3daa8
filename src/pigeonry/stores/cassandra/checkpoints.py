"""Checkpoints: what was pending at a place in a shard's journal, so that a takeover reads the rest of it only.

Written while the shard goes on: a checkpoint begins at the place where the journal was when it was begun, and each part
tells of its recipients as they are a moment later. What happened in between is folded over it once more, and folding an
entry twice gives what folding it once gives.

A checkpoint is there when its head is. The head is written when all that its parts may tell of is durable.

Who takes a shard over writes a head as well, before it serves: one without parts, which names the checkpoint that it
read and how far it folded each epoch after that. So every later owner folds the same, whatever still appears behind.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import Pending
from pigeonry.ports.ledger import LedgerRow
from pigeonry.stores.cassandra.session import Consistency
from pigeonry.stores.cassandra.waiting import Waiting
from pigeonry.stores.counts import Counts

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock
    from pigeonry.stores.cassandra.session import Session
    from pigeonry.stores.cassandra.shard import Shard

__all__ = ["Chain", "Checkpoints", "Folded", "Head", "ShardUnreadable", "Snapshot"]

PART_RECIPIENTS: Final = 2_000  # recipients of a part: 200 to 300 KB, encoded in some milliseconds
PART_ROWS: Final = 5_000  # rows of the ledger in a part: as large
PARTS_AT_ONCE: Final = 4  # parts that are read at the same time
HEADS_LOOKED_AT: Final = 3  # the newest; one whose parts are not all there is passed over

_PART: Final = "INSERT INTO checkpoint(shard, epoch, number, part, octets) VALUES (?,?,?,?,?) USING TTL ?"
_PART_READ: Final = "SELECT octets FROM checkpoint WHERE shard = ? AND epoch = ? AND number = ? AND part = ?"
_HEAD: Final = "INSERT INTO head(shard, epoch, number, octets) VALUES (?,?,?,?) USING TTL ?"
_HEAD_READ: Final = "SELECT epoch, number, octets FROM head WHERE shard = ? AND epoch < ? LIMIT ?"


class ShardUnreadable(StoreBusy):
    """The store answers, and what it has of a shard is not all there."""


class Folded(msgspec.Struct, frozen=True, array_like=True):
    """Groups of a closed epoch: from ``start`` to before ``end``."""

    epoch: int
    start: int
    end: int


class Head(msgspec.Struct, frozen=True):
    """Where a checkpoint is, and what is small in it.

    Args:
        epoch: Of the owner that wrote it.
        number: Which of that epoch; also the first group of the epoch that is to be folded over it.
        seq: Of the first event that is to be folded over it.
        parts: How many there are.
        voided: First serial -> day.
        carried, late: As in ``Shard``.
    """

    epoch: int
    number: int
    seq: int
    parts: int
    voided: dict[int, int]
    carried: int = 0
    late: dict[int, int] = {}


class Snapshot(msgspec.Struct, frozen=True):
    """Where a checkpoint begins, as its ``Head`` will say, who waits then, and what was counted until then."""

    number: int
    seq: int
    voided: dict[int, int]
    carried: int
    late: dict[int, int]
    serials: list[int]
    counts: list[LedgerRow]


class Chain(msgspec.Struct, frozen=True):
    """What a shard was made of when an epoch began.

    Args:
        base: The checkpoint; None when there was none.
        folded: What was folded over it, in order.
        late: As in ``Shard``.
    """

    base: Head | None
    folded: tuple[Folded, ...]
    late: dict[int, int] = {}


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """Some recipients that wait, which of them have an attempt whose final dot may have left, or rows of the ledger."""

    pendings: list[Pending]
    dots: dict[int, int]
    counts: list[LedgerRow] = []


_CHAIN: Final = -1  # the number of an epoch's chain: below all of its checkpoints

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_head: Final = msgspec.msgpack.Decoder(Head).decode
_decode_chain: Final = msgspec.msgpack.Decoder(Chain).decode
_decode_part: Final = msgspec.msgpack.Decoder(_Part).decode


class Checkpoints:
    """Reads and writes them.

    Args:
        kept_s: How long one can be read; a shard writes the next one long before.
        timeout_s: For one request.
        reads: As in ``Journal``.
    """

    def __init__(
        self,
        session: Session,
        *,
        clock: Clock,
        kept_s: float,
        timeout_s: float,
        reads: Consistency = Consistency.LOCAL_QUORUM,
    ) -> None:
        self._session = session
        self._clock = clock
        self._ttl = int(kept_s)
        self._timeout_s = timeout_s
        self._reads = reads

    def read_at(self, reads: Consistency) -> Checkpoints:
        """The same, read at another consistency."""
        return Checkpoints(self._session, clock=self._clock, kept_s=self._ttl, timeout_s=self._timeout_s, reads=reads)

    def begin(self, shard: Shard) -> Snapshot:
        """Where a checkpoint begins: called when nothing is judged that is not durable."""
        return Snapshot(
            shard.group_next,
            shard.seq_next,
            dict(shard.voided),
            shard.carried,
            dict(shard.late),
            shard.waiting.serials(),
            shard.counts.all(),
        )

    async def write_parts(self, shard: Shard, snapshot: Snapshot) -> Head:
        """Write what waits. The shard goes on meanwhile.

        The head that it returns is to be written once all that was judged until then is durable.

        Raises:
            StoreBusy, StoreInDoubt: It could not be written; the one before stands.
        """
        number, serials, parts = snapshot.number, snapshot.serials, 0
        for first in range(0, len(serials), PART_RECIPIENTS):
            chosen = serials[first : first + PART_RECIPIENTS]
            found = [shard.waiting.get(serial) for serial in chosen]
            dots = {serial: shard.dots[serial] for serial in chosen if serial in shard.dots}
            part = _Part([pending for pending in found if pending is not None], dots)
            await self._write_part(shard, number, parts, part)
            parts += 1
        for first in range(0, len(snapshot.counts), PART_ROWS):
            await self._write_part(shard, number, parts, _Part([], {}, snapshot.counts[first : first + PART_ROWS]))
            parts += 1
        return Head(shard.epoch, number, snapshot.seq, parts, snapshot.voided, snapshot.carried, snapshot.late)

    async def _write_part(self, shard: Shard, number: int, place: int, part: _Part) -> None:
        values = (shard.number, shard.epoch, number, place, _encode(part), self._ttl)
        await self._session.execute(_PART, values, timeout_s=self._timeout_s)

    async def write_head(self, shard: int, head: Head) -> None:
        """Make a checkpoint count.

        Raises:
            StoreBusy, StoreInDoubt: It may not; the one before stands.
        """
        values = (shard, head.epoch, head.number, _encode(head), self._ttl)
        await self._session.execute(_HEAD, values, timeout_s=self._timeout_s)

    async def write_chain(self, shard: int, epoch: int, chain: Chain) -> None:
        """Say what the shard is made of at the beginning of an epoch.

        Raises:
            StoreBusy, StoreInDoubt: It could not be written: the shard cannot be served yet.
        """
        values = (shard, epoch, _CHAIN, _encode(chain), self._ttl)
        await self._session.execute(_HEAD, values, timeout_s=self._timeout_s)

    async def read(self, shard: Shard) -> tuple[Chain, int]:
        """Fill an empty shard from the newest complete checkpoint of the epochs before its own.

        Returns what is to be folded over it next: the chain of the newest epoch that has one, and that epoch, whose
        groups from the checkpoint's number on, or from 0, follow.

        Raises:
            StoreBusy: It cannot be read.
        """
        rows = await self._session.execute(
            _HEAD_READ,
            (shard.number, shard.epoch, HEADS_LOOKED_AT),
            timeout_s=self._timeout_s,
            consistency=self._reads,
        )
        for epoch, number, octets in rows:
            chain = _decode_chain(octets) if number == _CHAIN else Chain(_decode_head(octets), ())
            if chain.base is None or await self._fill(shard, chain.base):
                shard.late.update(chain.late)
                return chain, epoch
        if rows:  # to begin with nothing would be to lose all that waits
            raise ShardUnreadable(f"Shard {shard.number} cannot be read: parts of its checkpoints are missing.")
        return Chain(None, ()), 0

    async def _fill(self, shard: Shard, head: Head) -> bool:
        """False when a part is missing."""
        waiting, dots, counts = Waiting(), dict[int, int](), Counts()
        for first in range(0, head.parts, PARTS_AT_ONCE):
            rows = await asyncio.gather(
                *(
                    self._session.execute(
                        _PART_READ,
                        (shard.number, head.epoch, head.number, part),
                        timeout_s=self._timeout_s,
                        consistency=self._reads,
                    )
                    for part in range(first, min(first + PARTS_AT_ONCE, head.parts))
                )
            )
            if not all(rows):
                return False
            for row in rows:
                part = _decode_part(row[0][0])
                for pending in part.pendings:
                    waiting.put(pending)
                dots.update(part.dots)
                counts.put(part.counts)
                await self._clock.sleep(0.0)  # each takes some ten milliseconds, and others are served meanwhile
        shard.waiting, shard.dots, shard.counts = waiting, dots, counts
        shard.voided.update(head.voided)
        shard.seq_next, shard.carried = head.seq, head.carried
        shard.late.update(head.late)
        return True
