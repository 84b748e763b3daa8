"""A shard in memory: what of it is durable, and what each transition makes of it.

It outlives the store that writes it, as a folder outlives a process: ``recover`` is what opening it again does.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import (
    Accept,
    BodyRef,
    DotSent,
    IdempotencyRecord,
    Message,
    MessageKey,
    Pending,
    RecipientState,
    RecipientView,
    Settle,
    Transition,
    Void,
    minute_of,
)
from pigeonry.ports.event_log import LogEntry
from pigeonry.ports.queue_store import DueMark, RecoveryReport
from pigeonry.stores.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pigeonry.ports.ledger import Ledger

__all__ = ["MemoryShard", "StoredMessage"]

_DAY_S = 86_400.0


class StoredMessage(msgspec.Struct):
    """A message with its octets, the seq of its first event and the scope of its idempotency record."""

    message: Message
    body: bytes | BodyRef
    recipients: int
    first_seq: int
    scope: bytes = b""
    voided: bool = False

    @property
    def octets(self) -> int:
        """What its body takes of the memory."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.length


class MemoryShard:
    """One shard of a node.

    Attributes:
        number: Which.
        owner: The store that owns it, None when nobody does.
        used: Whether anybody ever did.
        octets: What its bodies take of the memory, those being received with them.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.owner: object | None = None
        self.used = False
        self.octets = 0
        self._messages: dict[int, StoredMessage] = {}
        self._views: dict[int, RecipientView] = {}
        self._waiting: set[int] = set()
        self._dot_sent: dict[int, int] = {}
        self._records: dict[bytes, IdempotencyRecord] = {}
        self._files: dict[int, bytes] = {}
        self._events: list[tuple[int, bytes]] = []
        self._seq_first = 1
        self._counts = Counts()
        self._serial_next = 1
        self._file_next = 1

    @property
    def seq_last(self) -> int:
        """The seq of the newest event; 0 when there never was one."""
        return self._seq_first + len(self._events) - 1

    def allocate(self, recipients: int, *, day: int) -> MessageKey:
        """A key with so many serials, none of which is ever given out again."""
        serial = self._serial_next
        self._serial_next += max(1, recipients)
        return MessageKey(self.number, day, serial)

    # -- writing

    def apply(self, transition: Transition, *, day: int) -> None:
        """Make a transition durable.

        Args:
            transition: One of this shard, or a ``Note``.
            day: Today, days since the Unix epoch: its events are kept as long as others of the day.

        Raises:
            StoreBusy: A message with this key is stored, or its body is not there; nothing is changed.
        """
        if isinstance(transition, Accept):
            self._accept(transition, day)
        elif isinstance(transition, DotSent):
            self._dot_sent[transition.pending.serial] = transition.attempt
        elif isinstance(transition, Settle):
            self._settle(transition, day)
        elif isinstance(transition, Void):
            self.void(transition.message)
        else:
            self._events.append((day, transition.event))

    def void(self, key: MessageKey) -> bool:
        """Make a message that was never acknowledged invisible; whether there was one."""
        stored = self._messages.get(key.serial)
        if stored is None or stored.voided:
            return False
        for serial in range(key.serial, key.serial + stored.recipients):
            if serial in self._waiting:
                self._waiting.discard(serial)
                self._views[serial] = msgspec.structs.replace(self._views[serial], state=RecipientState.VOID)
                self._counts.accepted(stored.message.domain, minute_of(stored.message.accepted_at), -1)
        start = stored.first_seq - self._seq_first
        for index in range(max(start, 0), start + stored.recipients):
            self._events[index] = (self._events[index][0], b"")
        self._records.pop(stored.scope, None)
        self._forget_body(stored)
        stored.voided, stored.body = True, b""
        return True

    def keep_file(self, octets: bytes) -> BodyRef:
        """Keep a large body until a message names it, or the shard is opened again."""
        number = self._file_next
        self._file_next += 1
        self._files[number] = octets
        return BodyRef(self.number, number, -1, len(octets), zlib.crc32(octets))

    def remove_file(self, ref: BodyRef) -> None:
        """Forget a large body; nothing happens when it is not there."""
        if self._files.pop(ref.segment, None) is not None:
            self.octets -= ref.length

    def recover(self, *, voids: Sequence[MessageKey], hold_back_until: float, now: float) -> RecoveryReport:
        """What an owner finds and mends when it opens the shard.

        Args:
            voids: Messages whose fate a predecessor could not settle.
            hold_back_until: When what may have been delivered is tried again at the earliest.
            now: Seconds since the Unix epoch.
        """
        repairs = []
        named = {each.body.segment for each in self._messages.values() if isinstance(each.body, BodyRef)}
        for number in self._files.keys() - named:
            del self._files[number]
            repairs.append(f"Removed the body file {number:06d}, which no message names.")
        self.octets = sum(each.octets for each in self._messages.values())
        voided = sum(self.void(key) for key in voids if key.shard == self.number)
        if voided:
            repairs.append(f"Voided {voided} messages that were never acknowledged.")
        in_doubt = 0
        for serial, attempt in self._dot_sent.items():
            view = self._views.get(serial)
            if view is not None and serial in self._waiting and attempt == view.pending.attempts + 1:
                self._hold_back(view, until=hold_back_until, now=now)
                in_doubt += 1
        if in_doubt:
            repairs.append(f"Held back {in_doubt} recipients whose last attempt may have been delivered.")
        return RecoveryReport(self.number, len(self._waiting), in_doubt, tuple(repairs))

    def retire(self, *, now: float, retention_s: float) -> None:
        """Forget messages with nothing pending and events, when the retention of their day is over."""
        for serial, stored in list(self._messages.items()):
            serials = range(serial, serial + stored.recipients)
            if _over(stored.message.key.day, now, retention_s) and self._waiting.isdisjoint(serials):
                self._forget_body(stored)
                del self._messages[serial]
                for each in serials:
                    del self._views[each]
                    self._dot_sent.pop(each, None)
        kept = next((at for at, (day, _) in enumerate(self._events) if not _over(day, now, retention_s)), None)
        gone = len(self._events) if kept is None else kept
        del self._events[:gone]
        self._seq_first += gone
        self._counts.fold_away(now)
        for scope in [scope for scope, record in self._records.items() if record.expires_at <= now]:
            del self._records[scope]

    # -- reading

    def due(self, *, after: DueMark, until: float) -> Iterator[tuple[DueMark, Pending]]:
        """Who waits beyond a place and no later than a time, in no order."""
        for serial in self._waiting:
            pending = self._views[serial].pending
            mark = DueMark(pending.due, self.number, serial)
            if mark > after and pending.due <= until:
                yield mark, pending

    def find(self, key: MessageKey) -> StoredMessage | None:
        """A message that may be seen."""
        stored = self._messages.get(key.serial)
        return None if stored is None or stored.voided or stored.message.key != key else stored

    def view(self, serial: int) -> RecipientView | None:
        """One recipient, whatever its state."""
        return self._views.get(serial)

    def file(self, ref: BodyRef) -> bytes | None:
        """The octets of a large body, None when they are not what the reference says."""
        octets = self._files.get(ref.segment)
        return octets if octets is not None and zlib.crc32(octets) == ref.crc else None

    def record(self, scope: bytes) -> IdempotencyRecord | None:
        """The record of a scope, expired or not."""
        return self._records.get(scope)

    def tail(self, *, after: int, limit: int) -> Sequence[LogEntry]:
        """Events after a seq, from the oldest one kept on."""
        start = max(after + 1 - self._seq_first, 0)
        seq = self._seq_first + start
        return [LogEntry(seq + n, octets) for n, (_, octets) in enumerate(self._events[start : start + limit])]

    def ledger(self, *, now: float) -> Ledger:
        """What was counted."""
        return self._counts.told(now, seq=self.seq_last, waiting=len(self._waiting))

    # -- inside

    def _accept(self, accept: Accept, day: int) -> None:
        message, body, key = accept.message, accept.body, accept.message.key
        if key.serial in self._messages:
            raise StoreBusy("The queue has this message already.")
        if isinstance(body, BodyRef) and self.file(body) is None:
            raise StoreBusy("The message's body is gone.", retry_after_s=1.0)
        record = accept.idempotency
        scope = b"" if record is None else record.scope
        count = len(accept.recipients)
        minute = minute_of(message.accepted_at)
        self._counts.accepted(message.domain, minute, count)
        self._messages[key.serial] = StoredMessage(message, body, count, self.seq_last + 1, scope)
        if isinstance(body, bytes):
            self.octets += len(body)
        for serial, new in enumerate(accept.recipients, key.serial):
            pending = Pending(
                key,
                serial,
                key.day,
                new.address,
                new.due,
                message.account,
                message.domain,
                message.options.pool,
                message.expires_at,
                accepted_minute=minute,
            )
            self._views[serial] = RecipientView(
                pending, RecipientState.PENDING, new.variables, new.notify, new.original
            )
            self._waiting.add(serial)
        self._events += [(day, octets) for octets in accept.events]
        if record is not None:
            self._records[scope] = record

    def _settle(self, settle: Settle, day: int) -> None:
        serial = settle.pending.serial
        if serial not in self._waiting:
            return
        view = self._views[serial]
        again = settle.state is RecipientState.PENDING
        if again and view.pending.attempts != settle.pending.attempts:
            return
        pending = msgspec.structs.replace(
            view.pending,
            due=settle.due if again else view.pending.due,
            attempts=settle.attempts,
            first_attempt_at=settle.first_attempt_at,
            in_doubt=settle.in_doubt,
        )
        self._views[serial] = msgspec.structs.replace(view, pending=pending, state=settle.state)
        if not again:
            self._waiting.discard(serial)
            self._counts.ended(
                pending.domain, pending.accepted_minute, delivered=settle.state is RecipientState.DELIVERED
            )
        if self._dot_sent.get(serial, settle.attempts + 1) <= settle.attempts:
            del self._dot_sent[serial]
        if settle.event:
            self._events.append((day, settle.event))

    def _hold_back(self, view: RecipientView, *, until: float, now: float) -> None:
        was = view.pending
        pending = msgspec.structs.replace(
            was,
            in_doubt=True,
            attempts=was.attempts + 1,
            due=max(was.due, until),
            first_attempt_at=was.first_attempt_at or now,
        )
        self._views[was.serial] = msgspec.structs.replace(view, pending=pending)

    def _forget_body(self, stored: StoredMessage) -> None:
        if isinstance(stored.body, BodyRef):
            self.remove_file(stored.body)
        else:
            self.octets -= len(stored.body)


def _over(day: int, now: float, retention_s: float) -> bool:
    return (day + 1) * _DAY_S + retention_s < now
