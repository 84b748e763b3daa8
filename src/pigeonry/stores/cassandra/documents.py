"""Identity and Directory on Cassandra: a log of changes that is the truth, and the documents that follow from it.

**One order, without clocks.** A change gets the next position by a lightweight transaction on the head of the log: the
entry, which holds the whole document, and the head change together or not at all. So positions have no gaps, entries
become visible in their order, and nobody's clock matters. The log is cut into segments of ``SEGMENT`` entries, so that
no partition grows for ever. A statement whose outcome was not heard is found again by its writer's mark.

**Documents** are rows by kind and id, written after the log and plainly, *with the position as timestamp*: whoever
writes which change how often in which order, the newest stands. A writer that dies in between leaves a document behind
its log; the next writer repairs that before it believes a document, and so does who follows, a moment later.

**Following** is cheap and misses nothing. The *bell* is one small row that says how far the log has come; it is written
last and may be lost with its writer. Followers look at the bell four times a second and at the log itself every
``LOOK_S``: a change is known within a second, and within five if its writer died before it rang. The log is read from
the follower's position onwards, so what expired before is never met; entries and the tombstones of documents live for
``KEPT_S`` by TTL, nothing is deleted. Who begins at 0, or slept for longer, gets the documents themselves.

Everything here is read and written at QUORUM of all locations, so it belongs into the lease keyspace, which a witness
keeps alive when a location is lost. Head and log are changed by lightweight transactions only, documents never.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.domain.errors import Conflict, Fault, StoreBusy, StoreInDoubt, TooLarge
from pigeonry.ports.documents import Change, Document
from pigeonry.stores.cassandra.session import Consistency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pigeonry.ports.environment import Clock, Dice, IdSource
    from pigeonry.stores.cassandra.session import Session

__all__ = ["DOCUMENT_TABLES", "CassandraDocuments"]

VALUE_OCTETS_MAX: Final = 64 * 1024  # the port's limit
TIMEOUT_S: Final = 5.0  # seconds for one call; a door answers 503 then
PAGE_MAX: Final = 10_000  # documents in one answer
PAGE_ROWS: Final = 500  # rows of one page from the store: a megabyte or two
SEGMENT: Final = 4_096  # entries in one partition of the log: some megabytes of what is kept here, 256 MB at the worst
KEPT_S: Final = 30 * 86_400  # seconds that log and tombstones stay; longer than any follower sleeps
LOOK_S: Final = 2.0  # between two looks at the log without a bell: with a round of a follower under five at the worst
STATEMENT_S: Final = 2.0  # seconds for one statement; three nodes were asked by then
LEVELS_MAX: Final = 100  # positions of followers remembered; a process has half a dozen
PAUSE_S: Final = 0.02  # before another try when somebody else changed the log first, times a number of dice

_LAST_CHARACTER: Final = "\U0010ffff"  # sorts behind every other: ends the range of ids with a prefix
_MAYBE: Final = "The store did not confirm the change; it may have been made."


DOCUMENT_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS document_log (
    store text, segment bigint, position bigint, head bigint static,
    kind text, id text, version int, value blob, writer text, PRIMARY KEY ((store, segment), position))""",
    """CREATE TABLE IF NOT EXISTS document (
    store text, kind text, id text, version int, value blob, position bigint, PRIMARY KEY ((store, kind), id))""",
    "CREATE TABLE IF NOT EXISTS document_kind (store text, kind text, PRIMARY KEY (store, kind))",
    "CREATE TABLE IF NOT EXISTS document_bell (store text PRIMARY KEY, position bigint)",
)


class _Entry(msgspec.Struct, frozen=True):
    """One change, as log and documents have it; version 0 is a tombstone."""

    position: int
    kind: str
    id: str
    version: int
    value: bytes

    def document(self) -> Document | None:
        """The document, None for a tombstone."""
        return Document(self.kind, self.id, self.value, self.version) if self.version else None

    def change(self) -> Change:
        """The change as followers see it."""
        return Change(self.position, self.kind, self.id, self.document())


_Rows = list[tuple[Any, ...]]
_Entries = list[_Entry]
_Documents = list[Document]


