"""Roll-ups of a cluster: a row for each cell and shard, which its shard's owner overwrites.

No counter columns: one that timed out may or may not have counted, and must not be tried again. A row holds the
shard's running total *and* the entry up to which it counts, written together with that entry's number as timestamp. So
a row can be written again, late, or by an owner who does not know yet that he is none any more: the furthest total
stands. The cursor is written last; after a crash rows may be ahead of it, and what a row has counted is left out there.

A scope's hours are together by day, so that a month is thirty small partitions. Rows leave by their TTL.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pigeonry.ports.counters import Cell, Count, Total

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pigeonry.stores.cassandra.session import Session

__all__ = ["COUNTER_TABLES", "CassandraCounters"]

T = TypeVar("T")

TIMEOUT_S: Final = 5.0  # seconds for one statement: no user waits, and a month is read in one go
KEPT_S: Final = 400 * 86_400  # seconds that totals stay: a year and a month to compare it with
TOGETHER: Final = 64  # rows read or written at once for one shard; a fraction of what the session has under way
REMEMBERED_MAX: Final = 20_000  # totals kept in memory, 300 octets each: those of the hours that are being counted
_DAY: Final = 24

COUNTER_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS total (
    scope text, day int, tag text, hour int, event text, provider text, shard int, number bigint, upto bigint,
    PRIMARY KEY ((scope, day), tag, hour, event, provider, shard))""",
    "CREATE TABLE IF NOT EXISTS total_cursor (shard int PRIMARY KEY, upto bigint)",
)

_CELL: Final = "scope = ? AND day = ? AND tag = ? AND hour = ? AND event = ? AND provider = ?"
_READ: Final = f"SELECT number, upto FROM total WHERE {_CELL} AND shard = ?"
_WRITE: Final = f"UPDATE total USING TTL {KEPT_S} AND TIMESTAMP ? SET number = ?, upto = ? WHERE {_CELL} AND shard = ?"
_SUMS: Final = "SELECT scope, hour, event, tag, provider, number FROM total WHERE scope = ? AND day = ?"
_SUMS_OF_TAG: Final = f"{_SUMS} AND tag = ?"
_CURSOR: Final = "SELECT upto FROM total_cursor WHERE shard = ?"
_MOVE: Final = "UPDATE total_cursor USING TIMESTAMP ? SET upto = ? WHERE shard = ?"


class CassandraCounters:
    """See ``ports.counters.Counters`` for the contract.

    Args:
        session: Connections to the nodes, in the queue's keyspace.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: OrderedDict[tuple[int, Cell], tuple[int, int]] = OrderedDict()  # the rows of our shards
        self._cursors: dict[int, int] = {}  # the last one that was heard of each shard: another one may have it since

    async def open(self) -> None:
        """The session is open; the stores are used alike."""

    async def close(self) -> None:
        """The session is closed by who opened it."""

    async def cursor(self, shard: int) -> int:
        """Up to which entry all is counted."""
        rows = await self._session.execute(_CURSOR, (shard,), timeout_s=TIMEOUT_S)
        cursor: int = rows[0][0] if rows else 0
        if self._cursors.get(shard) != cursor:  # another has counted, or we failed: what is remembered may be old
            self._forget(shard)
            self._cursors[shard] = cursor
        return cursor

    async def count(self, shard: int, counts: Sequence[Count], *, upto: int) -> None:
        """Count what entries after the cursor add."""
        if shard not in self._cursors:
            await self.cursor(shard)
        counted = self._cursors.pop(shard)  # until it is done it is not known how far it is
        if upto > counted:
            by_cell: dict[Cell, list[Count]] = {}
            for count in counts:
                if count.seq > counted:
                    by_cell.setdefault(count.cell, []).append(count)
            for some in _pieces(by_cell.items()):
                await asyncio.gather(*(self._add(shard, cell, added, upto) for cell, added in some))
            await self._session.execute(_MOVE, (upto, upto, shard), timeout_s=TIMEOUT_S)
        self._cursors[shard] = max(upto, counted)

    async def totals(self, scope: str, *, begin: int, end: int, tag: str | None = "") -> Sequence[Total]:
        """The sums over all shards."""
        sums: dict[Cell, int] = {}
        for days in _pieces(range(begin // _DAY, (end + _DAY - 1) // _DAY)):
            for rows in await asyncio.gather(*(self._day(scope, day, tag) for day in days)):
                for *cell, number in rows:
                    found = Cell(*cell)
                    if begin <= found.hour < end:
                        sums[found] = sums.get(found, 0) + number
        totals = [Total(cell, number) for cell, number in sums.items()]
        return sorted(totals, key=lambda one: (one.cell.tag, one.cell.hour, one.cell.event, one.cell.provider))

    async def _day(self, scope: str, day: int, tag: str | None) -> list[tuple[Any, ...]]:
        if tag is None:
            return await self._session.execute(_SUMS, (scope, day), timeout_s=TIMEOUT_S)
        return await self._session.execute(_SUMS_OF_TAG, (scope, day, tag), timeout_s=TIMEOUT_S)

    async def _add(self, shard: int, cell: Cell, counts: Sequence[Count], upto: int) -> None:
        """Add to one row what it has not counted yet."""
        row = (cell.scope, cell.hour // _DAY, cell.tag, cell.hour, cell.event, cell.provider, shard)
        known = self._known.pop((shard, cell), None)
        if known is None:
            rows = await self._session.execute(_READ, row, timeout_s=TIMEOUT_S)
            known = (rows[0][0], rows[0][1]) if rows else (0, 0)
        number, counted = known
        number += sum(count.number for count in counts if count.seq > counted)
        if upto > counted:
            await self._session.execute(_WRITE, (upto, number, upto, *row), timeout_s=TIMEOUT_S)
        self._known[shard, cell] = (number, max(upto, counted))
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)

    def _forget(self, shard: int) -> None:
        for key in [key for key in self._known if key[0] == shard]:
            del self._known[key]


def _pieces(of: Iterable[T]) -> Iterator[list[T]]:
    """So many at once."""
    rest = iter(of)
    while piece := list(islice(rest, TOGETHER)):
        yield piece
