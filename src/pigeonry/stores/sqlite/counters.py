"""Roll-ups of one node, in a file that all its workers open: totals and cursor move in one transaction.

No commit is synced (``synchronous=NORMAL``): after a loss of power both are older, together, and the log has the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pigeonry.ports.counters import Cell, Count, Total
from pigeonry.stores.sqlite.shared_file import TIMEOUT_S, SharedFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from pigeonry.ports.disk import Disk, Lane
    from pigeonry.ports.environment import Clock

__all__ = ["SqliteCounters"]

_SCHEMA: Final = """
CREATE TABLE total(
    scope TEXT NOT NULL, tag TEXT NOT NULL, hour INTEGER NOT NULL, event TEXT NOT NULL, provider TEXT NOT NULL,
    shard INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY(scope, tag, hour, event, provider, shard)) WITHOUT ROWID;
CREATE INDEX total_by_hour ON total(hour);
CREATE TABLE cursor(shard INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
"""
_ADD: Final = """INSERT INTO total VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET number = number + excluded.number"""
_SUMS: Final = """SELECT scope, hour, event, tag, provider, sum(number) FROM total
    WHERE scope = ? AND hour >= ? AND hour < ? {tag} GROUP BY tag, hour, event, provider"""
_OF_ONE_TAG: Final = _SUMS.format(tag="AND tag = ?")
_OF_ANY: Final = _SUMS.format(tag="")
_RETIRED_AT_ONCE: Final = 10_000  # rows in one transaction, which the other workers' wait for: some 20 ms


class SqliteCounters:
    """See ``ports.counters.Counters`` for the contract.

    Args:
        path: The file, shared by the workers of a node.
    """

    def __init__(self, path: str, *, disk: Disk, lane: Lane, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._file = SharedFile(
            path, disk=disk, lane=lane, clock=clock, schema=_SCHEMA, synchronous="NORMAL", timeout_s=timeout_s
        )

    async def open(self) -> None:
        """Make or open the file now rather than on first use."""
        await self._file.open()

    async def close(self) -> None:
        """Close the file."""
        await self._file.close()

    async def cursor(self, shard: int) -> int:
        """Up to which entry all is counted."""
        return await self._file.read(lambda connection: _cursor(connection, shard))

    async def count(self, shard: int, counts: Sequence[Count], *, upto: int) -> None:
        """Count what entries after the cursor add."""

        def work(connection: apsw.Connection) -> None:
            counted = _cursor(connection, shard)
            sums: dict[Cell, int] = {}
            for count in counts:
                if count.seq > counted:
                    sums[count.cell] = sums.get(count.cell, 0) + count.number
            connection.executemany(
                _ADD,
                [
                    (cell.scope, cell.tag, cell.hour, cell.event, cell.provider, shard, number)
                    for cell, number in sums.items()
                ],
            )
            connection.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?)", (shard, max(counted, upto)))

        await self._file.write(work)

    async def totals(self, scope: str, *, begin: int, end: int, tag: str | None = "") -> Sequence[Total]:
        """The sums over all shards."""
        query, bindings = (_OF_ANY, (scope, begin, end)) if tag is None else (_OF_ONE_TAG, (scope, begin, end, tag))

        def work(connection: apsw.Connection) -> Sequence[Any]:
            return connection.execute(query, bindings).fetchall()

        return [Total(Cell(*cell), number) for *cell, number in await self._file.read(work)]

    async def retire(self, *, before: int) -> None:
        """Remove totals of hours before one that are kept no longer."""

        def work(connection: apsw.Connection) -> int:
            connection.execute(
                "DELETE FROM total WHERE (scope, tag, hour, event, provider, shard) IN "
                "(SELECT scope, tag, hour, event, provider, shard FROM total WHERE hour < ? LIMIT ?)",
                (before, _RETIRED_AT_ONCE),
            )
            return connection.changes()

        while await self._file.write(work) == _RETIRED_AT_ONCE:
            pass


def _cursor(connection: apsw.Connection, shard: int) -> int:
    seq: int | None = connection.execute("SELECT seq FROM cursor WHERE shard = ?", (shard,)).get
    return 0 if seq is None else seq
