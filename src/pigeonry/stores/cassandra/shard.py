"""A shard as its owner holds it in memory: the journal, folded.

``judge`` turns a transition into the entry that is to be written, in the light of all that came before it, and takes
it in; ``fold`` takes in an entry that was read. What is accepted is *hidden* until its group is durable. Whatever was
judged is written or the shard is given up: there is no way back, and none is needed, since a group whose end is unknown
is written again, the same row, until it is known.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import (
    Accept,
    DotSent,
    MessageKey,
    Note,
    Pending,
    RecipientState,
    Settle,
    Transition,
    Void,
    minute_of,
)
from pigeonry.stores.cassandra.entries import Accepted, Adopted, Dotted, Entry, Noted, Settled, Voided
from pigeonry.stores.cassandra.waiting import Waiting
from pigeonry.stores.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pigeonry.ports.queue_store import DueMark

__all__ = ["Group", "Shard"]

SERIAL_BITS: Final = 40
"""A serial is an epoch and a count within it: an owner gives out serials that no owner before it can have given out,
without reading any. 2^40 recipients an epoch, 2^23 epochs a shard."""
RECENT_OCTETS_MAX: Final = 4 * 1024 * 1024  # of events a shard keeps for who follows them closely
_PENDING: Final = RecipientState.PENDING


class Group(msgspec.Struct):
    """What one row of the journal is to hold, or held.

    Args:
        number: In its epoch.
        seq: Of its first event.
        events: All of them; what was voided is empty.
        accepted: First serial -> the place of its first event in ``events``, and how many there are.
    """

    number: int
    seq: int
    events: list[bytes] = msgspec.field(default_factory=list)
    accepted: dict[int, tuple[int, int]] = msgspec.field(default_factory=dict)


class Shard:
    """One shard.

    Args:
        number: Which.
        epoch: Of this owner.

    Attributes:
        seq_next: Of the next event.
        seq_durable: Of the newest event that may be shown.
        group_next: Number of the next group of this epoch.
        waiting: Recipients that are pending.
        hidden: First serials of messages that are not durable, or are being voided; with their seq, below which
            ``head`` stays.
        dots: Serial -> the attempt whose final dot may have left.
        voided: First serial -> day of messages that were never acknowledged.
        late: Closed epoch -> number of the group from which on one may still appear, for want of a location that was
            not there when the shard was taken over.
        counts: The ledger: what was accepted, delivered and failed.
        carried: The round of carrying for which all that waits was carried.
    """

    def __init__(self, number: int, *, epoch: int) -> None:
        self.number = number
        self.epoch = epoch
        self.seq_next = 1
        self.seq_durable = 0
        self.group_next = 0
        self.waiting = Waiting()
        self.hidden: dict[int, int] = {}
        self.dots: dict[int, int] = {}
        self.voided: dict[int, int] = {}
        self.late: dict[int, int] = {}
        self.counts = Counts()
        self.carried = 0
        self._count = 1
        self._recent: deque[Group] = deque()
        self._recent_octets = 0

    # -- writing

    def allocate(self, recipients: int, *, day: int) -> MessageKey:
        """A key with so many serials, none of which is ever given out again."""
        serial = self.epoch << SERIAL_BITS | self._count
        self._count += max(1, recipients)
        return MessageKey(self.number, day, serial)

    def begin(self) -> Group:
        """A group to be written next."""
        return Group(self.group_next, self.seq_next)

    def judge(self, transition: Transition, group: Group) -> Entry | None:
        """Take a transition in; the entry that tells of it, None when it changes nothing.

        Raises:
            StoreBusy: A message with this key was accepted before, or who is to be attempted has an end. Nothing is
                changed.
        """
        entry = self._entry(transition)
        if entry is not None:
            self.fold(entry, group)
            if type(entry) is Accepted:
                self.hidden[entry.serial] = group.seq + group.accepted[entry.serial][0]
        return entry

    def adopt(self, late: Iterable[Entry], group: Group) -> list[Entry]:
        """Copy what a group of a closed epoch tells, which appeared late; the entries that are to be written.

        What this owner did meanwhile stands: an end that came late counts only for who still waits.
        """
        copied: list[Entry] = []
        for entry in late:
            kind = type(entry)
            if kind is Settled and entry.serial not in self.waiting:  # type: ignore[union-attr]
                continue
            if kind is Dotted or (kind is Accepted and entry.serial in self.waiting):  # type: ignore[union-attr]
                continue
            copied.append(entry)
            self.fold(entry, group)
        return copied

    def close(self, group: Group) -> None:
        """The group is complete: the next one follows it."""
        self.group_next = group.number + 1
        self.seq_next = group.seq + len(group.events)

    def fold(self, entry: Entry, group: Group) -> None:
        """Take in what an entry of a group tells."""
        kind = type(entry)
        if kind is Accepted:
            self._accepted(entry, group)  # type: ignore[arg-type]
        elif kind is Settled:
            self._settled(entry)  # type: ignore[arg-type]
            if entry.event:  # type: ignore[union-attr]
                group.events.append(entry.event)  # type: ignore[union-attr]
        elif kind is Dotted:
            if entry.serial in self.waiting:  # type: ignore[union-attr]
                self.dots[entry.serial] = entry.attempt  # type: ignore[union-attr]
        elif kind is Voided:
            self._voided(entry, group)  # type: ignore[arg-type]
        elif kind is Adopted:
            self._adopted(entry)  # type: ignore[arg-type]
        else:
            group.events.append(entry.event)  # type: ignore[union-attr]

    def remember(self, group: Group) -> None:
        """The group is durable: keep its events for who follows closely."""
        if group.events:
            self._recent.append(group)
            self._recent_octets += sum(map(len, group.events))
            while self._recent_octets > RECENT_OCTETS_MAX and len(self._recent) > 1:
                self._recent_octets -= sum(map(len, self._recent.popleft().events))

    def hold_back(self, *, until: float, now: float) -> int:
        """What a new owner does first: attempts whose final dot may have left are in doubt. How many.

        Args:
            until: Seconds since the Unix epoch before which none of them is tried again.
            now: Likewise.
        """
        count = 0
        for serial, attempt in list(self.dots.items()):
            pending = self.waiting.get(serial)
            if pending is not None and attempt == pending.attempts + 1:
                held = msgspec.structs.replace(
                    pending,
                    in_doubt=True,
                    attempts=attempt,
                    due=max(pending.due, until),
                    first_attempt_at=pending.first_attempt_at or now,
                )
                self.waiting.put(held)
                count += 1
        self.dots.clear()
        return count

    # -- reading

    def due(self, *, after: DueMark, until: float) -> Iterator[Pending]:
        """Who waits and may be seen, in the order of (due, serial)."""
        for pending in self.waiting.due(after=after, until=until, shard=self.number):
            if pending.message.serial not in self.hidden:
                yield pending

    def head(self) -> int:
        """The highest seq that may be shown: before the first event of what is hidden."""
        if self.hidden:
            return min(self.seq_durable, min(self.hidden.values()) - 1)
        return self.seq_durable

    def recent(self, *, after: int, limit: int) -> list[tuple[int, bytes]] | None:
        """Events after a seq that may be shown, from memory; None when they begin earlier than what is kept."""
        if not self._recent or self._recent[0].seq > after + 1:
            return None
        head = self.head()
        found: list[tuple[int, bytes]] = []
        for group in self._recent:
            if group.seq + len(group.events) <= after + 1:
                continue
            for seq, event in enumerate(group.events, group.seq):
                if seq > head or len(found) == limit:
                    return found
                if seq > after:
                    found.append((seq, event))
        return found

    # -- inside

    def _entry(self, transition: Transition) -> Entry | None:
        kind = type(transition)
        if kind is Settle:
            return self._judged(transition)  # type: ignore[arg-type]
        if kind is DotSent:
            return self._flying(transition)  # type: ignore[arg-type]
        if kind is Accept:
            return self._taken(transition)  # type: ignore[arg-type]
        if kind is Void:
            return self._void(transition)  # type: ignore[arg-type]
        assert type(transition) is Note
        return Noted(transition.event)

    def _void(self, void: Void) -> Voided | None:
        key = void.message
        if key.serial in self.voided:
            return None
        serials = range(key.serial, key.serial + void.recipients)
        known = [pending for pending in map(self.waiting.get, serials) if pending is not None]
        if not known:
            return Voided(key.serial, void.recipients, key.day)
        counted = known[0].domain, known[0].accepted_minute, len(known)
        return Voided(key.serial, void.recipients, key.day, *counted)

    def _taken(self, accept: Accept) -> Accepted:
        message = accept.message
        if message.key.serial in self.waiting:
            raise StoreBusy("The queue has this message already.")
        return Accepted(
            message.key.serial,
            message.key.day,
            message.account,
            message.domain,
            message.options.pool,
            message.expires_at,
            tuple((each.address, each.due) for each in accept.recipients),
            accept.events,
            b"" if accept.idempotency is None else accept.idempotency.scope,
            minute_of(message.accepted_at),
        )

    def _flying(self, sent: DotSent) -> Dotted:
        if sent.pending.serial not in self.waiting:
            raise StoreBusy("The recipient has an end already.")
        return Dotted(sent.pending.serial, sent.attempt)

    def _judged(self, settle: Settle) -> Settled | None:
        """None when the recipient has an end already, or was settled for this attempt."""
        given = settle.pending
        pending = self.waiting.get(given.serial)
        again = settle.state is _PENDING
        if pending is None or (again and pending.attempts != given.attempts):
            return None
        return Settled(
            given.serial,
            given.message.serial,
            int(settle.state),
            settle.due if again else pending.due,
            settle.attempts,
            settle.first_attempt_at,
            settle.in_doubt,
            settle.event,
            pending.domain,
            pending.accepted_minute,
        )

    def _accepted(self, entry: Accepted, group: Group) -> None:
        key = MessageKey(self.number, entry.day, entry.serial)
        group.accepted[entry.serial] = (len(group.events), len(entry.events))
        if entry.serial in self.voided:
            group.events += [b""] * len(entry.events)
            return
        group.events += entry.events
        self.counts.accepted(entry.domain, entry.minute, len(entry.recipients))
        for serial, (address, due) in enumerate(entry.recipients, entry.serial):
            self.waiting.put(
                Pending(
                    key,
                    serial,
                    entry.day,
                    address,
                    due,
                    entry.tenant,
                    entry.domain,
                    entry.pool,
                    entry.expires_at,
                    accepted_minute=entry.minute,
                )
            )

    def _settled(self, entry: Settled) -> None:
        if entry.state != _PENDING:
            self.counts.ended(entry.domain, entry.minute, delivered=entry.state == RecipientState.DELIVERED)
        pending = self.waiting.get(entry.serial)
        if pending is None:
            return
        if entry.state == _PENDING:
            self.waiting.put(
                msgspec.structs.replace(
                    pending,
                    due=entry.due,
                    attempts=entry.attempts,
                    first_attempt_at=entry.first_attempt_at,
                    in_doubt=entry.in_doubt,
                )
            )
        else:
            self.waiting.remove(entry.serial)
        if self.dots.get(entry.serial, entry.attempts + 1) <= entry.attempts or entry.state != _PENDING:
            self.dots.pop(entry.serial, None)

    def _adopted(self, entry: Adopted) -> None:
        if entry.next == Adopted.COMPLETE:
            self.late.pop(entry.epoch, None)
        else:
            self.late[entry.epoch] = entry.next

    def _voided(self, entry: Voided, group: Group) -> None:
        self.voided[entry.serial] = entry.day
        if entry.counted:
            self.counts.accepted(entry.domain, entry.minute, -entry.counted)
        for serial in range(entry.serial, entry.serial + entry.recipients):
            self.waiting.remove(serial)
            self.dots.pop(serial, None)
        for each in (*self._recent, group):
            _blank(each, entry.serial)


def _blank(group: Group, serial: int) -> None:
    place = group.accepted.get(serial)
    if place is not None:
        start, count = place
        group.events[start : start + count] = [b""] * count
