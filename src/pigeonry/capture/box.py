"""Where captured messages are kept: one small SQLite file, bounded, the oldest making room for the newest.

What the sink acknowledged is synced, so that a killed development run shows the same inbox when it is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from pigeonry.domain.errors import StoreBusy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.ports.disk import Lane

__all__ = ["MESSAGES_MAX", "OCTETS_MAX", "Box", "Captured"]

MESSAGES_MAX: Final = 10_000  # what a person still scrolls through, with room
OCTETS_MAX: Final = 512 * 1024 * 1024  # of all messages; a development machine's disk is not ours to fill
TRIES_MAX: Final = 10_000  # first tries remembered for defer@; the oldest are forgotten
_BUSY_MS: Final = 5_000  # milliseconds; a run that was killed may still be letting go of the file

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS message(
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, reverse_path TEXT NOT NULL, forward_paths TEXT NOT NULL,
    message_id TEXT NOT NULL, sender TEXT NOT NULL, recipients TEXT NOT NULL, subject TEXT NOT NULL,
    size INTEGER NOT NULL, octets BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS tried(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE) STRICT;
"""
_FIELDS: Final = "id, at, reverse_path, forward_paths, message_id, sender, recipients, subject, size"


class Captured(msgspec.Struct, frozen=True):
    """One captured message without its octets.

    Args:
        id: Rises with each message.
        at: When it came, seconds since the Unix epoch.
        forward_paths: Whom the envelope named.
        message_id: Without angle brackets.
        sender, recipients, subject: Of its header, as text.
        size: Octets.
    """

    id: int
    at: float
    reverse_path: str
    forward_paths: tuple[str, ...]
    message_id: str
    sender: str
    recipients: str
    subject: str
    size: int


class Box:
    """The captured messages of one development run.

    Args:
        path: The SQLite file.
        lane: Where its blocking work runs.
    """

    def __init__(
        self, path: str, lane: Lane, *, messages_max: int = MESSAGES_MAX, octets_max: int = OCTETS_MAX
    ) -> None:
        self._path = path
        self._lane = lane
        self._messages_max = messages_max
        self._octets_max = octets_max
        self._connection: apsw.Connection | None = None

    async def open(self) -> None:
        """Open the file, made when it is not there."""
        await self._lane.run(self._open)

    async def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            await self._lane.run(self._connection.close)

    async def put(self, mail: Captured, octets: bytes) -> int:
        """Keep a message; its id. It is synced when this returns.

        Raises:
            StoreBusy: It could not be written.
        """
        try:
            return await self._lane.run(self._put, mail, octets)
        except apsw.Error:
            raise StoreBusy("The message could not be stored.") from None

    async def first_try(self, key: bytes) -> bool:
        """Whether this key is seen for the first time; seen twice, it is new again."""
        return await self._lane.run(self._first_try, key)

    async def newest(self, *, before: int | None = None, limit: int = 100) -> Sequence[Captured]:
        """Messages, the newest first, at most ``limit`` with an id under ``before``."""
        return await self._lane.run(self._newest, before, limit)

    async def get(self, number: int) -> tuple[Captured, bytes] | None:
        """One message and its octets; None when there is none of that id."""
        return await self._lane.run(self._get, number)

    async def clear(self) -> None:
        """Forget all messages; ids go on rising."""
        await self._lane.run(self._clear)

    def _open(self) -> None:
        self._connection = connection = apsw.Connection(self._path)
        connection.set_busy_timeout(_BUSY_MS)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.execute(_SCHEMA)

    @property
    def _db(self) -> apsw.Connection:
        assert self._connection is not None, "the box is not open"
        return self._connection

    def _put(self, mail: Captured, octets: bytes) -> int:
        with self._db as db:
            db.execute(
                "INSERT INTO message(at, reverse_path, forward_paths, message_id, sender, recipients, subject, size,"
                " octets) VALUES(?,?,?,?,?,?,?,?,?)",
                (
                    mail.at,
                    mail.reverse_path,
                    " ".join(mail.forward_paths),
                    mail.message_id,
                    mail.sender,
                    mail.recipients,
                    mail.subject,
                    len(octets),
                    octets,
                ),
            )
            number = db.last_insert_rowid()
            self._make_room(db)
        return number

    def _make_room(self, db: apsw.Connection) -> None:
        count, total = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM message").get
        while count > 1 and (count > self._messages_max or total > self._octets_max):
            oldest, size = db.execute("SELECT id, size FROM message ORDER BY id LIMIT 1").get
            db.execute("DELETE FROM message WHERE id = ?", (oldest,))
            count, total = count - 1, total - size

    def _first_try(self, key: bytes) -> bool:
        with self._db as db:
            db.execute("DELETE FROM tried WHERE key = ?", (key,))
            if db.changes():
                return False
            db.execute("INSERT INTO tried(key) VALUES(?)", (key,))
            db.execute("DELETE FROM tried WHERE id <= ?", (db.last_insert_rowid() - TRIES_MAX,))
        return True

    def _newest(self, before: int | None, limit: int) -> list[Captured]:
        rows = self._db.execute(
            f"SELECT {_FIELDS} FROM message WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?",  # noqa: S608  # our own columns
            (before, before, limit),
        )
        return [_captured(row) for row in rows]

    def _get(self, number: int) -> tuple[Captured, bytes] | None:
        for row in self._db.execute(f"SELECT {_FIELDS}, octets FROM message WHERE id = ?", (number,)):  # noqa: S608
            return _captured(row[:-1]), bytes(row[-1])
        return None

    def _clear(self) -> None:
        with self._db as db:
            db.execute("DELETE FROM message")


def _captured(row: tuple[apsw.SQLiteValue, ...]) -> Captured:
    fields: dict[str, object] = dict(zip(Captured.__struct_fields__, row, strict=True))
    fields["forward_paths"] = str(fields["forward_paths"]).split()
    return msgspec.convert(fields, type=Captured)