class CassandraDocuments:
    """See ``ports.documents.Documents`` for the contract. Implements ``Identity`` and ``Directory``.

    Args:
        session: Connections to the nodes.
        keyspace: Of the leases.
        name: Of the store: ``identity`` or ``directory``.
        timeout_s: Seconds until a call is given up.
    """

    def __init__(
        self,
        session: Session,
        *,
        keyspace: str,
        name: str,
        clock: Clock,
        dice: Dice,
        ids: IdSource,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._session = session
        self._name = name
        self._clock = clock
        self._dice = dice
        self._ids = ids
        self._timeout_s = timeout_s
        self._cql = _Statements(keyspace)
        self._kinds: set[str] = set()  # those that the store is known to have
        self._turn = asyncio.Lock()  # writers of one process need not get into each other's way
        self._reached = 0  # a position that the log has reached
        self._mended = 0  # up to here the documents are known to follow from the log
        self._level: dict[int, tuple[int, float]] = {}  # behind which positions nothing was: the bell then, and when
        self._snapshot: Sequence[_Entry] = ()  # for those who begin
        self._covered: dict[int, int] = {}  # where a snapshot ended: up to which position it told all

    async def open(self) -> None:
        """See that the documents follow from the log."""
        deadline = self._deadline()
        await self._mend(await self._head(deadline), deadline)

    async def close(self) -> None:
        """The session is closed by who opened it."""

    async def get(self, kind: str, id: str) -> Document | None:  # noqa: A002  # the field's word
        """The document, or None."""
        entry = await self._document(kind, id, self._deadline())
        return None if entry is None else entry.document()

    async def put(self, kind: str, id: str, value: bytes, *, expect: int | None) -> Document:  # noqa: A002
        """Create or change a document; durable when this returns."""
        if len(value) > VALUE_OCTETS_MAX:
            raise TooLarge(f"A document has at most {VALUE_OCTETS_MAX} octets.")
        entry = await self._write(kind, id, bytes(value), expect)
        assert entry is not None, "what is put is written"
        return Document(kind=kind, id=id, value=entry.value, version=entry.version)

    async def delete(self, kind: str, id: str, *, expect: int | None) -> bool:  # noqa: A002
        """Delete a document; whether there was one."""
        return await self._write(kind, id, None, expect) is not None

    async def list(self, kind: str, *, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[Document]:
        """Documents of a kind in the order of their ids."""
        limit = min(limit, PAGE_MAX)
        cql, lowest = (self._cql.above, after) if after >= prefix and after else (self._cql.within, prefix)
        found: _Documents = []
        async for page in self._pages(cql, (self._name, kind, lowest, prefix + _LAST_CHARACTER)):
            found += [document for entry in page if (document := entry.document()) is not None]
            if len(found) >= limit:
                break
        return found[:limit]

    async def changes(self, *, after: int, limit: int = 1000) -> Sequence[Change]:
        """The feed behind a position."""
        deadline, now = self._deadline(), self._clock.monotonic()
        entries: Sequence[_Entry] = [entry for entry in self._snapshot if entry.position > after]
        if not after or not entries:
            self._snapshot = ()
            bell = await self._rung(deadline)
            quiet = self._level.get(after)
            if quiet is not None and quiet[0] == bell and now < quiet[1] + LOOK_S:
                return []
            entries = await self._behind(after, deadline)
            if not entries:
                if len(self._level) > LEVELS_MAX:
                    self._level.clear()
                self._level[after] = (bell, now)
        return [entry.change() for entry in entries[: min(limit, PAGE_MAX)]]

    # Reading

    async def _behind(self, after: int, deadline: float) -> Sequence[_Entry]:
        """What changed behind a position: from the log, or from the documents when the log does not reach back."""
        start = self._covered.get(after, after)
        tail = await self._logged(start, deadline)
        if tail is None:
            return await self._all(after, deadline)
        if tail:
            self._reached = max(self._reached, tail[-1].position)
        else:
            await self._mend(start, deadline)
        newest = {(entry.kind, entry.id): entry for entry in tail}
        return [entry for entry in tail if newest[entry.kind, entry.id] is entry]

    async def _logged(self, start: int, deadline: float) -> Sequence[_Entry] | None:
        """All entries behind a position, without a gap; None when some have expired, or are very many."""
        tail: _Entries = []
        position = start
        while len(tail) <= SEGMENT:
            segment = (position + 1) // SEGMENT
            entries = [
                _Entry(*row) for row in await self._run(self._cql.tail, (self._name, segment, position), deadline)
            ]
            if any(entry.position != position + 1 + place for place, entry in enumerate(entries)):
                return None
            if not entries:
                head = _head_in(await self._run(self._cql.head, (self._name, segment), deadline))
                return tail if head is None or head <= position else None
            tail += entries
            position = entries[-1].position
            if (position + 1) // SEGMENT == segment:
                return tail
        return None

    async def _all(self, after: int, deadline: float) -> Sequence[_Entry]:
        """All documents in the order of their positions, as far as the log had come when they began to be read.

        What changes while they are read has a higher position and is left to the log: its document may have been
        looked for before it was written.
        """
        head = await self._head(deadline)
        await self._mend(head, deadline)
        found: _Entries = []
        for (kind,) in await self._run(self._cql.kinds, (self._name,), deadline):
            async for page in self._pages(self._cql.all, (self._name, kind)):
                found += [entry for entry in page if entry.position <= head]
        found.sort(key=lambda entry: entry.position)
        self._covered = {found[-1].position if found else after: head}
        self._snapshot = [entry for entry in found if entry.position > after]
        return self._snapshot

    async def _document(self, kind: str, key: str, deadline: float) -> _Entry | None:
        rows = await self._run(self._cql.one, (self._name, kind, key), deadline)
        return _Entry(*rows[0]) if rows else None

    async def _head(self, deadline: float) -> int:
        """The position of the last change, agreed upon: what is under way when this is read counts, or never will."""
        self._reached = max(self._reached, await self._rung(deadline))
        while True:
            segment = (self._reached + 1) // SEGMENT
            head = _head_in(
                await self._run(self._cql.head, (self._name, segment), deadline, consistency=Consistency.SERIAL)
            )
            if head is None:  # nothing in it yet: what is known is the end of the segment before
                return self._reached
            self._reached = max(self._reached, head)
            if (head + 1) // SEGMENT == segment:
                return head

    async def _rung(self, deadline: float) -> int:
        """The position that the bell tells."""
        rows = await self._run(self._cql.bell, (self._name,), deadline)
        position: int = rows[0][0] if rows else 0
        return position

    # Writing

    async def _write(self, kind: str, key: str, value: bytes | None, expect: int | None) -> _Entry | None:
        """Change a document, or bury it when the value is None; None when there is nothing to bury.

        Raises:
            Conflict: It has not the expected version.
            StoreBusy: Nothing was stored.
            StoreInDoubt: It may have been.
        """
        deadline = self._deadline()
        async with self._turn:
            entry = await self._logged_as(kind, key, value, expect, deadline)
        if entry is None:
            return None
        try:
            await self._keep(entry, deadline)
        except StoreBusy as busy:
            raise StoreInDoubt(_MAYBE) from busy  # it is in the log: whoever comes next sees to its document
        with contextlib.suppress(Fault):  # who follows looks at the log itself, only later
            await self._run(self._cql.ring, (self._name, entry.position, entry.position), deadline)
        return entry

    async def _logged_as(
        self, kind: str, key: str, value: bytes | None, expect: int | None, deadline: float
    ) -> _Entry | None:
        """The entry that the change became, at the first position that it could have."""
        while True:
            head = await self._head(deadline)
            await self._mend(head, deadline)
            old = await self._document(kind, key, deadline)
            version = 0 if old is None else old.version
            if expect is not None and expect != version:
                raise Conflict("Somebody else changed it first; read it again.")
            if value is None and not version:
                return None
            if kind not in self._kinds:
                await self._run(self._cql.name, (self._name, kind), deadline)
                self._kinds.add(kind)
            entry = _Entry(head + 1, kind, key, 0 if value is None else version + 1, value or b"")
            if await self._appended(entry, deadline):
                self._reached = entry.position
                return entry
            await self._clock.sleep(PAUSE_S * self._dice.random())

    async def _appended(self, entry: _Entry, deadline: float) -> bool:
        """Put an entry behind the head; False when another one is there."""
        segment, before = entry.position // SEGMENT, entry.position - 1
        first = entry.position == 1 or entry.position % SEGMENT == 0
        mark = self._ids.octets(8).hex()
        row = (self._name, segment, *msgspec.structs.astuple(entry), mark)
        try:
            applied, _ = await self._session.conditional(
                self._cql.append,
                (entry.position, self._name, segment, None if first else before, *row),
                timeout_s=self._left(deadline),
                consistency=Consistency.QUORUM,
                serial=Consistency.SERIAL,
            )
        except StoreInDoubt as doubt:
            try:
                rows = await self._run(
                    self._cql.mark, (self._name, segment, entry.position), deadline, consistency=Consistency.SERIAL
                )
            except StoreBusy:
                raise doubt from None
            return bool(rows) and rows[0][0] == mark
        return applied

    async def _mend(self, head: int, deadline: float) -> None:
        """See that the document of the last change is there: its writer may have died before it wrote it."""
        if head <= self._mended:
            return
        for row in await self._run(self._cql.entry, (self._name, head // SEGMENT, head), deadline):
            entry = _Entry(*row)
            document = await self._document(entry.kind, entry.id, deadline)
            if document is None or document.position < entry.position:
                await self._keep(entry, deadline)
        self._mended = head

    async def _keep(self, entry: _Entry, deadline: float) -> None:
        """Write the document that a change made; one that is newer stays."""
        values = (self._name, entry.kind, entry.id, entry.version, entry.value, entry.position)
        cql = self._cql.keep if entry.version else self._cql.bury
        await self._run(cql, (*values, entry.position), deadline)

    # Statements

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._timeout_s

    def _left(self, deadline: float) -> float:
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            raise StoreBusy("The store did not answer in time; nothing was changed.", retry_after_s=1.0)
        return min(left_s, STATEMENT_S)

    async def _run(
        self,
        cql: str,
        values: Sequence[object],
        deadline: float,
        *,
        consistency: Consistency = Consistency.QUORUM,
    ) -> _Rows:
        return await self._session.execute(cql, values, timeout_s=self._left(deadline), consistency=consistency)

    async def _pages(self, cql: str, values: Sequence[object]) -> AsyncIterator[Sequence[_Entry]]:
        pages = self._session.pages(
            cql, values, timeout_s=self._timeout_s, page_rows=PAGE_ROWS, consistency=Consistency.QUORUM
        )
        async for rows in pages:
            yield [_Entry(*row) for row in rows]


class _Statements:
    """What is asked of the tables."""

    def __init__(self, keyspace: str) -> None:
        log, document, kind, bell = (f"{keyspace}.document{table}" for table in ("_log", "", "_kind", "_bell"))
        entry = "position, kind, id, version, value"
        segment, documents = "WHERE store = ? AND segment = ?", "WHERE store = ? AND kind = ?"
        move = f"UPDATE {log} SET head = ? {segment} IF head = ?"
        add = f"INSERT INTO {log} (store, segment, {entry}, writer) VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TTL {KEPT_S}"
        self.append = f"BEGIN BATCH {move}; {add}; APPLY BATCH"
        self.head = f"SELECT head FROM {log} {segment} LIMIT 1"
        self.mark = f"SELECT writer FROM {log} {segment} AND position = ?"
        self.entry = f"SELECT {entry} FROM {log} {segment} AND position = ?"
        self.tail = f"SELECT {entry} FROM {log} {segment} AND position > ?"
        kept = f"INSERT INTO {document} (store, kind, id, version, value, position) VALUES (?, ?, ?, ?, ?, ?)"
        self.keep = f"{kept} USING TIMESTAMP ?"
        self.bury = f"{kept} USING TIMESTAMP ? AND TTL {KEPT_S}"
        self.one = f"SELECT {entry} FROM {document} {documents} AND id = ?"
        self.above = f"SELECT {entry} FROM {document} {documents} AND id > ? AND id < ?"
        self.within = f"SELECT {entry} FROM {document} {documents} AND id >= ? AND id < ?"
        self.all = f"SELECT {entry} FROM {document} {documents}"
        self.name = f"INSERT INTO {kind} (store, kind) VALUES (?, ?)"
        self.kinds = f"SELECT kind FROM {kind} WHERE store = ?"
        self.ring = f"INSERT INTO {bell} (store, position) VALUES (?, ?) USING TIMESTAMP ?"
        self.bell = f"SELECT position FROM {bell} WHERE store = ?"


def _head_in(rows: Sequence[tuple[Any, ...]]) -> int | None:
    """The head of a segment as it was read; None when nothing is in it."""
    head: int | None = rows[0][0] if rows else None
    return head
