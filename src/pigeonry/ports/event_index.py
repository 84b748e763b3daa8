"""The search index over events: rebuilt from the log at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

__all__ = ["EventIndex", "IndexMark", "IndexPage", "IndexQuery", "Term"]


class Term(msgspec.Struct, frozen=True):
    """A filter expression, already parsed.

    Args:
        op: ``and``, ``or``, ``not`` over ``parts``; ``is`` compares ``field`` with ``value`` exactly, ignoring case;
            ``has`` asks whether the field contains the value's words, one after another, beginning at the start of a
            word and ignoring case; ``lt`` and ``gt`` compare numbers.
        field: ``event``, ``recipient``, ``recipients``, ``message-id``, ``from``, ``to``, ``subject``, ``tags``,
            ``severity``, ``size``, ``attachment``, ``list``, ``user-variables``.
    """

    op: str
    field: str = ""
    value: str = ""
    parts: tuple[Term, ...] = ()


class IndexMark(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A place in the order of events: time in microseconds since the Unix epoch, shard, seq.

    The time is the event's, but rises with seq in every shard, and an event that is indexed late is placed after
    the watermark: so nothing is ever inserted before what a page has shown.
    """

    time_us: int
    shard: int
    seq: int

    def cut_us(self, shard: int, *, ascending: bool) -> int:
        """The last time of a shard that lies before a cut at this place, which itself lies before it when ascending.

        Times rise with seq in a shard, so that this says of each of its events on which side it lies.
        """
        return self.time_us - (self.shard < shard if ascending else self.shard <= shard)


class IndexQuery(msgspec.Struct, frozen=True):
    """A page of events of one domain.

    Args:
        domain: The sending domain.
        begin_us, end_us: Both included; microseconds since the Unix epoch.
        after: Only what lies beyond this mark in the asked order.
        ascending: Oldest first.
        where: The filter, None for all.
        limit: At most so many.
        shards: Only these, and say what of each was looked at; None: all of the node, and say nothing.
        marks: In place of ``after``, for some of ``shards``: the seq at which the page before ended. Ascending only
            those over it count, descending only those up to it.
        octets_max: What the events of a page may have together; one is always given.
    """

    domain: str
    begin_us: int
    end_us: int
    ascending: bool
    limit: int
    after: IndexMark | None = None
    where: Term | None = None
    shards: tuple[int, ...] | None = None
    marks: Mapping[int, int] = {}
    octets_max: int = 2**62


class IndexPage(msgspec.Struct, frozen=True):
    """What was found: marks and encoded events, in the asked order.

    Args:
        items: What matched.
        upto: How far was looked when the page is not full and there is more to look at (the time for one page was
            or the octets were up): go on ``after`` it. None when the page is full or the range is exhausted.
        covered: Of each shard that was asked for: the seqs over the first number, up to the second, were all looked
            at. The page's events are those of them that match. A seq is the same wherever a shard is indexed, and its
            place is not.
    """

    items: tuple[tuple[IndexMark, bytes], ...]
    upto: IndexMark | None = None
    covered: Mapping[int, tuple[int, int]] = {}


class EventIndex(Protocol):
    """Searchable events. ``feed`` is called by the owner of a shard, ``search`` by any worker of the node.

    tests/conformance/test_event_index.py holds every index to this.
    """

    async def cursor(self, shard: int) -> int:
        """The seq up to which the shard is indexed, durably or not; 0 when nothing is."""
        ...

    async def feed(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> None:
        """Add events (seq, octets) in order, and move the cursor with them in the same transaction.

        Feeding an event again changes nothing. Empty octets (a voided event) only move the cursor.
        """
        ...

    async def restore(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> int:
        """Add those events (seq, octets) at or before the cursor that are missing; how many there were.

        Each comes between those that stand before and after it in the log. What is there is left as it is.
        """
        ...

    async def level(self, at: Mapping[int, float]) -> None:
        """Say of shards that their logs had nothing beyond the cursor at a time (seconds since the Unix epoch).

        This is what moves the watermark of a shard in which nothing happens. To be called at least every 500 ms.
        """
        ...

    async def search(self, query: IndexQuery) -> IndexPage:
        """Find events over all shards of the node, merged by (time, shard, seq).

        Raises:
            StoreBusy: The index cannot be read just now.
        """
        ...

    def reached(self, shard: int) -> float:
        """Seconds since the Unix epoch up to which a shard that is fed here is indexed; 0.0 when it is not, or not yet.

        Does no I/O.
        """
        ...

    async def watermark(self) -> float:
        """Seconds since the Unix epoch up to which every shard's events are indexed.

        No event will ever be placed at or before it, so what lies there may be shown. A shard whose owner gave no
        sign for 10 s does not hold it back: what is still to come of it is placed later.
        """
        ...

    async def give_up(self, shard: int) -> None:
        """The shard is another worker's from now on: nobody waits for this one to speak of it."""
        ...

    async def wipe(self) -> None:
        """Forget everything: the consumer rebuilds it from the log."""
        ...
