"""One file of the search index: the events of one shard on one day.

``event`` keeps each event whole, so that a page is read from the index alone. Its only B-tree beside the rowid (the
seq) is (domain, time, kind). Everything else that is searched for is a word in one contentless FTS5 table with the
seq as its rowid: the words of the subject as they are, and a short hash for the recipient, for the message-id and
for each tag. FTS5 merges sorted runs, where a B-tree over hashes would rewrite one page for each event. Hashes may
collide and words repeat: what is found is a candidate, judged by ``stores.event_filter``.

``span`` says which seqs the file covers. It changes in the transaction that adds the events, so what it says is true
after any crash: a loss of power may take the last transactions of a file (``synchronous=NORMAL``), never a part.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final
from zlib import crc32

import apsw
import msgspec

from pigeonry.stores.event_filter import words

if TYPE_CHECKING:
    from pigeonry.ports.disk import Disk

__all__ = [
    "KINDS",
    "IndexFile",
    "Prepared",
    "Span",
    "message_word",
    "open_reader",
    "prepare",
    "recipient_word",
    "remove_file",
    "tag_word",
]

FORMAT: Final = 1
_APPLICATION: Final = 0x7067_6E69  # "pgni"
_PAGE_OCTETS: Final = 8192  # an event has 0.8 to 1.2 KiB: measured 15 % smaller and 10 % faster than 4096
_CACHE_KIB: Final = 4096  # for the file being written; a node of many shards has many of them
_WAL_PAGES: Final = 4000  # 32 MiB before it is copied back: hot pages are copied once for many batches
_MERGE_SEGMENTS: Final = 8  # FTS5's automerge: fewer merges while writing, eight runs at most to look into
_READER_TIMEOUT_MS: Final = 1000  # milliseconds; the writer holds the file for a batch, never that long
KINDS: Final = (
    "accepted",
    "rejected",
    "delivered",
    "failed",
    "opened",
    "clicked",
    "unsubscribed",
    "complained",
    "stored",
)
"""The event types by their number in the index, from 1; another type is 0. Only ever added to."""
_KIND: Final = {name: number for number, name in enumerate(KINDS, 1)}
_CHUNKS: Final = (1000, 256, 64, 16, 4, 1)  # rows in one statement: few calls, and each is prepared once

_TABLES: Final = f"""
CREATE TABLE event(
    seq INTEGER PRIMARY KEY, time_us INTEGER NOT NULL, domain INTEGER NOT NULL, kind INTEGER NOT NULL,
    octets BLOB NOT NULL);
