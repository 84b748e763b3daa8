"""Shares of limits among the workers of one node, in a small file that all of them open.

Like leases, shares are volatile and never synced: they name what is being used just now. A session holds a lock on a
file of its own for as long as its process lives, so that what a killed worker had is free at once: the others find
its lock free. What cannot be proved that way (a worker that stands still) is left to time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pigeonry.domain.errors import Fault
from pigeonry.quota.negotiation import Pot, decode_pot, encode_pot, holders, negotiated
from pigeonry.quota.witness import Witness
from pigeonry.stores.sqlite.shared_file import TIMEOUT_S, SharedFile

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import apsw

    from pigeonry.ports.disk import Disk, FileLock, Lane
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.quota import Ask, Grant

__all__ = ["SqliteQuota"]

_SCHEMA: Final = """
CREATE TABLE session(name TEXT PRIMARY KEY, beat INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE pot(name TEXT PRIMARY KEY, holdings BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE call(session TEXT NOT NULL, pot TEXT NOT NULL, PRIMARY KEY(session, pot)) WITHOUT ROWID;
"""


class SqliteQuota:
    """See ``ports.quota.Quota`` for the contract.

    Args:
        path: The file, shared by the workers of a node; the sessions' locks are in the folder ``PATH.sessions``.
    """

    def __init__(self, path: str, *, disk: Disk, lane: Lane, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._clock = clock
        self._disk = disk
        self._lane = lane
        self._folder = f"{path}.sessions"
        self._witness = Witness(clock)
        self._locks: dict[str, FileLock] = {}
        self._file = SharedFile(
            path, disk=disk, lane=lane, clock=clock, schema=_SCHEMA, synchronous="NORMAL", timeout_s=timeout_s
        )

    async def close(self) -> None:
        """Close the file. Sessions that were not left are found dead by the others."""
        await self._file.close()
        await self._lane.run(self._unlock, tuple(self._locks))

    async def join(self, session: str) -> None:
        """Begin a session; what sessions of dead processes had is cleared away."""

        def work(connection: apsw.Connection) -> None:
            self._lock(session)
            connection.execute("INSERT INTO session VALUES (?, 1)", (session,))
            dead = [name for (name,) in _rows(connection, "SELECT name FROM session") if self._dead(name)]
            if dead:
                self._clear(connection, dead)

        try:
            await self._file.write(work)
        except Fault:
            await self._lane.run(self._unlock, (session,))
            raise

    async def attend(self, session: str) -> Collection[str]:
        """Say that a session lives; the limits for which it should ask anew."""

        def work(connection: apsw.Connection) -> Collection[str]:
            connection.execute("UPDATE session SET beat = beat + 1 WHERE name = ?", (session,))
            called = _rows(connection, "DELETE FROM call WHERE session = ? RETURNING pot", session)
            return frozenset(name for (name,) in called)

        return await self._file.write(work)

    async def negotiate(self, session: str, asks: Sequence[Ask], *, former: Collection[str] = ()) -> Sequence[Grant]:
        """Ask for shares, all at once."""

        def work(connection: apsw.Connection) -> Sequence[Grant]:
            return [self._one(connection, session, ask, former) for ask in asks]

        return await self._file.write(work)

    async def leave(self, session: str) -> None:
        """End a session."""
        await self._file.write(lambda connection: self._clear(connection, (session,)))
        await self._lane.run(self._unlock, (session,))

    # On the lane

    def _one(self, connection: apsw.Connection, session: str, ask: Ask, former: Collection[str]) -> Grant:
        pot = _pot(connection, ask.name)
        over: Collection[str] = ()
        gone: Collection[str] = ()
        if others := holders(pot) - {session, *former}:
            began = self._clock.monotonic()
            over, gone = self._witness.judge({other: _beat(connection, other) for other in others}, began=began)
            gone |= {other for other in others if self._dead(other)}
        now, grant, call = negotiated(pot, session, ask, former=former, over=over, gone=gone)
        if now != pot:
            _keep(connection, ask.name, now)
        connection.executemany("INSERT OR IGNORE INTO call VALUES (?, ?)", [(other, ask.name) for other in call])
        return grant

    def _clear(self, connection: apsw.Connection, sessions: Iterable[str]) -> None:
        ended = frozenset(sessions)
        for name, octets in _rows(connection, "SELECT name, holdings FROM pot"):
            pot = decode_pot(octets)
            if ended & holders(pot):
                _keep(connection, name, tuple(holding for holding in pot if holding.session not in ended))
        for session in ended:
            connection.execute("DELETE FROM session WHERE name = ?", (session,))
            connection.execute("DELETE FROM call WHERE session = ?", (session,))

    def _lock(self, session: str) -> None:
        self._disk.make_folder(self._folder)
        lock = self._disk.lock(f"{self._folder}/{session}")
        assert lock is not None, "a session's name is used once"
        self._locks[session] = lock

    def _dead(self, session: str) -> bool:
        """Whether the process of a session is gone, as its lock says. What is left of it is removed then."""
        if session in self._locks:
            return False
        lock = self._disk.lock(f"{self._folder}/{session}")
        if lock is None:
            return False
        self._disk.unlink(f"{self._folder}/{session}")
        lock.release()
        return True

    def _unlock(self, sessions: Iterable[str]) -> None:
        for session in sessions:
            lock = self._locks.pop(session, None)
            if lock is not None:
                self._disk.unlink(f"{self._folder}/{session}")
                lock.release()


def _rows(connection: apsw.Connection, query: str, *bindings: str) -> Sequence[Any]:
    return connection.execute(query, bindings).fetchall()


def _pot(connection: apsw.Connection, name: str) -> Pot:
    octets: bytes | None = connection.execute("SELECT holdings FROM pot WHERE name = ?", (name,)).get
    return () if octets is None else decode_pot(octets)


def _beat(connection: apsw.Connection, session: str) -> int:
    beat: int | None = connection.execute("SELECT beat FROM session WHERE name = ?", (session,)).get
    return 0 if beat is None else beat


def _keep(connection: apsw.Connection, name: str, pot: Pot) -> None:
    if pot:
        connection.execute("INSERT OR REPLACE INTO pot VALUES (?, ?)", (name, encode_pot(pot)))
    else:
        connection.execute("DELETE FROM pot WHERE name = ?", (name,))
