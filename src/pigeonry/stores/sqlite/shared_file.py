"""One SQLite file that several worker processes read and write at once.

What the small stores (documents, leases) have in common: a connection made on first use, all work on one lane, write
transactions that take the write lock at their start, and errors turned into those of the ports. A transaction here is
short, so waiting for another process' lock is the ordinary case and bounded by the deadline.

A commit that failed for any reason but "busy" or "full" is in doubt: its connection is thrown away, and nothing is
written before the WAL was left for a new one, since a second sync of the same file could claim to have written what it
did not.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, TypeVar

import apsw

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.stores.sqlite.failure import leave_old_wal

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.ports.disk import Disk, Lane
    from pigeonry.ports.environment import Clock

__all__ = ["SharedFile", "WrongSchema"]

T = TypeVar("T")

TIMEOUT_S: Final = 5.0  # ten times what the slowest disk seen took for one sync; a door answers 503 then
_NOT_IN_TIME: Final = "The store did not answer in time; nothing was changed."
_NOT_READABLE: Final = "The store cannot be used just now; nothing was changed."
_MAYBE: Final = "The store did not confirm the change; it may have been made."


class WrongSchema(RuntimeError):
    """The file was written by a newer program: this one must not touch it."""


class SharedFile:
    """Transactions on one file, each on the lane, each with a deadline.

    Args:
        path: The file; made with its tables on first use.
        schema: SQL that makes the tables, run once.
        schema_version: Kept in the file; a file with a higher one is refused.
        synchronous: SQLite's setting: ``FULL`` syncs each commit, ``NORMAL`` only checkpoints.
        timeout_s: Seconds from a call to its answer, waiting for the lane and for locks included.
    """

    def __init__(
        self,
        path: str,
        *,
        disk: Disk,
        lane: Lane,
        clock: Clock,
        schema: str,
        schema_version: int = 1,
        synchronous: str = "FULL",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._path = path
        self._disk = disk
        self._lane = lane
        self._clock = clock
        self._schema = schema
        self._schema_version = schema_version
        self._synchronous = synchronous
        self._timeout_s = timeout_s
        self._connection: apsw.Connection | None = None
        self._distrusted = False  # whether a commit failed since the WAL was begun

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run one query, or several that need not agree with each other.

        Raises:
            StoreBusy: Not in time, or the file cannot be read.
        """
        return await self._lane.run(self._read, work, self._deadline())

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run ``work`` in a write transaction; it is durable when this returns, undone when ``work`` raises.

        Raises:
            StoreBusy: Not in time, or the disk is full; nothing was stored.
            StoreInDoubt: The commit failed in a way that leaves open whether it was stored.
        """
        return await self._lane.run(self._write, work, self._deadline())

    async def open(self) -> None:
        """Make or open the file now rather than on first use.

        Raises:
            StoreBusy: It cannot be opened.
            WrongSchema: A newer program wrote it.
        """
        await self._lane.run(self._open, self._deadline())

    async def close(self) -> None:
        """Close the connection. It is made again when somebody still asks."""
        await self._lane.run(self._drop)

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._timeout_s

    def _read(self, work: Callable[[apsw.Connection], T], deadline: float) -> T:
        connection = self._open(deadline)
        try:
            return work(connection)
        except apsw.Error as error:
            raise self._failed(error) from error

    def _write(self, work: Callable[[apsw.Connection], T], deadline: float) -> T:
        connection = self._open(deadline)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise self._failed(error) from error
        try:
            result = work(connection)
        except apsw.Error as error:
            self._undo(connection)
            raise self._failed(error) from error
        except BaseException:
            self._undo(connection)
            raise
        try:
            connection.execute("COMMIT")
        except (apsw.BusyError, apsw.FullError) as error:
            self._undo(connection)
            raise StoreBusy(_NOT_IN_TIME) from error
        except apsw.Error as error:
            self._drop()
            self._distrusted = True
            raise StoreInDoubt(_MAYBE) from error
        return result

    def _undo(self, connection: apsw.Connection) -> None:
        """Roll back; a connection that cannot even do that is of no use any more."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except apsw.Error:
            self._drop()

    def _failed(self, error: apsw.Error) -> StoreBusy:
        if isinstance(error, apsw.BusyError | apsw.LockedError | apsw.FullError):
            return StoreBusy(_NOT_IN_TIME)
        self._drop()
        return StoreBusy(_NOT_READABLE)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close(True)

    def _open(self, deadline: float) -> apsw.Connection:
        """The connection, set up, waiting for locks no longer than the deadline."""
        left_ms = int((deadline - self._clock.monotonic()) * 1000)
        if left_ms <= 0:
            raise StoreBusy(_NOT_IN_TIME)
        if self._connection is not None:
            self._connection.set_busy_timeout(left_ms)
            return self._connection
        try:
            if self._disk.size(self._path) < 0:
                with contextlib.suppress(FileExistsError):  # another process makes it in this moment
                    self._disk.append(self._path).close()  # by the disk, for its mode and the folder's sync
            connection = apsw.Connection(self._path, vfs=self._disk.sqlite_vfs or None)
        except (apsw.Error, OSError) as error:
            raise StoreBusy(_NOT_READABLE) from error
        self._connection = connection
        try:
            connection.set_busy_timeout(left_ms)
            self._prepare(connection)
        except apsw.Error as error:
            self._drop()
            raise StoreBusy(_NOT_READABLE) from error
        except WrongSchema:
            self._drop()
            raise
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        if not self._disk.shared_memory:
            connection.pragma("locking_mode", "EXCLUSIVE")
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", self._synchronous)
        found = connection.pragma("user_version")
        assert isinstance(found, int)
        if found > self._schema_version:
            raise WrongSchema(f"{self._path} was written by a newer version of pigeonry (schema {found}).")
        if found < self._schema_version:
            connection.execute("BEGIN IMMEDIATE")
            if connection.pragma("user_version") == found:  # another process may have been first
                connection.execute(self._schema)
                connection.pragma("user_version", self._schema_version)
            connection.execute("COMMIT")
        if self._distrusted:
            leave_old_wal(connection)
            self._distrusted = False