CREATE INDEX place ON event(domain, time_us, kind);
CREATE TABLE domain(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE span(
    id INTEGER PRIMARY KEY CHECK (id = 1), first INTEGER NOT NULL, last INTEGER NOT NULL, last_us INTEGER NOT NULL);
CREATE VIRTUAL TABLE word USING fts5(words, content='', detail=none, columnsize=0, tokenize='ascii');
INSERT INTO word(word, rank) VALUES ('automerge', {_MERGE_SEGMENTS});
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {FORMAT};
"""  # noqa: S608  # constants of ours


class Span(msgspec.Struct, frozen=True):
    """The seqs that a file covers, and the place of the last; it has none when ``last`` is ``first`` - 1."""

    first: int
    last: int
    last_us: int


class _Headers(msgspec.Struct, rename="kebab", frozen=True, gc=False):
    message_id: str = ""
    subject: str = ""


class _Message(msgspec.Struct, frozen=True, gc=False):
    headers: _Headers = _Headers()


class _Event(msgspec.Struct, frozen=True, gc=False):
    """The fields that are indexed: decoding no more than these is a third of the time."""

    event: str
    timestamp: float
    domain: str
    recipient: str = ""
    message: _Message = _Message()
    tags: tuple[str, ...] = ()


_decode: Final = msgspec.json.Decoder(_Event).decode

Prepared = tuple[float, int, str, str, bytes]
"""What is indexed of an event: timestamp in seconds, kind, domain, words, octets."""


def prepare(octets: bytes) -> Prepared:
    """Make an event ready to be added. Hot path: twice for each message.

    Raises:
        msgspec.DecodeError: It is no event.
    """
    event = _decode(octets)
    headers = event.message.headers
    subject = headers.subject
    if not subject.isascii():
        subject = words(subject)  # FTS5 splits ASCII by itself.
    domain = crc32(event.domain.encode())
    recipient = crc32(event.recipient.casefold().encode(), domain)
    text = f"0r{recipient:x} 0m{crc32(headers.message_id.casefold().encode(), domain):x} {subject}"
    for tag in event.tags:
        text += f" 0t{crc32(tag.casefold().encode(), domain):x}"
    return event.timestamp, _KIND.get(event.event, 0), event.domain, text, octets


def recipient_word(recipient: str, domain: str) -> str:
    """The word that stands for a recipient of one domain."""
    return f"0r{crc32(recipient.casefold().encode(), crc32(domain.encode())):x}"


def message_word(message_id: str, domain: str) -> str:
    """The word that stands for a message-id of one domain."""
    return f"0m{crc32(message_id.casefold().encode(), crc32(domain.encode())):x}"


def tag_word(tag: str, domain: str) -> str:
    """The word that stands for a tag of one domain."""
    return f"0t{crc32(tag.casefold().encode(), crc32(domain.encode())):x}"


class IndexFile:
    """The writing side of one file. Every method may block.

    Args:
        path: The file.
        first: For a new file: the seq from which on it covers.

    Raises:
        apsw.Error: It cannot be opened; ``apsw.CorruptError`` and ``apsw.NotADBError`` mean it is damaged.
    """

    def __init__(self, path: str, *, disk: Disk, first: int = 1, last_us: int = 0) -> None:
        fresh = disk.size(path) < 0
        if fresh:
            disk.append(path).close()  # By the disk, for its mode and the folder's sync.
        self._db = apsw.Connection(path, vfs=disk.sqlite_vfs or None)
        try:
            self._domains = self._prepare(disk, first=first, last_us=last_us)
            row = self._db.execute("SELECT first, last, last_us FROM span").get
        except BaseException:
            self.close()
            raise
        self.span = Span(*row)

    @property
    def connection(self) -> apsw.Connection:
        """For reading where a file has one connection only (``Disk.shared_memory``)."""
        return self._db

    def _prepare(self, disk: Disk, *, first: int, last_us: int) -> dict[str, int]:
        db = self._db
        db.set_busy_timeout(_READER_TIMEOUT_MS)
        if not disk.shared_memory:
            db.pragma("locking_mode", "EXCLUSIVE")
        db.pragma("page_size", _PAGE_OCTETS)
        db.pragma("journal_mode", "WAL")
        db.pragma("synchronous", "NORMAL")
        db.pragma("wal_autocheckpoint", _WAL_PAGES)
        db.pragma("cache_size", -_CACHE_KIB)
        found = db.pragma("user_version")
        if found > FORMAT:
            raise apsw.CorruptError(f"index format {found} is newer than {FORMAT}: it is built anew")
        if found == 0:
            with db:
                db.execute(_TABLES)
                db.execute("INSERT INTO span VALUES (1, ?, ?, ?)", (first, first - 1, last_us))
        return {name: number for number, name in db.execute("SELECT id, name FROM domain")}

    def add(self, placed: list[tuple[int, int, Prepared]], span: Span) -> None:
        """Add events (seq, place, what is indexed) and move the span, in one transaction.

        Raises:
            apsw.Error: Nothing was added.
        """
        events: list[object] = []
        texts: list[object] = []
        domains = dict(self._domains)
        for seq, time_us, (_, kind, name, text, octets) in placed:
            domain = domains.get(name)
            if domain is None:
                domain = domains[name] = len(domains) + 1
            events += (seq, time_us, domain, kind, octets)
            texts += (seq, text)
        new = list(domains.items())[len(self._domains) :]
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            for name, number in new:
                db.execute("INSERT INTO domain VALUES (?, ?)", (number, name))
            self._insert("INSERT INTO event VALUES ", "(?,?,?,?,?)", events, 5)
            self._insert("INSERT INTO word(rowid, words) VALUES ", "(?,?)", texts, 2)
            db.execute("UPDATE span SET first = ?, last = ?, last_us = ?", (span.first, span.last, span.last_us))
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(apsw.Error):
                db.execute("ROLLBACK")
            raise
        self._domains = domains
        self.span = span

    def restore(self, events: list[tuple[int, Prepared]]) -> int:
        """Add those of these events (in order) that are not there, each between its neighbours; how many.

        Raises:
            apsw.Error: None was added.
        """
        first, last = events[0][0], events[-1][0]
        execute = self._db.execute
        there = dict(execute("SELECT seq, time_us FROM event WHERE seq BETWEEN ? AND ?", (first, last)))
        if len(there) == len(events):
            return 0
        ceiling = execute("SELECT time_us FROM event WHERE seq > ? ORDER BY seq LIMIT 1", (last,)).get
        ceiling = self.span.last_us + 1 if ceiling is None else ceiling
        below: dict[int, int] = {}
        for seq, _ in reversed(events):
            ceiling = below[seq] = there.get(seq, ceiling - 1)
        floor = execute("SELECT time_us FROM event WHERE seq < ? ORDER BY seq DESC LIMIT 1", (first,)).get or 0
        placed: list[tuple[int, int, Prepared]] = []
        for seq, event in events:
            if seq in there:
                floor = there[seq]
            else:
                floor = max(floor + 1, min(round(event[0] * 1e6), below[seq]))
                placed.append((seq, floor, event))
        self.add(placed, self.span)
        return len(placed)

    def _insert(self, statement: str, row: str, values: list[object], width: int) -> None:
        """Insert in few statements of many rows: each call gives the interpreter's lock away and waits for it."""
        start, rows = 0, len(values) // width
        for chunk in _CHUNKS:
            if rows < chunk:
                continue
            sql = statement + ",".join([row] * chunk)
            while rows >= chunk:
                self._db.execute(sql, values[start : start + chunk * width])
                start += chunk * width
                rows -= chunk

    def finish(self) -> None:
        """The day is over: leave a file without a WAL behind, if no reader stands in the way."""
        with contextlib.suppress(apsw.BusyError, apsw.LockedError):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the connection."""
        self._db.close(True)


def open_reader(path: str, *, disk: Disk) -> apsw.Connection:
    """A connection that only reads, beside the owner's. May block.

    Raises:
        apsw.Error: It cannot be opened.
    """
    db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY, vfs=disk.sqlite_vfs or None)
    try:
        db.set_busy_timeout(_READER_TIMEOUT_MS)
        db.pragma("query_only", True)
    except BaseException:
        db.close(True)
        raise
    return db


def remove_file(path: str, *, disk: Disk) -> None:
    """Remove a file with what belongs to it. The WAL goes first: it must never meet another file of that name."""
    for ending in ("-wal", "-shm", ""):
        disk.unlink(path + ending)
