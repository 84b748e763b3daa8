"""One day file as its writer sees it: a group's statements, then one commit.

The statements run on the loop's thread. They work in SQLite's page cache and take some 10 us a message, where on
a lane each step would fight the busy loop for the interpreter lock (docs/decisions/0002). Only
what waits for the disk runs on the writer's lane: the segment's sync, and COMMIT with its sync of the WAL.
"""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Final

import apsw

from pigeonry.domain.message import Accept, BodyRef, DotSent, RecipientState, Settle, Void, minute_of
from pigeonry.stores.sqlite import rows
from pigeonry.stores.sqlite.schema import open_writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.domain.message import MessageKey, Transition
    from pigeonry.ports.disk import Disk
    from pigeonry.stores.sqlite.segments import SegmentWriter

__all__ = ["DayFile"]

_PENDING: Final = int(RecipientState.PENDING)
_DELIVERED: Final = int(RecipientState.DELIVERED)

_MESSAGE: Final = "INSERT INTO message VALUES (?,?,?,?,?,?,?,?,0,?,?,?)"
_RECIPIENT: Final = "INSERT INTO recipient VALUES (?,?,0,?,0,0.0,0,?,?,?,?,NULL)"
_EVENT: Final = "INSERT INTO event VALUES (?,?)"
_IDEMPOTENCY: Final = "INSERT OR REPLACE INTO idempotency VALUES (?,?,?,?)"
_DOT_SENT: Final = "INSERT OR REPLACE INTO dot_sent VALUES (?,?)"
_NO_DOT_SENT: Final = "DELETE FROM dot_sent WHERE serial = ? AND attempt <= ?"
_FINAL: Final = "UPDATE recipient SET state=?, attempts=?, first_attempt_at=?, in_doubt=? WHERE serial=? AND state=0"
_RETRY: Final = (
    "UPDATE recipient SET due=?, attempts=?, first_attempt_at=?, in_doubt=? WHERE serial=? AND state=0 AND attempts=?"
)
_SEGMENT_END: Final = "UPDATE state SET segment=?, segment_end=?"
_SEGMENT: Final = "INSERT OR IGNORE INTO segment VALUES (?)"
_VOID_RECIPIENTS: Final = "UPDATE recipient SET state=3 WHERE serial >= ? AND serial < ? AND state=0"
_VOID_EVENTS: Final = "UPDATE event SET octets=x'' WHERE seq >= ? AND seq < ?"
_LEDGER: Final = """
INSERT INTO ledger VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE SET
    accepted = accepted + excluded.accepted, delivered = delivered + excluded.delivered,
    failed = failed + excluded.failed
"""
_LEDGER_VOID: Final = """
UPDATE ledger SET accepted = accepted - ?1 WHERE (minute, domain) = (
    SELECT CAST(meta ->> '$.accepted_at' / 60 AS INTEGER), meta ->> '$.domain' FROM message WHERE serial = ?2)
"""
_VOID_MESSAGE: Final = "UPDATE message SET voided=1 WHERE serial=?"
_VOID_RECORD: Final = "DELETE FROM idempotency WHERE scope=?"
_VOIDED: Final = "SELECT recipients, first_seq, scope FROM message WHERE serial=?"


