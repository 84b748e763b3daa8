"""The journal of a shard: groups in, groups out.

A group is one row. Its number says where it is; a row that is written twice is the same row, so that a write whose end
is unknown is simply repeated.
"""

from __future__ import annotations

import asyncio
import bisect
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.stores.cassandra import entries
from pigeonry.stores.cassandra.session import Consistency
from pigeonry.stores.cassandra.tables import GROUPS_A_BUCKET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pigeonry.stores.cassandra.entries import Entry
    from pigeonry.stores.cassandra.session import Session

__all__ = ["Buckets", "Journal", "Place", "Row"]

PAGE_ROWS: Final = 8  # groups that are read at once: of the largest some 2 MB, which come within one request

_APPEND: Final = "INSERT INTO journal(shard, epoch, bucket, number, seq, octets) VALUES (?,?,?,?,?,?) USING TTL ?"
_OPEN: Final = "INSERT INTO bucket(shard, epoch, bucket, seq) VALUES (?,?,?,?) USING TTL ?"
_BUCKETS: Final = "SELECT epoch, bucket, seq FROM bucket WHERE shard = ?"
_READ: Final = """SELECT number, seq, octets FROM journal
    WHERE shard = ? AND epoch = ? AND bucket = ? AND number >= ?"""
_NUMBERS: Final = "SELECT number, seq FROM journal WHERE shard = ? AND epoch = ? AND bucket = ?"


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a bucket is, and which seq it begins with; ordered by seq."""

    seq: int
    epoch: int
    bucket: int


class Row(msgspec.Struct, frozen=True):
    """A group as it was read."""

    number: int
    seq: int
    octets: bytes

    def entries(self) -> list[Entry]:
        """What it tells."""
        return entries.decode(self.octets)


class Buckets:
    """The buckets of one shard, in the order of the events in them."""

    def __init__(self, places: list[Place]) -> None:
        self._places = sorted(places)

    def add(self, place: Place) -> None:
        """One that was opened."""
        if place not in self._places:
            bisect.insort(self._places, place)

    def of(self, seq: int) -> tuple[Place, int] | None:
        """Where an event is, and the seq with which the next bucket that has any begins; None when it is not kept.

        Events older than the oldest bucket are looked for from there on.
        """
        at = bisect.bisect_right(self._places, seq, key=_seq)
        if not self._places:
            return None
        place = self._places[max(at - 1, 0)]
        later = (each.seq for each in self._places[at:] if each.seq > place.seq)
        return place, next(later, 2**63)


def _seq(place: Place) -> int:
    return place.seq


class Journal:
    """Reads and writes groups.

    Args:
        kept_s: How long a group can be read.
        timeout_s: For one request.
        writes: When a group is durable: at a quorum of this location, or of each.
        reads: How many replicas are asked: more than those of this location for what another one wrote.
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

    def read_at(self, reads: Consistency) -> Journal:
        """The same, read at another consistency."""
        return Journal(self._session, kept_s=self._ttl, timeout_s=self._timeout_s, writes=self._writes, reads=reads)

    async def append(self, shard: int, epoch: int, number: int, seq: int, octets: bytes) -> None:
        """Write a group, and before its acknowledgement its bucket when it is the first in it.

        Raises:
            StoreBusy, StoreInDoubt: Not confirmed: write it again.
        """
        bucket = number // GROUPS_A_BUCKET
        values = (shard, epoch, bucket, number, seq, octets, self._ttl)
        row = self._session.execute(_APPEND, values, timeout_s=self._timeout_s, consistency=self._writes)
        if number % GROUPS_A_BUCKET:
            await row
            return
        opening = self._session.execute(
            _OPEN, (shard, epoch, bucket, seq, self._ttl), timeout_s=self._timeout_s, consistency=self._writes
        )
        await asyncio.gather(row, opening)

    async def buckets(self, shard: int) -> Buckets:
        """All that are kept."""
        rows = await self._session.execute(_BUCKETS, (shard,), timeout_s=self._timeout_s, consistency=self._reads)
        return Buckets([Place(seq, epoch, bucket) for epoch, bucket, seq in rows])

    async def groups(self, shard: int, epoch: int, *, number: int) -> AsyncIterator[Row]:
        """The groups of an epoch from a number on, without a gap: what is behind one was never acknowledged."""
        bucket = number // GROUPS_A_BUCKET
        while True:
            async for row in self.bucket(shard, epoch, bucket, number=number):
                if row.number != number:
                    return
                yield row
                number += 1
            bucket += 1
            if number != bucket * GROUPS_A_BUCKET:
                return

    async def bucket(self, shard: int, epoch: int, bucket: int, *, number: int) -> AsyncIterator[Row]:
        """The groups that there are in one bucket, from a number on."""
        pages = self._session.pages(
            _READ,
            (shard, epoch, bucket, number),
            timeout_s=self._timeout_s,
            page_rows=PAGE_ROWS,
            consistency=self._reads,
        )
        async for page in pages:
            for found, seq, octets in page:
                yield Row(found, seq, octets)

    async def number_of(self, shard: int, place: Place, seq: int) -> int:
        """The number of the group of a bucket that has an event, or of the first one when all are younger."""
        rows: list[tuple[Any, ...]] = await self._session.execute(
            _NUMBERS, (shard, place.epoch, place.bucket), timeout_s=self._timeout_s
        )
        older = [number for number, first in rows if first <= seq]
        return max(older) if older else place.bucket * GROUPS_A_BUCKET
