"""Leases among the workers of one node, in a small file that all of them open.

Leases are volatile: they name what is being done just now, and expire. So no lease is synced
(``synchronous=NORMAL``): a loss of power forgets the last ones, as it ends whatever they stood for, and leaves the file
whole, where ``OFF`` could leave one that no longer opens. Epochs rise all the same, also when the whole file is lost: a
lease that is newly taken has an epoch of at least the wall clock in milliseconds, which its predecessor had long ago.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.ports.coordinator import Lease
from pigeonry.stores.sqlite.shared_file import TIMEOUT_S, SharedFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import apsw

    from pigeonry.ports.disk import Disk, Lane
    from pigeonry.ports.environment import Clock

__all__ = ["SqliteCoordinator"]

_SCHEMA: Final = """
CREATE TABLE lease(
    name TEXT PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX expiry ON lease(expires_at);
"""
_SWEPT: Final = 100  # expired leases removed with each new one: the table stays as small as what is held
_KEPT_EXPIRED_S: Final = 3600.0  # an expired lease keeps its epoch for so long, in case the clock is set back


class SqliteCoordinator:
    """See ``ports.coordinator.Coordinator`` for the contract.

    Args:
        path: The file, shared by the workers of a node.
    """

    def __init__(self, path: str, *, disk: Disk, lane: Lane, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._clock = clock
        self._file = SharedFile(
            path,
            disk=disk,
            lane=lane,
            clock=clock,
            schema=_SCHEMA,
            schema_version=1,
            synchronous="NORMAL",
            timeout_s=timeout_s,
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._file.close()

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, ended: Callable[[str], Awaitable[bool]] | None = None
    ) -> Lease | None:
        """Take a lease that is free or expired; None when it is held by another."""
        found = await self._take(name, owner, ttl_s)
        if isinstance(found, Lease) or ended is None or not await ended(found):
            return found if isinstance(found, Lease) else None
        again = await self._take(name, owner, ttl_s, gone=found)
        return again if isinstance(again, Lease) else None

    async def _take(self, name: str, owner: str, ttl_s: float, *, gone: str = "") -> Lease | str:
        """The lease, or who holds it; ``gone`` does not."""
        now = self._clock.now()

        def work(connection: apsw.Connection) -> Lease | str:
            row = connection.execute("SELECT owner, epoch, expires_at FROM lease WHERE name = ?", (name,)).fetchone()
            holder, epoch, expires_at = row or ("", 0, 0.0)
            held = holder not in ("", gone) and expires_at > now
            if held and holder != owner:
                return holder
            if not held:
                epoch = max(int(now * 1000), epoch + 1)
            lease = Lease(name, owner, epoch, now + ttl_s)
            connection.execute(
                "DELETE FROM lease WHERE name IN (SELECT name FROM lease WHERE expires_at <= ? LIMIT ?)",
                (now - _KEPT_EXPIRED_S, _SWEPT),
            )
            connection.execute("INSERT OR REPLACE INTO lease VALUES (?,?,?,?)", (name, owner, epoch, lease.expires_at))
            return lease

        return await self._file.write(work)

    async def renew(self, lease: Lease, *, ttl_s: float) -> Lease | None:
        """Extend a lease; None when it is another's by now, or was released."""
        expires_at = self._clock.now() + ttl_s

        def work(connection: apsw.Connection) -> bool:
            connection.execute(
                "UPDATE lease SET expires_at = ? WHERE name = ? AND owner = ? AND epoch = ?",
                (expires_at, lease.name, lease.owner, lease.epoch),
            )
            return connection.changes() == 1

        renewed = await self._file.write(work)
        return Lease(lease.name, lease.owner, lease.epoch, expires_at) if renewed else None

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        now = self._clock.now()

        def work(connection: apsw.Connection) -> None:
            connection.execute(
                "UPDATE lease SET expires_at = ?, owner = '' WHERE name = ? AND owner = ? AND epoch = ?",
                (now, lease.name, lease.owner, lease.epoch),
            )

        await self._file.write(work)
