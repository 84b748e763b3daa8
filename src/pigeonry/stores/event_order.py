"""Where an event stands in the order that readers page through, and up to where that order is settled.

Events of a shard are placed by their timestamps, but never before one with a lower seq and never at or before the
shard's *watermark*. Readers show what lies at or before the lowest watermark of all shards that live. So whatever
comes late (a slow commit, a worker that stood still, a clock that was set) comes after every page that was ever
shown, and a reader who goes on from his last mark misses nothing.

A log that is read a second time (a wiped or damaged index) places by timestamp what the first reading had placed
already: it may have been shown, and those who saw it would see it again if it were new.

Everything is counted in whole microseconds since the Unix epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pigeonry.ports.event_index import IndexMark, IndexQuery

__all__ = ["DAY_US", "OWNER_SILENT_S", "SETTLING_S", "ShardOrder", "covered", "is_silent", "lowest_watermark", "micros"]

DAY_US: Final = 86_400 * 1_000_000
SETTLING_S: Final = 0.25
"""How far the watermark of an idle shard stays behind the clock: most commits are done by then, so that most events
stand exactly where their timestamps say."""
OWNER_SILENT_S: Final = 10.0
"""After so long without a sign of its owner a shard does not hold the others back: twice what the supervisor takes
to kill a worker whose loop stands still."""
_FRESH_S: Final = OWNER_SILENT_S / 2  # seconds; twice in the time after which an owner counts as silent
_HISTORY_US: Final = 60 * 1_000_000  # twice the longest that a door waits for a commit


def micros(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * 1e6)


class ShardOrder:
    """The order of one shard, as its owner extends it.

    Args:
        known: The highest seq that was ever placed, also by an index that is gone since.
        watermark_us: Up to where all is indexed, as last published.
        shown_us: Up to where readers may have been shown; over the watermark when the index was lost since, or when
            readers went on without this shard.
        spoken_us: When its owner last spoke; 0 when never, and then nothing of it was ever shown: its history is
            placed by timestamps, and only what is young enough to come late after what others have shown of today.
    """

    __slots__ = ("fresh", "known", "last_us", "shown_us", "spoken_us", "watermark_us")

    def __init__(self, *, known: int = 0, watermark_us: int = 0, shown_us: int = 0, spoken_us: int = 0) -> None:
        self.known = known
        self.fresh = not known and not shown_us and not watermark_us
        self.last_us = 0
        self.watermark_us = watermark_us
        self.shown_us = max(shown_us, watermark_us)
        self.spoken_us = spoken_us

    def place(self, seq: int, timestamp_us: int, *, now_us: int) -> int:
        """The place of the next event of the shard: over all before it, and settled from now on in its order.

        Args:
            seq: Its seq.
            timestamp_us: Its own time; one from the future is taken for now.
            now_us: The time.
        """
        floor = self.last_us + 1
        if seq > self.known:
            self.known = seq
            if not self.fresh or timestamp_us > self.shown_us - _HISTORY_US:
                floor = max(floor, self.shown_us + 1)
        self.last_us = max(floor, min(timestamp_us, now_us))
        return self.last_us

    def silent(self, now_us: int) -> bool:
        """Whether readers may have gone on without this shard: then ``raise_to`` comes before the next event."""
        return abs(now_us - self.spoken_us) > micros(_FRESH_S)

    def raise_to(self, others_us: int) -> None:
        """Readers may have been shown what lies at or before this, by the watermarks of others."""
        self.shown_us = max(self.shown_us, others_us)

    def advance(self) -> None:
        """What is placed is indexed: nothing will come before it."""
        self._publish(self.last_us)

    def level(self, at_us: int, *, others_us: int) -> None:
        """The log held nothing beyond the cursor at a time.

        Args:
            at_us: That time.
            others_us: The highest watermark of other shards. It counts when the clock was set back, so that the
                shards that stand still go along with those that go on.
        """
        self.fresh = False
        settled_us = at_us - micros(SETTLING_S)
        self._publish(max(self.last_us, settled_us if settled_us >= self.shown_us else max(self.shown_us, others_us)))

    def forget(self) -> None:
        """The index is gone: all is to be placed again."""
        self.last_us = 0
        self.watermark_us = 0

    def _publish(self, upto_us: int) -> None:
        self.watermark_us = max(self.watermark_us, upto_us)
        self.shown_us = max(self.shown_us, self.watermark_us)


def lowest_watermark(shards: Iterable[tuple[int, int]], *, now_us: int) -> int:
    """The watermark over all shards.

    Args:
        shards: Of each shard its watermark and when its owner last spoke.
        now_us: The time.
    """
    seen = list(shards)
    if not seen:
        return 0  # Nothing is indexed yet, and what comes first may have been long on its way.
    alive = [watermark for watermark, spoken in seen if not is_silent(spoken, now_us=now_us)]
    return min(alive) if alive else max(watermark for watermark, _ in seen)


def is_silent(spoken_us: int, *, now_us: int) -> bool:
    """Whether nobody feeds a shard whose owner last spoke at a time."""
    return abs(now_us - spoken_us) > micros(OWNER_SILENT_S)


def covered(query: IndexQuery, end: IndexMark | None, seq_at: Callable[[int, int], int]) -> dict[int, tuple[int, int]]:
    """What was looked at of each shard that a query names (``ports.event_index.IndexPage``).

    Args:
        end: Where looking ended; None when all was looked at.
        seq_at: The highest seq of a shard that is placed at a time or before.
    """

    def upto(shard: int, cut: IndexMark | None, otherwise_us: int) -> int:
        return seq_at(shard, otherwise_us if cut is None else cut.cut_us(shard, ascending=query.ascending))

    looked = {}
    for shard in query.shards or ():
        mark = query.marks.get(shard)
        if query.ascending:
            low = upto(shard, query.after, query.begin_us - 1) if mark is None else mark
            looked[shard] = low, max(low, upto(shard, end, query.end_us))
        else:
            high = upto(shard, query.after, query.end_us) if mark is None else mark
            looked[shard] = min(high, upto(shard, end, query.begin_us - 1)), high
    return looked