class DayFile:
    """A day of a shard, open for writing.

    Args:
        shard, day: Which.
        path: The database.
        segments: Where the bodies of this day go.

    Attributes:
        pending: Recipients that wait in it.
        seq_last: The highest seq in it.
        carries: Whether recipients were carried out of it, so that a transition may have to follow them.
    """

    def __init__(self, *, shard: int, day: int, path: str, segments: SegmentWriter) -> None:
        self.shard = shard
        self.day = day
        self.path = path
        self.segments = segments
        self.connection: apsw.Connection | None = None
        self.pending = 0
        self.seq_last = 0
        self.carries = False
        self._segment_recorded = 0
        self._placed = 0
        self._pending_before = 0
        self._seq_before = 0

    def open(self, disk: Disk) -> apsw.Connection:
        """Open the connection when it is not. May block."""
        if self.connection is None:
            self.connection = open_writer(disk, self.path)
        return self.connection

    def close(self) -> None:
        """Close connection and segment; SQLite copies the WAL back when it is the last. May block.

        Where there is no room for that the WAL stays, with all that is in it, for the next opening.
        """
        self.segments.close()
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.close(force=True)

    def carried_to(self, serial: int) -> int | None:
        """The day in which a recipient goes on, None when it is still here."""
        assert self.connection is not None
        day: int | None = self.connection.execute("SELECT carried_to FROM recipient WHERE serial=?", (serial,)).get
        return day

    def apply(self, transitions: Sequence[Transition], *, seq: int) -> int:
        """Begin a transaction and put a group into it.

        Args:
            transitions: In the order in which they were handed over.
            seq: The first one to give to an event.

        Returns:
            The next seq to give.

        Raises:
            apsw.Error: Nothing is changed once ``rollback`` was called.
        """
        assert self.connection is not None
        self._pending_before, self._seq_before = self.pending, self.seq_last
        self.segments.roll_when_full()
        placed = self.segments.end
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        group = _Group(seq)
        for transition in transitions:
            kind = type(transition)
            if kind is Settle:
                self._settle(transition, group)  # type: ignore[arg-type]
            elif kind is DotSent:
                group.dot_sents.append((transition.pending.serial, transition.attempt))  # type: ignore[union-attr]
            elif kind is Accept:
                self._accept(transition, group)  # type: ignore[arg-type]
            elif kind is Void:
                self._write(group)
                self.void(transition.message)  # type: ignore[union-attr, arg-type]
            else:
                group.event(transition.event)  # type: ignore[union-attr]
        self._write(group)
        self._note_segment(placed)
        self.seq_last = max(self.seq_last, group.seq - 1)
        return group.seq

    def void(self, key: MessageKey) -> None:
        """Make a message that was never acknowledged invisible, inside the open transaction."""
        assert self.connection is not None
        execute = self.connection.execute
        row = execute(_VOIDED, (key.serial,)).get
        if row is None:
            return
        count, first_seq, scope = row
        execute(_VOID_RECIPIENTS, (key.serial, key.serial + count))
        voided = self.connection.changes()
        self.pending -= voided
        execute(_LEDGER_VOID, (voided, key.serial))
        execute(_VOID_MESSAGE, (key.serial,))
        if first_seq:
            execute(_VOID_EVENTS, (first_seq, first_seq + count))
        if scope is not None:
            execute(_VOID_RECORD, (scope,))

    def begin_carrying(self) -> None:
        """Begin a transaction that takes messages over from an older file."""
        assert self.connection is not None
        self._pending_before, self._seq_before = self.pending, self.seq_last
        self.segments.roll_when_full()
        self._placed = self.segments.end
        self.connection.execute("BEGIN IMMEDIATE")

    def end_carrying(self, recipients: int) -> None:
        """All is in the transaction; ``commit`` or ``rollback`` comes next."""
        self._note_segment(self._placed)
        self.pending += recipients

    def holds(self, serial: int) -> bool:
        """Whether a recipient has a row here."""
        assert self.connection is not None
        return bool(self.connection.execute("SELECT EXISTS (SELECT 1 FROM recipient WHERE serial=?)", (serial,)).get)

    def commit(self) -> None:
        """Make the group durable. May block.

        Raises:
            apsw.Error: ``failure.uncertain`` tells whether it may be durable all the same.
        """
        assert self.connection is not None
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the group and what was counted for it."""
        assert self.connection is not None
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self.pending, self.seq_last = self._pending_before, self._seq_before
        self._segment_recorded = 0
        self.segments.forget()

    def _note_segment(self, placed: int) -> None:
        assert self.connection is not None
        if self.segments.end != placed:
            if self._segment_recorded != self.segments.number:
                self.connection.execute(_SEGMENT, (self.segments.number,))
                self._segment_recorded = self.segments.number
            self.connection.execute(_SEGMENT_END, (self.segments.number, self.segments.end))

    def _accept(self, accept: Accept, group: _Group) -> None:
        message, body = accept.message, accept.body
        serial, count = message.key.serial, len(accept.recipients)
        if isinstance(body, BodyRef):
            place = (body.segment, body.offset, body.length, body.crc)
        else:
            place = (self.segments.number, self.segments.place(body), len(body), zlib.crc32(body))
        record = accept.idempotency
        scope = None
        if record is not None:
            scope = record.scope
            group.records.append((scope, record.fingerprint, record.response, record.expires_at))
        meta = rows.encode_message(message)
        group.messages.append((serial, message.key.day, count, group.seq, *place, message.account, scope, meta))
        for index, new in enumerate(accept.recipients, serial):
            group.recipients.append(
                (index, serial, new.due, new.address, new.variables or None, new.notify or None, new.original or None)
            )
        for octets in accept.events:
            group.event(octets)
        group.count(message.domain, minute_of(message.accepted_at))[0] += count
        self.pending += count

    def _settle(self, settle: Settle, group: _Group) -> None:
        if group.messages:  # It may settle what this very group accepts.
            self._write(group)
        connection = self.connection
        assert connection is not None
        serial = settle.pending.serial
        if settle.state == _PENDING:
            connection.execute(
                _RETRY,
                (
                    settle.due,
                    settle.attempts,
                    settle.first_attempt_at,
                    settle.in_doubt,
                    serial,
                    settle.pending.attempts,
                ),
            )
            ended = 0
        else:
            connection.execute(
                _FINAL, (int(settle.state), settle.attempts, settle.first_attempt_at, settle.in_doubt, serial)
            )
            ended = 1
        if connection.changes():
            if ended:
                self.pending -= 1
                pending = settle.pending
                group.count(pending.domain, pending.accepted_minute)[1 if settle.state == _DELIVERED else 2] += 1
            group.settled.append((serial, settle.attempts))
            if settle.event:
                group.event(settle.event)

    def _write(self, group: _Group) -> None:
        assert self.connection is not None
        many = self.connection.executemany
        if group.messages:
            many(_MESSAGE, group.messages)
            many(_RECIPIENT, group.recipients)
            group.messages, group.recipients = [], []
        if group.records:
            many(_IDEMPOTENCY, group.records)
            group.records = []
        if group.settled:
            many(_NO_DOT_SENT, group.settled)
            group.settled = []
        if group.dot_sents:
            many(_DOT_SENT, group.dot_sents)
            group.dot_sents = []
        if group.events:
            many(_EVENT, group.events)
            group.events = []
        if group.counts:
            many(_LEDGER, [(minute, domain, *counted) for (domain, minute), counted in group.counts.items()])
            group.counts = {}


class _Group:
    """Rows that wait to be inserted together."""

    __slots__ = ("counts", "dot_sents", "events", "messages", "recipients", "records", "seq", "settled")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.messages: list[tuple[object, ...]] = []
        self.recipients: list[tuple[object, ...]] = []
        self.events: list[tuple[int, bytes]] = []
        self.records: list[tuple[bytes, bytes, bytes, float]] = []
        self.dot_sents: list[tuple[int, int]] = []
        self.settled: list[tuple[int, int]] = []
        self.counts: dict[tuple[str, int], list[int]] = {}

    def count(self, domain: str, minute: int) -> list[int]:
        """What the group does to the ledger: accepted, delivered, failed."""
        counted = self.counts.get((domain, minute))
        if counted is None:
            counted = self.counts[domain, minute] = [0, 0, 0]
        return counted

    def event(self, octets: bytes) -> None:
        self.events.append((self.seq, octets))
        self.seq += 1
