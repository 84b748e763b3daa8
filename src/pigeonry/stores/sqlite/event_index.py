"""The search index in SQLite files beside the shards: see ``ports.event_index`` for the contract.

::

    ROOT/shards/0003/index/2026-11-24.db    the events of the shard on that day
    ROOT/shards/0003/index/watermark        what the owner tells readers, several times a second

The owner of a shard feeds it on one lane; searches run on another, with connections that only read, over the shards
of all workers of the node. A search waits for no feed and a feed for no search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import apsw
import msgspec

from pigeonry.domain.errors import StoreBusy
from pigeonry.stores.event_order import DAY_US, is_silent, micros
from pigeonry.stores.sqlite.event_index_file import prepare
from pigeonry.stores.sqlite.event_index_reader import IndexReader
from pigeonry.stores.sqlite.event_index_shard import ShardIndex, retire_left
from pigeonry.stores.sqlite.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pigeonry.ports.disk import Disk, Lane, Lanes
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.event_index import IndexPage, IndexQuery
    from pigeonry.stores.sqlite.event_index_file import Prepared
    from pigeonry.stores.sqlite.event_index_shard import Entry

__all__ = ["SqliteEventIndex"]

T = TypeVar("T")

_SLICE: Final = 64
"""Events decoded on the loop in one go, some 0.6 ms. On the lane the same work would hold the interpreter's lock
against the loop, 5 ms at a time; what the lane does is SQLite's, which gives it away."""


class SqliteEventIndex:
    """Searchable events in SQLite files.

    Args:
        root: The store's folder.
        lanes: Makes the lanes, on first use.
        moving: Shards come from other nodes and go there: who pages goes on from marks, not from places.
    """

    def __init__(self, root: str, *, disk: Disk, lanes: Lanes, clock: Clock, moving: bool = False) -> None:
        self._disk = disk
        self._lanes = lanes
        self._clock = clock
        self._moving = moving
        self._shards: dict[int, ShardIndex] = {}
        self._reader = IndexReader(Layout(root), disk=disk, clock=clock, owned=self._owned)
        self._writing: Lane | None = None
        self._reading: Lane | None = None
        self.unreadable = 0
        """Events since the start that were passed over because they are nothing we understand."""

    async def cursor(self, shard: int) -> int:
        """The seq up to which the shard is indexed; opens and mends its files on the first call."""
        known = self._shards.get(shard)
        return known.cursor if known is not None else await self._write(lambda: self._shard(shard).cursor)

    async def feed(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> None:
        """Add events in order. Raises ``StoreBusy`` when those beyond the cursor were not added."""
        prepared: list[Entry] = []
        for start in range(0, len(entries), _SLICE):
            prepared += [(seq, self._prepared(octets)) for seq, octets in entries[start : start + _SLICE]]
            await self._clock.sleep(0.0)
        await self._write(lambda: self._shard(shard).feed(prepared, now_us=self._now_us()))

    async def restore(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> int:
        """Add those that are missing at or before the cursor."""
        prepared: list[Entry] = []
        for start in range(0, len(entries), _SLICE):
            prepared += [(seq, self._prepared(octets)) for seq, octets in entries[start : start + _SLICE]]
            await self._clock.sleep(0.0)
        return await self._write(lambda: self._shard(shard).restore(prepared, now_us=self._now_us()))

    async def level(self, at: Mapping[int, float]) -> None:
        """Say of shards that their logs had nothing beyond the cursor at a time."""

        def tell() -> None:
            for shard, seconds in at.items():
                self._shard(shard).level(micros(seconds), now_us=self._now_us())

        await self._write(tell)

    async def search(self, query: IndexQuery) -> IndexPage:
        """Find events over all shards of the node."""
        return await self._reading_lane().run(self._reader.page, query)

    def reached(self, shard: int) -> float:
        """Seconds since the Unix epoch up to which a shard that is fed here is indexed."""
        known = self._shards.get(shard)
        return 0.0 if known is None else known.watermark_us / 1e6

    async def watermark(self) -> float:
        """Seconds since the Unix epoch up to which every live shard's events are indexed."""
        return await self._reading_lane().run(self._reader.watermark, self._now_us()) / 1e6

    async def wipe(self) -> None:
        """Forget the shards that this worker feeds: the consumer rebuilds them from the log."""
        await self._write(self._wipe)

    async def retire(self, *, before: float) -> None:
        """Remove the files of days that were over before a time (seconds since the Unix epoch)."""
        day = micros(before) // DAY_US
        await self._write(lambda: self._retire(day))

    async def give_up(self, shard: int) -> None:
        """The shard is another worker's from now on."""
        await self._write(lambda: self._drop(shard))

    async def close(self) -> None:
        """Close all files and lanes."""
        await self._reading_lane().run(self._reader.close)  # First, so that the last to leave a WAL is who may write.
        await self._write(self._drop_all)
        for lane in {id(lane): lane for lane in (self._writing, self._reading) if lane is not None}.values():
            lane.close()
        self._writing = self._reading = None

    def _prepared(self, octets: bytes) -> Prepared | None:
        if not octets:
            return None
        try:
            return prepare(octets)
        except (msgspec.DecodeError, UnicodeError):
            self.unreadable += 1
            return None

    def _now_us(self) -> int:
        return micros(self._clock.now())

    async def _write(self, work: Callable[[], T]) -> T:
        try:
            return await self._writing_lane().run(work)
        except (apsw.Error, OSError) as error:
            raise StoreBusy("The search index cannot be written just now.") from error

    def _writing_lane(self) -> Lane:
        if self._writing is None:
            self._writing = self._lanes.lane("event-index")
        return self._writing

    def _reading_lane(self) -> Lane:
        if not self._disk.shared_memory:  # One connection to a file: one lane for all.
            return self._writing_lane()
        if self._reading is None:
            self._reading = self._lanes.lane("event-search")
        return self._reading

    def _shard(self, shard: int) -> ShardIndex:
        known = self._shards.get(shard)
        if known is None:
            known = self._shards[shard] = ShardIndex(
                self._reader.folder(shard),
                disk=self._disk,
                others=self._others_of(shard),
                release=self._release,
                now_us=self._now_us(),
                moving=self._moving,
            )
        return known

    def _others_of(self, shard: int) -> Callable[[], int]:
        def others() -> int:
            return max((b.watermark_us for number, b in self._reader.beacons().items() if number != shard), default=0)

        return others

    def _release(self, path: str) -> None:
        """A file has one connection only on some disks; the reader's then makes way, on the same lane."""
        if not self._disk.shared_memory:
            self._reader.release(path)

    def _owned(self, shard: int, day: int) -> apsw.Connection | None:
        known = self._shards.get(shard)
        return known.connection(day) if known is not None else None

    def _drop(self, shard: int) -> None:
        known = self._shards.pop(shard, None)
        if known is not None:
            known.close()

    def _drop_all(self) -> None:
        for shard in list(self._shards):
            self._drop(shard)

    def _wipe(self) -> None:
        for shard in self._shards.values():
            shard.wipe(self._now_us())

    def _retire(self, before_day: int) -> None:
        for shard in self._shards.values():
            shard.retire(before_day, self._now_us())
        if self._moving:
            for number, beacon in self._reader.beacons().items():
                if number not in self._shards and is_silent(beacon.spoken_us, now_us=self._now_us()):
                    retire_left(self._reader.folder(number), before_day, disk=self._disk)
