"""The audit of the ledger: what the store counted, held against what the events say.

Every few seconds each shard's log is followed to its end and folded into the same counts by domain and minute of
acceptance. A log that goes on cannot be stopped to compare, so the store is asked twice: what the events say must lie
between what the store said when the log was not further than this, and what it says now. For a minute in which nothing
happens the two are the same, and the comparison is exact.

The fold begins where the log was ``KEPT_S`` ago. What was accepted before is taken over from the store once, and the
events are held against it from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import structlog

from pigeonry.domain.errors import Fault
from pigeonry.domain.message import minute_of
from pigeonry.events.rebuild import seq_since
from pigeonry.ports.event_log import EventLog
from pigeonry.ports.ledger import KEPT_S, LedgerRow, StoreLedger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.ports.environment import Clock
    from pigeonry.ports.event_log import LogEntry
    from pigeonry.ports.ledger import Ledger

__all__ = ["LedgerAudit"]

ROUND_S: Final = 15.0  # between two audits: what differs in a minute that is over is known within 60 s
PAGE: Final = 500  # events folded at once: some 2 ms
CLOSED_S: Final = 5.0  # after its end a minute is closed: nobody is still accepted under it
FOUND_MAX: Final = 1_000  # minutes that differ and are remembered: more are not needed to raise an alarm

_Key = tuple[str, int]


class _Event(msgspec.Struct, rename="kebab", frozen=True, gc=False):
    """What the ledger needs of an event: decoding no more is a fifth of the time."""

    event: str
    domain: str
    timestamp: float
    severity: str = ""
    accepted_minute: int = -1


_decode: Final = msgspec.json.Decoder(_Event).decode


class Counted(EventLog, StoreLedger, Protocol):
    """A store that keeps a log and a ledger."""


class _Books:
    """One shard's.

    Attributes:
        cursor: The seq up to which events are folded.
        first: Minutes from this one on are folded from their first event.
        tally: Accepted, delivered and failed by the events.
        begun: Minutes before ``first``: what the store had counted when the fold of them began.
        before: What the store said in the last round.
        stuck: Where the log ended in the last round although its head was further.
    """

    def __init__(self, cursor: int, first: int) -> None:
        self.cursor = cursor
        self.first = first
        self.tally: dict[_Key, list[int]] = {}
        self.begun: dict[_Key, list[int]] = {}
        self.before: Ledger | None = None
        self.stuck = -1
        self.gaps = 0

    def fold(self, entries: Sequence[LogEntry]) -> None:
        """Take events in order."""
        for entry in entries:
            self.gaps += max(0, entry.seq - self.cursor - 1)
            self.cursor = entry.seq
            if entry.octets:
                try:
                    event = _decode(entry.octets)
                except msgspec.DecodeError:
                    continue
                self._count(event)

    def _count(self, event: _Event) -> None:
        if event.event == "accepted":
            self._row(event.domain, minute_of(event.timestamp))[0] += 1
        elif event.event == "delivered" or (event.event == "failed" and event.severity == "permanent"):
            if event.accepted_minute < 0:  # written by a release that kept no ledger
                self.first = max(self.first, minute_of(event.timestamp) + 1)
                return
            self._row(event.domain, event.accepted_minute)[1 if event.event == "delivered" else 2] += 1

    def _row(self, domain: str, minute: int) -> list[int]:
        row = self.tally.get((domain, minute))
        if row is None:
            row = self.tally[domain, minute] = [0, 0, 0]
        return row

    def compare(self, after: Ledger, *, now: float) -> dict[_Key, int]:
        """By how much the events of each closed minute are out of what the store said before and says after."""
        before, self.before = self.before, after
        if before is None or self.cursor < before.seq:
            return {}
        was = {(row.domain, row.minute): _counts(row) for row in before.rows}
        is_ = {(row.domain, row.minute): _counts(row) for row in after.rows}
        kept, closed = minute_of(now - KEPT_S) + 1, minute_of(now - 60.0 - CLOSED_S)
        found: dict[_Key, int] = {}
        for key in {*is_, *(key for key in self.tally if key[1] >= max(kept, self.first))}:
            if key[1] > closed:
                continue
            low, high = was.get(key, _NOTHING), is_.get(key, _NOTHING)
            begun = self._begun(key, low, high)
            if begun is not None:
                said = [a + b for a, b in zip(begun, self.tally.get(key, _NOTHING), strict=True)]
                found[key] = sum(
                    max(0, min(one, two) - x, x - max(one, two)) for one, two, x in zip(low, high, said, strict=True)
                )
        over = [key for key in self.tally if key[1] < kept and key not in is_ and key not in was]
        for key in over:
            del self.tally[key]
        for key in [key for key in self.begun if key not in is_ and key not in was]:
            del self.begun[key]
        return found

    def _begun(self, key: _Key, low: Sequence[int], high: Sequence[int]) -> Sequence[int] | None:
        """What was counted before the fold; None when that is not known yet."""
        if key[1] >= self.first:
            return _NOTHING
        if key not in self.begun and low == high:
            tally = self.tally.get(key, _NOTHING)
            self.begun[key] = [counted - folded for counted, folded in zip(high, tally, strict=True)]
        return self.begun.get(key)


_NOTHING: Final = (0, 0, 0)


def _counts(row: LedgerRow) -> tuple[int, int, int]:
    return row.accepted, row.delivered, row.failed


class LedgerAudit:
    """Audits the shards that this worker owns.

    Attributes:
        gaps: Events that are missing from the logs, since the start.
    """

    def __init__(self, store: Counted, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._books: dict[int, _Books] = {}
        self._found: dict[tuple[int, str, int], int] = {}
        self._unbalanced: dict[int, int] = {}
        self.gaps = 0

    @property
    def difference(self) -> int:
        """Recipients by which the ledger and the events differ now, or differed when their minute was folded away."""
        return sum(self._found.values()) + sum(self._unbalanced.values())

    async def run(self) -> None:
        """Audit until cancelled."""
        log = structlog.get_logger()
        while True:
            try:
                await self.round()
            except Fault as error:
                log.warning("audit_waits", reason=error.text)
            except Exception:  # An error of the audit is no reason to stop the mail.
                log.exception("audit_failed")
            await self._clock.sleep(ROUND_S)

    async def round(self) -> None:
        """Audit every shard once.

        Raises:
            Fault: Some shard could not be read; those before it were audited.
        """
        shards = list(self._store.shards())
        for gone in self._books.keys() - set(shards):
            del self._books[gone]
            self._unbalanced.pop(gone, None)
        for shard in shards:
            await self._audit(shard)

    async def _audit(self, shard: int) -> None:
        books = self._books.get(shard)
        if books is None:
            books = self._books[shard] = await self._begin(shard)
        await self._follow(shard, books)
        now = self._clock.now()
        ledger = await self._store.ledger(shard)
        if ledger is None:
            return
        self._unbalanced[shard] = abs(ledger.pending - ledger.waiting)
        if self._unbalanced[shard]:
            self._tell(shard, "", 0, pending=ledger.pending, waiting=ledger.waiting)
        for (domain, minute), difference in books.compare(ledger, now=now).items():
            place = shard, domain, minute
            if not difference:
                self._found.pop(place, None)
            elif place in self._found or len(self._found) < FOUND_MAX:
                if place not in self._found:
                    self._tell(shard, domain, minute, difference=difference)
                self._found[place] = difference

    async def _begin(self, shard: int) -> _Books:
        """Books that begin with the first event of the minutes that are still told of."""
        since = self._clock.now() - KEPT_S
        low = await seq_since(self._store, shard, since)
        page = await self._store.tail(shard, after=low, limit=1)
        cursor = page[0].seq - 1 if page else low
        first = minute_of(since) + 2 if cursor else 0  # commits may be a minute out of order
        return _Books(cursor, first)

    async def _follow(self, shard: int, books: _Books) -> None:
        gaps = books.gaps
        while (head := self._store.head(shard)) > books.cursor:
            entries = await self._store.tail(shard, after=books.cursor, limit=PAGE)
            if not entries:
                if books.stuck == books.cursor:  # for a whole round: they are not on their way, they are gone
                    books.gaps += head - books.cursor
                    books.cursor = head
                books.stuck = books.cursor
                break
            books.fold(entries)
            await self._clock.sleep(0.0)
        if books.gaps > gaps:
            self.gaps += books.gaps - gaps
            self._tell(shard, "", 0, missing_events=books.gaps - gaps)

    def _tell(self, shard: int, domain: str, minute: int, **what: int) -> None:
        structlog.get_logger().error("ledger_differs", shard=shard, domain=domain, minute=minute, **what)
