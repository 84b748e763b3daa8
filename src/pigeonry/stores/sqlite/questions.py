"""What is asked of the day files: each question put to as many of them as it takes, and answered as one.

Everything here may block and runs on the lane for reading. What may not be seen yet (``Shard.hidden`` and
``Shard.doubts``) is left out of every answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pigeonry.domain.message import Pending, RecipientState, RecipientView, minute_of
from pigeonry.ports.ledger import AUDITED_S, KEPT_S, Ledger, LedgerRow
from pigeonry.stores.sqlite import rows
from pigeonry.stores.sqlite.layout import day_of

if TYPE_CHECKING:
    from pigeonry.domain.message import IdempotencyRecord, MessageKey
    from pigeonry.ports.event_log import LogEntry
    from pigeonry.ports.queue_store import DueMark
    from pigeonry.stores.sqlite.readers import Readers
    from pigeonry.stores.sqlite.shard import Shard

__all__ = ["Questions"]

_Shared = tuple[str, str, str, float, int]  # of a message: tenant, domain, pool, expires_at, minute of acceptance
_SERIAL_END: Final = 2**63 - 1  # over every serial: SQLite's largest integer


class Questions:
    """See ``ports.queue_store`` and ``ports.event_log`` for what the answers mean.

    Args:
        shards: Those that this worker owns; of others their files are read.
        readers: Gives connections.
        idempotency_days: Days back that an idempotency record may have been committed.
    """

    def __init__(self, shards: Mapping[int, Shard], readers: Readers, *, idempotency_days: int) -> None:
        self._shards = shards
        self._readers = readers
        self._idempotency_days = idempotency_days

    def due(self, after: DueMark, until: float, limit: int) -> list[Pending]:
        """Recipients that wait, in the order of (due, shard, serial)."""
        found: list[Pending] = []
        for shard in list(self._shards.values()):
            serial = -1 if shard.number > after.shard else after.serial if shard.number == after.shard else _SERIAL_END
            for file in shard.newest_first():
                if file.pending:
                    found += self._due_of(shard, file.day, (after.due, serial), until, limit)
        found.sort(key=_place)
        return found[:limit]

    def _due_of(self, shard: Shard, day: int, after: tuple[float, int], until: float, limit: int) -> Iterable[Pending]:
        """A page of one file without what may not be seen yet."""
        connection = self._readers.day(shard.number, day)
        if connection is None:
            return ()
        found: list[Pending] = []
        hidden = shard.hidden.copy()  # what is voided while the page is read may still wait in its snapshot
        while True:
            page = rows.due_page(connection, shard=shard.number, day=day, after=after, until=until, limit=limit)
            found += [
                pending
                for pending in page
                if pending.message.serial not in hidden and pending.message.serial not in shard.hidden
            ]
            if len(page) < limit or len(found) >= limit:
                return found
            after = (page[-1].due, page[-1].serial)

    def find(self, key: MessageKey) -> tuple[int, rows.MessageRow] | None:
        """The day file and the row of a message that may be seen."""
        shard = self._shards.get(key.shard)
        if shard is not None and key.serial in shard.hidden:
            return None
        for day in [key.day, *(day for day in self._readers.days(key.shard) if day > key.day)]:
            connection = self._readers.day(key.shard, day)
            row = None if connection is None else rows.message_row(connection, shard=key.shard, serial=key.serial)
            if row is not None:
                return None if row.voided or row.day != key.day else (day, row)
        return None

    def recipients(self, key: MessageKey) -> list[RecipientView]:
        """The message's recipients, wherever they were carried."""
        found = self.find(key)
        if found is None:
            return []
        day, row = found
        message = rows.decode_message(row.meta)
        minute = minute_of(message.accepted_at)
        shared = row.tenant, message.domain, message.options.pool, message.expires_at, minute
        return [
            self._view(key, shared, day, each)
            for each in self._recipient_rows(key.shard, day, key.serial, row.recipients)
        ]

    def recipient(self, pending: Pending) -> RecipientView | None:
        """One recipient."""
        for row in self._recipient_rows(pending.message.shard, pending.day, pending.serial, 1):
            shared = pending.tenant, pending.domain, pending.pool, pending.expires_at, pending.accepted_minute
            return self._view(pending.message, shared, pending.day, row)
        return None

    def _recipient_rows(self, shard: int, day: int, serial: int, count: int) -> Sequence[rows.RecipientRow]:
        connection = self._readers.day(shard, day)
        return () if connection is None else rows.recipient_rows(connection, serial=serial, count=count)

    def _view(self, key: MessageKey, shared: _Shared, day: int, row: rows.RecipientRow) -> RecipientView:
        while row.state == RecipientState.CARRIED and row.carried_to > day:
            newer = self._recipient_rows(key.shard, row.carried_to, row.serial, 1)
            if not newer:
                break
            day, row = row.carried_to, newer[0]
        pending = Pending(
            key,
            row.serial,
            day,
            row.address,
            row.due,
            *shared[:4],
            row.attempts,
            row.first_attempt_at,
            row.in_doubt != 0,
            shared[4],
        )
        return RecipientView(pending, row.state, bytes.fromhex(row.variables), row.notify, row.original)

    def idempotent(self, scope: bytes, now: float, shards: int) -> IdempotencyRecord | None:
        """The unexpired record of that scope, of any of so many shards."""
        newest = day_of(now)
        for number in range(shards):
            for day in range(newest, newest - self._idempotency_days, -1):
                connection = self._readers.day(number, day)
                record = None if connection is None else rows.idempotency_record(connection, scope=scope)
                if record is not None and record.expires_at > now:
                    return record
        return None

    def ledger(self, number: int, now: float) -> Ledger | None:
        """Add up the files in which something waits, and those of two days: no younger minute is in any other."""
        shard = self._shards.get(number)
        if shard is None:
            return None
        seq, waiting, pending = shard.seq_durable, 0, 0
        found: dict[tuple[str, int], LedgerRow] = {}
        for file in shard.newest_first():
            if not file.pending and file.day < day_of(now) - 1:
                continue
            connection = self._readers.day(number, file.day)
            if connection is None:
                continue
            kept, audited = minute_of(now - KEPT_S), minute_of(now - AUDITED_S)
            here, open_here, page = rows.ledger_page(connection, kept=kept, audited=audited)
            waiting, pending = waiting + here, pending + open_here
            for row in page:
                other = found.get((row.domain, row.minute))
                found[row.domain, row.minute] = row if other is None else _sum(row, other)
        return Ledger(seq, pending, waiting, tuple(found.values()))

    def tail(self, number: int, after: int, limit: int) -> list[LogEntry]:
        """Merge the files: what settles an older message has its event in the older file."""
        shard = self._shards[number]
        until = shard.seq_visible()
        found: list[LogEntry] = []
        for file in shard.newest_first():
            connection = self._readers.day(number, file.day) if file.seq_last > after else None
            if connection is not None:
                found += rows.event_page(connection, after=after, until=until, limit=limit)
        found.sort(key=_seq)
        run: list[LogEntry] = []
        for entry in found[:limit]:
            if run and entry.seq != run[-1].seq + 1:
                break  # a page of another file was cut off here
            run.append(entry)
        return run


def _sum(one: LedgerRow, other: LedgerRow) -> LedgerRow:
    ends = one.delivered + other.delivered, one.failed + other.failed
    return LedgerRow(one.domain, one.minute, one.accepted + other.accepted, *ends)


def _place(pending: Pending) -> tuple[float, int, int]:
    return pending.due, pending.message.shard, pending.serial


def _seq(entry: LogEntry) -> int:
    return entry.seq
