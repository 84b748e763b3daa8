"""What a failed write means: whether it may be durable all the same, and how to go on after it."""

from __future__ import annotations

from typing import Final

import apsw

__all__ = ["full", "leave_old_wal", "uncertain", "unsynced"]

_SYNCS: Final = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})
_CODE_MASK: Final = 0xFF  # SQLite keeps the primary code in the low octet.
_NOT_WRITTEN: Final = frozenset(
    {apsw.SQLITE_FULL, apsw.SQLITE_BUSY, apsw.SQLITE_NOMEM, apsw.SQLITE_CONSTRAINT, apsw.SQLITE_READONLY}
)


def uncertain(error: Exception) -> bool:
    """Whether what failed may be on the disk all the same.

    An ``OSError`` is a segment that could not be written: COMMIT was never tried, and no row names it. A frame that
    could not be written is the last thing SQLite tried, so the frame that commits is not there. A sync that failed
    says nothing of what went before it. All that is not known to be harmless counts as uncertain.
    """
    if isinstance(error, OSError):
        return False
    code = _extended(error)
    if code in _SYNCS:
        return True
    return code & _CODE_MASK not in _NOT_WRITTEN and code != apsw.SQLITE_IOERR_WRITE


def unsynced(error: Exception) -> bool:
    """Whether a sync failed: what the file shows may never reach the disk, and no second sync of it can be believed."""
    return not isinstance(error, OSError) and _extended(error) in _SYNCS


def full(error: Exception) -> bool:
    """Whether there was no space."""
    return isinstance(error, OSError) or _extended(error) & _CODE_MASK == apsw.SQLITE_FULL


def leave_old_wal(connection: apsw.Connection) -> None:
    """Copy a WAL that may not be whole on the disk into the database, and begin a new one. May block.

    What a failed sync left in the page cache reads well and may never reach the disk, so nothing is built on it. The
    write after the checkpoint makes it durable that the WAL is a new one: else a loss of power could bring back the
    old one, short of what was lost from it, and with it an older state of the pages.

    Raises:
        apsw.Error: It is as it was.
    """
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.pragma("user_version", connection.pragma("user_version"))  # a row set to what it is writes no page


def _extended(error: Exception) -> int:
    code = getattr(error, "extendedresult", None)
    if isinstance(code, int):
        return code
    return apsw.SQLITE_FULL if isinstance(error, apsw.FullError) else apsw.SQLITE_ERROR
