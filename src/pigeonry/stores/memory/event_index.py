"""The search index in memory: for tests, simulation and a trial run.

It places and shows events by the same rules as the one in files (``stores.event_order``, ``stores.event_filter``) and
looks at every event of the asked time.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

import msgspec

from pigeonry.ports.event_index import IndexMark, IndexPage
from pigeonry.stores.event_filter import decode_candidate, predicate
from pigeonry.stores.event_order import ShardOrder, covered, lowest_watermark, micros

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pigeonry.ports.environment import Clock
    from pigeonry.ports.event_index import IndexQuery
    from pigeonry.stores.event_filter import Candidate

__all__ = ["MemoryEventIndex"]


class _Shard:
    """The events of one shard in the order of their places, which is that of their seqs."""

    def __init__(self) -> None:
        self.order = ShardOrder()
        self.cursor = 0
        self.events: list[tuple[IndexMark, Candidate, bytes]] = []

    def between(self, low_us: int, high_us: int, *, ascending: bool) -> Iterator[tuple[IndexMark, Candidate, bytes]]:
        start = bisect_left(self.events, low_us, key=lambda each: each[0].time_us)
        stop = bisect_right(self.events, high_us, key=lambda each: each[0].time_us)
        numbers = range(start, stop) if ascending else range(stop - 1, start - 1, -1)
        return (self.events[number] for number in numbers)


def _time(item: tuple[IndexMark, Candidate, bytes]) -> int:
    return item[0].time_us


def _seq(item: tuple[IndexMark, Candidate, bytes]) -> int:
    return item[0].seq


class MemoryEventIndex:
    """Searchable events in memory. See ``ports.event_index.EventIndex`` for the contract.

    Several workers of one node share one instance.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shards: dict[int, _Shard] = {}
        self.unreadable = 0
        """Events that were passed over because they are nothing we understand."""

    async def cursor(self, shard: int) -> int:
        """The seq up to which the shard is indexed."""
        return self._shards[shard].cursor if shard in self._shards else 0

    async def feed(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> None:
        """Add events in order, those beyond the cursor."""
        here = self._shards.setdefault(shard, _Shard())
        now_us = self._speak(shard, here)
        for seq, octets in entries:
            if seq <= here.cursor:
                continue
            here.cursor = seq
            event = self._decoded(octets)
            if event is not None:
                place = here.order.place(seq, micros(event.timestamp), now_us=now_us)
                here.events.append((IndexMark(place, shard, seq), event, octets))
        here.order.advance()

    async def restore(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> int:
        """Add those that are missing at or before the cursor."""
        here = self._shards.setdefault(shard, _Shard())
        there, added = {mark.seq for mark, _, _ in here.events}, 0
        for seq, octets in entries:
            event = self._decoded(octets) if seq <= here.cursor and seq not in there else None
            if event is not None:
                at = bisect_left(here.events, seq, key=_seq)
                low = here.events[at - 1][0].time_us + 1 if at else 0
                high = here.events[at][0].time_us - 1 if at < len(here.events) else here.order.watermark_us
                place = max(low, min(micros(event.timestamp), high))
                here.events.insert(at, (IndexMark(place, shard, seq), event, octets))
                added += 1
        return added

    async def level(self, at: Mapping[int, float]) -> None:
        """Say of shards that their logs had nothing beyond the cursor at a time."""
        for shard, seconds in at.items():
            here = self._shards.setdefault(shard, _Shard())
            self._speak(shard, here)
            here.order.level(micros(seconds), others_us=self._others(shard))

    async def search(self, query: IndexQuery) -> IndexPage:
        """Find events over all shards, or those that are asked for."""
        asked = self._shards if query.shards is None else query.shards
        judge = predicate(query.where) if query.where is not None else None
        sources = [self._range(number, query) for number in asked if number in self._shards]
        items: list[tuple[IndexMark, bytes]] = []
        octets_left, upto = query.octets_max, None
        for mark, event, octets in heapq.merge(*sources, key=lambda each: each[0], reverse=not query.ascending):
            if event.domain == query.domain and (judge is None or judge(event)):
                items.append((mark, octets))
                octets_left -= len(octets)
                if len(items) >= query.limit:
                    break
                if octets_left <= 0:
                    upto = mark
                    break
        end = upto or (items[-1][0] if len(items) >= query.limit else None)
        return IndexPage(tuple(items), upto, covered(query, end, self._seq_at))

    def reached(self, shard: int) -> float:
        """Seconds since the Unix epoch up to which a shard is indexed."""
        return self._shards[shard].order.watermark_us / 1e6 if shard in self._shards else 0.0

    async def watermark(self) -> float:
        """Seconds since the Unix epoch up to which every live shard's events are indexed."""
        said = ((each.order.watermark_us, each.order.spoken_us) for each in self._shards.values())
        return lowest_watermark(said, now_us=micros(self._clock.now())) / 1e6

    async def wipe(self) -> None:
        """Forget everything but what was ever shown."""
        for here in self._shards.values():
            here.order.forget()
            here.cursor = 0
            here.events.clear()

    async def give_up(self, shard: int) -> None:
        """The shard is fed by another worker from now on: here, by another caller."""
        if shard in self._shards:
            self._shards[shard].order.spoken_us = 0

    def _range(self, number: int, query: IndexQuery) -> Iterator[tuple[IndexMark, Candidate, bytes]]:
        """The events of a shard beyond where the page before ended."""
        after, ascending, marked = query.after, query.ascending, query.marks.get(number)
        low, high = query.begin_us, query.end_us
        if after is not None and marked is None:
            low, high = (max(low, after.time_us), high) if ascending else (low, min(high, after.time_us))
        for each in self._shards[number].between(low, high, ascending=ascending):
            mark = each[0]
            if marked is not None:
                beyond = (mark.seq > marked) == ascending
            else:
                beyond = after is None or (mark > after if ascending else mark < after)
            if beyond:
                yield each

    def _seq_at(self, shard: int, time_us: int) -> int:
        """The highest seq that is placed at a time or before."""
        here = self._shards.get(shard)
        if here is None:
            return 0
        at = bisect_right(here.events, time_us, key=_time)
        return here.cursor if at == len(here.events) else here.events[at][0].seq - 1

    def _speak(self, shard: int, here: _Shard) -> int:
        now_us = micros(self._clock.now())
        if here.order.silent(now_us):
            here.order.raise_to(self._others(shard))
        here.order.spoken_us = now_us
        return now_us

    def _others(self, shard: int) -> int:
        return max((each.order.watermark_us for number, each in self._shards.items() if number != shard), default=0)

    def _decoded(self, octets: bytes) -> Candidate | None:
        if not octets:
            return None
        try:
            return decode_candidate(octets)
        except (msgspec.DecodeError, UnicodeError):
            self.unreadable += 1
            return None
