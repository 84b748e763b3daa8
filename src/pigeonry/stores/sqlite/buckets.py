"""Token buckets of the workers of one node, in a small file that all of them open.

A loss of power forgets the last draws (``synchronous=NORMAL``), the end of a process none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from pigeonry.ports.buckets import Bucket
from pigeonry.stores.sqlite.shared_file import TIMEOUT_S, SharedFile

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from pigeonry.ports.disk import Disk, Lane
    from pigeonry.ports.environment import Clock

__all__ = ["SqliteBuckets"]

T = TypeVar("T")

_SCHEMA: Final = "CREATE TABLE bucket(name TEXT PRIMARY KEY, level REAL NOT NULL, at REAL NOT NULL) WITHOUT ROWID"


class SqliteBuckets:
    """See ``ports.buckets.Buckets`` for the contract.

    Args:
        path: The file, shared by the workers of a node.
    """

    def __init__(self, path: str, *, disk: Disk, lane: Lane, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._file = SharedFile(
            path, disk=disk, lane=lane, clock=clock, schema=_SCHEMA, synchronous="NORMAL", timeout_s=timeout_s
        )

    async def close(self) -> None:
        """Close the file."""
        await self._file.close()

    async def change(self, name: str, work: Callable[[Bucket | None], tuple[Bucket, T]]) -> T:
        """Change a bucket."""

        def transaction(connection: apsw.Connection) -> T:
            row = connection.execute("SELECT level, at FROM bucket WHERE name = ?", (name,)).fetchone()
            bucket, said = work(None if row is None else Bucket(*row))
            connection.execute("INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)", (name, bucket.level, bucket.at))
            return said

        return await self._file.write(transaction)
