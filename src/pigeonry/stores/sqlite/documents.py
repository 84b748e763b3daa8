"""Identity and Directory on SQLite: small documents in one file each, shared by all workers of a node.

A document's row id is its *position* in the change feed: each change writes a new row in the old one's place, and
positions are given under the write lock, so they become visible in their order. A deletion leaves a tombstone that
takes its place in the feed. Followers that keep documents in memory ask for what lies behind the last position they
saw; a follower that slept longer than ``TOMBSTONES_KEPT_S`` must begin again at 0 with an empty memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pigeonry.domain.errors import Conflict, TooLarge
from pigeonry.ports.documents import Change, Document
from pigeonry.stores.sqlite.shared_file import TIMEOUT_S, SharedFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from pigeonry.ports.disk import Disk, Lane
    from pigeonry.ports.environment import Clock

__all__ = ["SqliteDocuments"]

VALUE_OCTETS_MAX: Final = 64 * 1024  # the port's limit: these are settings, not content
PAGE_MAX: Final = 10_000  # documents in one answer: at most 640 MB in theory, 5 MB for what we keep here
TOMBSTONES_KEPT_S: Final = 30 * 86_400.0  # longer than any follower sleeps; a tombstone takes 100 octets
_PRUNED_AT_ONCE: Final = 100  # tombstones removed with each deletion, so that no write pays for many

_SCHEMA: Final = """
CREATE TABLE document (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    value BLOB,
    deleted_at REAL
) STRICT;
CREATE UNIQUE INDEX document_by_id ON document (kind, id);
CREATE INDEX tombstone ON document (deleted_at) WHERE value IS NULL;
"""
_ONE: Final = "SELECT value, version FROM document WHERE kind = ? AND id = ? AND value IS NOT NULL"
_PUT: Final = "INSERT OR REPLACE INTO document (kind, id, version, value) VALUES (?, ?, ?, ?)"
_BURY: Final = "INSERT OR REPLACE INTO document (kind, id, version, deleted_at) VALUES (?, ?, 0, ?)"
_PRUNE: Final = """DELETE FROM document WHERE position IN
    (SELECT position FROM document WHERE value IS NULL AND deleted_at < ? LIMIT ?)"""
_LIST: Final = """SELECT id, value, version FROM document
    WHERE kind = ? AND id > ? AND id >= ? AND id < ? AND value IS NOT NULL ORDER BY id LIMIT ?"""
_CHANGES: Final = "SELECT position, kind, id, value, version FROM document WHERE position > ? ORDER BY position LIMIT ?"
_LAST_CHARACTER: Final = "\U0010ffff"  # sorts behind every other: ends the range of ids with a prefix


class SqliteDocuments:
    """Documents in one SQLite file. See ``ports.documents.Documents`` for the contract.

    Implements ``Identity`` and ``Directory``, each on a file of its own (``identity.db``, ``directory.db``).

    Args:
        path: The file.
        lane: Where it blocks; a lane of its own, so that a slow Directory never delays Identity (invariant I6).
        timeout_s: Seconds until a call is given up with ``StoreBusy``.
    """

    def __init__(self, path: str, *, disk: Disk, lane: Lane, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._clock = clock
        self._file = SharedFile(path, disk=disk, lane=lane, clock=clock, schema=_SCHEMA, timeout_s=timeout_s)

    async def open(self) -> None:
        """Make or open the file now rather than on first use."""
        await self._file.open()

    async def close(self) -> None:
        """Close the file."""
        await self._file.close()

    async def get(self, kind: str, id: str) -> Document | None:  # noqa: A002  # the field's word
        """The document, or None."""
        for value, version in await self._rows(_ONE, (kind, id)):
            return Document(kind=kind, id=id, value=value, version=version)
        return None

    async def put(self, kind: str, id: str, value: bytes, *, expect: int | None) -> Document:  # noqa: A002
        """Create or change a document; durable when this returns."""
        if len(value) > VALUE_OCTETS_MAX:
            raise TooLarge(f"A document has at most {VALUE_OCTETS_MAX} octets.")

        def work(connection: apsw.Connection) -> int:
            version = _checked(connection, kind, id, expect) + 1
            connection.execute(_PUT, (kind, id, version, bytes(value)))
            return version

        return Document(kind=kind, id=id, value=value, version=await self._file.write(work))

    async def delete(self, kind: str, id: str, *, expect: int | None) -> bool:  # noqa: A002
        """Delete a document; whether there was one."""
        now = self._clock.now()

        def work(connection: apsw.Connection) -> bool:
            if not _checked(connection, kind, id, expect):
                return False
            connection.execute(_BURY, (kind, id, now))
            connection.execute(_PRUNE, (now - TOMBSTONES_KEPT_S, _PRUNED_AT_ONCE))
            return True

        return await self._file.write(work)

    async def list(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[Document]:
        """Documents of a kind in the order of their ids."""
        bindings = (kind, after, prefix, prefix + _LAST_CHARACTER, min(limit, PAGE_MAX))
        rows = await self._rows(_LIST, bindings)
        return [Document(kind=kind, id=found, value=value, version=version) for found, value, version in rows]

    async def changes(self, *, after: int, limit: int = 1000) -> Sequence[Change]:
        """The feed behind a position."""
        bindings = (after, min(limit, PAGE_MAX))
        rows = await self._rows(_CHANGES, bindings)
        return [
            Change(
                position=position,
                kind=kind,
                id=found,
                document=None if value is None else Document(kind=kind, id=found, value=value, version=version),
            )
            for position, kind, found, value, version in rows
        ]

    async def _rows(self, query: str, bindings: tuple[str | int, ...]) -> Sequence[Any]:
        return await self._file.read(lambda connection: connection.execute(query, bindings).fetchall())


def _checked(connection: apsw.Connection, kind: str, key: str, expect: int | None) -> int:
    """The version that stands now, 0 for none.

    Raises:
        Conflict: It is not the expected one.
    """
    row = connection.execute(_ONE, (kind, key)).get
    version: int = 0 if row is None else row[1]
    if expect is not None and expect != version:
        raise Conflict("Somebody else changed it first; read it again.")
    return version
