"""Reading the search index: pages over all shards of the node, whoever owns them.

A filter is narrowed down to what the files have an index for: words of FTS5 where it asks for a recipient, a
message-id, a tag or words of the subject, and the event's kind. Rows of all shards are merged by (time, shard, seq)
and judged one by one. One page holds its snapshots for ``PAGE_S`` at most; what was not looked at by then is
asked for again, from ``IndexPage.upto`` on.

Everything here blocks and runs on the reader's lane.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import apsw
import msgspec

from pigeonry.domain.errors import StoreBusy
from pigeonry.ports.event_index import IndexMark, IndexPage
from pigeonry.stores.event_filter import decode_candidate, predicate, words
from pigeonry.stores.event_order import DAY_US, covered, lowest_watermark
from pigeonry.stores.sqlite.event_index_beacon import Beacon, read_beacon
from pigeonry.stores.sqlite.event_index_file import (
    KINDS,
    IndexFile,
    message_word,
    open_reader,
    recipient_word,
    tag_word,
)
from pigeonry.stores.sqlite.event_index_shard import DAMAGED, beacon_path, day_path, days_in, lost_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pigeonry.ports.disk import Disk
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.event_index import IndexQuery, Term
    from pigeonry.stores.sqlite.layout import Layout

__all__ = ["PAGE_S", "IndexReader"]

PAGE_S: Final = 0.2  # a snapshot held longer keeps the WAL from starting over
_READERS_MAX: Final = 128  # open files: 8 shards for 16 days
_LOOK_AT_CLOCK: Final = 64  # rows between two looks: 0.5 ms
_WINDOW_ROWS: Final = 200_000  # rows of other kinds that SQLite may skip in one step: 20 ms
_SHARD_MAX: Final = 1 << 16  # beyond the shards that a message key can name
_SEQ_MAX: Final = 1 << 62  # beyond every seq, and an integer to SQLite
_UNREADABLE: Final = "The search index cannot be read just now."

Row = tuple[int, int, int, bytes]


class IndexReader:
    """The reading side.

    Args:
        owned: The connection of the owner in this process to (shard, day), for disks on which a file has one only.
    """

    def __init__(
        self, layout: Layout, *, disk: Disk, clock: Clock, owned: Callable[[int, int], apsw.Connection | None]
    ) -> None:
        self._layout = layout
        self._disk = disk
        self._clock = clock
        self._owned = owned
        self._open: OrderedDict[str, tuple[int, apsw.Connection]] = OrderedDict()

    def folder(self, shard: int) -> str:
        """Where a shard's index is."""
        return f"{self._layout.shard(shard)}/index"

    def beacons(self) -> dict[int, Beacon]:
        """What the owners of all shards said last; shards without an index are not in it."""
        heard = {}
        for name in self._disk.list(f"{self._layout.root}/shards"):
            if name.isdecimal():
                beacon = read_beacon(beacon_path(self.folder(int(name))), disk=self._disk)
                if beacon is not None:
                    heard[int(name)] = beacon
        return heard

    def watermark(self, now_us: int) -> int:
        """Up to where the shards of the node are indexed, microseconds since the Unix epoch."""
        heard = self.beacons().values()
        return lowest_watermark(((beacon.watermark_us, beacon.spoken_us) for beacon in heard), now_us=now_us)

    def page(self, query: IndexQuery) -> IndexPage:
        """One page, or as much of it as can be had in ``PAGE_S``.

        Raises:
            StoreBusy: A file cannot be read.
        """
        try:
            return _Page(self, query, clock=self._clock).fill()
        except (apsw.Error, OSError) as error:
            raise StoreBusy(_UNREADABLE, retry_after_s=1.0) from error

    def heard(self, shards: Sequence[int] | None) -> dict[int, Beacon]:
        """What the owners of some shards said last, or of all; those without an index are not in it."""
        if shards is None:
            return self.beacons()
        said = {shard: read_beacon(beacon_path(self.folder(shard)), disk=self._disk) for shard in shards}
        return {shard: beacon for shard, beacon in said.items() if beacon is not None}

    def days(self, shard: int) -> list[int]:
        """The days that a shard has files of."""
        return days_in(self.folder(shard), disk=self._disk)

    def connection(self, shard: int, day: int, generation: int) -> apsw.Connection | None:
        """A connection to a file, None when it is not there (any more).

        Raises:
            apsw.Error: It cannot be opened.
        """
        if not self._disk.shared_memory and (own := self._owned(shard, day)) is not None:
            return own
        path = day_path(self.folder(shard), day)
        known = self._open.get(path)
        if known is not None and known[0] == generation:
            self._open.move_to_end(path)
            return known[1]
        self.release(path)
        if self._disk.size(path) < 0:
            return None
        if self._disk.shared_memory:
            db = open_reader(path, disk=self._disk)
        else:
            db = IndexFile(path, disk=self._disk).connection
        self._open[path] = (generation, db)
        while len(self._open) > _READERS_MAX:
            self.release(next(iter(self._open)))
        return db

    def release(self, path: str) -> None:
        """Close the connection to a file."""
        known = self._open.pop(path, None)
        if known is not None:
            known[1].close(True)

    def lost(self, shard: int, day: int) -> None:
        """Tell the owner that a file is damaged."""
        self.release(day_path(self.folder(shard), day))
        self._disk.append(lost_path(self.folder(shard), day)).close()

    def close(self) -> None:
        """Close all connections."""
        for path in list(self._open):
            self.release(path)


class _Page:
    """One page being filled."""

    def __init__(self, reader: IndexReader, query: IndexQuery, *, clock: Clock) -> None:
        self._reader = reader
        self._query = query
        self._clock = clock
        self._until = clock.monotonic() + PAGE_S
        self._judge = predicate(query.where) if query.where is not None else None
        self._kinds = _kinds(query.where) if query.where is not None else None
        after = query.after
        self._after = (after.time_us, after.shard, after.seq) if after is not None else None
        self._low = max(query.begin_us, after.time_us) if after is not None and query.ascending else query.begin_us
        self._high = min(query.end_us, after.time_us) if after is not None and not query.ascending else query.end_us
        self._heard: dict[int, Beacon] = {}
        self._bounds: dict[int, tuple[int, int]] = {}  # of shards that have a mark
        self._items: list[tuple[IndexMark, bytes]] = []
        self._octets = 0
        self._looked = 0
        self._cursors: list[apsw.Cursor] = []

    def fill(self) -> IndexPage:
        heard = self._heard = self._reader.heard(self._query.shards)
        for shard, seq in self._query.marks.items():
            self._bounds[shard] = self._beyond(self._of_files(shard, place_of, seq))
        by_day: dict[int, list[tuple[int, int]]] = {}
        for shard, beacon in heard.items():
            low, high = self._bounds_of(shard)
            for day in self._reader.days(shard):
                if day * DAY_US <= high and (day + 1) * DAY_US > low:
                    by_day.setdefault(day, []).append((shard, beacon.generation))
        upto = None
        for day in sorted(by_day, reverse=not self._query.ascending):
            try:
                upto = self._fill_from(day, by_day[day])
            except DAMAGED:
                self._find_damage(day, by_day[day])
                raise
            finally:
                for cursor in self._cursors:
                    cursor.close(True)
                self._cursors.clear()
            if upto is not None or len(self._items) >= self._query.limit:
                break
        end = upto or (self._items[-1][0] if len(self._items) >= self._query.limit else None)
        return IndexPage(tuple(self._items), upto, covered(self._query, end, self._seq_at))

    def _beyond(self, place_us: int) -> tuple[int, int]:
        """The bounds of a shard whose events up to a place are those up to its mark."""
        query = self._query
        if query.ascending:
            return max(query.begin_us, place_us + 1), query.end_us
        return query.begin_us, min(query.end_us, place_us)

    def _bounds_of(self, shard: int) -> tuple[int, int]:
        return self._bounds.get(shard, (self._low, self._high))

    def _seq_at(self, shard: int, time_us: int) -> int:
        return self._of_files(shard, seq_at, time_us)

    def _of_files(self, shard: int, ask: Callable[[Iterable[apsw.Connection], int], int], about: int) -> int:
        """Ask the files of a shard, the newest first; 0 when it has none."""
        if shard not in self._heard:
            return 0
        generation = self._heard[shard].generation
        days = self._reader.days(shard)[::-1]
        files = (self._reader.connection(shard, day, generation) for day in days)
        try:
            return ask((db for db in files if db is not None), about)
        except DAMAGED:
            for day in days:
                self._find_damage(day, [(shard, generation)])
            raise

    def _fill_from(self, day: int, shards: list[tuple[int, int]]) -> IndexMark | None:
        """Take what a day has; where to go on if the time is up."""
        opened = []
        for shard, generation in shards:
            db = self._reader.connection(shard, day, generation)
            found = db.execute("SELECT id FROM domain WHERE name = ?", (self._query.domain,)).get if db else None
            if db is not None and found is not None:
                opened.append((shard, db, found))
        limit = self._window(opened)
        ascending = self._query.ascending
        sources = [self._rows(shard, db, domain, limit) for shard, db, domain in opened]
        for time_us, shard, seq, octets in heapq.merge(*sources, reverse=not ascending):
            if not self._is_beyond(time_us, shard, seq):
                continue
            self._looked += 1
            mark = IndexMark(time_us, shard, seq)
            if self._judge is None or self._lets_through(octets):
                self._items.append((mark, octets))
                self._octets += len(octets)
                if len(self._items) >= self._query.limit:
                    return None
                if self._octets >= self._query.octets_max:
                    return mark
            if self._looked % _LOOK_AT_CLOCK == 0 and self._clock.monotonic() >= self._until:
                return mark
        if limit is None:
            return None
        return IndexMark(limit, _SHARD_MAX, _SEQ_MAX) if ascending else IndexMark(limit, -1, -1)

    def _is_beyond(self, time_us: int, shard: int, seq: int) -> bool:
        """Whether an event lies beyond where the page before ended."""
        ascending = self._query.ascending
        marked = self._query.marks.get(shard)
        if marked is not None:
            return (seq > marked) == ascending
        if self._after is None:
            return True
        here = (time_us, shard, seq)
        return here != self._after and (here > self._after) == ascending

    def _find_damage(self, day: int, shards: list[tuple[int, int]]) -> None:
        """One of a day's files cannot be read: tell the owner which. Only then is it worth reading all of them."""
        for shard, generation in shards:
            try:
                db = self._reader.connection(shard, day, generation)
                sound = db is None or db.pragma("quick_check", 1) == "ok"
            except DAMAGED:
                sound = False
            if not sound:
                self._reader.lost(shard, day)

    def _lets_through(self, octets: bytes) -> bool:
        assert self._judge is not None
        try:
            return self._judge(decode_candidate(octets))
        except msgspec.DecodeError:  # It was good enough to be placed; a filter cannot understand it.
            return False

    def _window(self, opened: list[tuple[int, apsw.Connection, int]]) -> int | None:
        """The time up to which SQLite may look in one go when it skips rows by their kind; None for all."""
        if self._kinds is None:
            return None
        order = "ASC" if self._query.ascending else "DESC"
        sql = (
            "SELECT time_us FROM event WHERE domain = ? AND time_us BETWEEN ? AND ?"  # noqa: S608  # constants of ours
            f" ORDER BY time_us {order} LIMIT 1 OFFSET {_WINDOW_ROWS}"
        )
        ends = [db.execute(sql, (domain, *self._bounds_of(shard))).get for shard, db, domain in opened]
        reached = [end for end in ends if end is not None]
        if not reached:
            return None
        return int(min(reached) if self._query.ascending else max(reached))

    def _rows(self, shard: int, db: apsw.Connection, domain: int, limit: int | None) -> Iterator[Row]:
        (low, high), ascending = self._bounds_of(shard), self._query.ascending
        if limit is not None:
            low, high = (low, min(high, limit)) if ascending else (max(low, limit), high)
        order = "ASC" if ascending else "DESC"
        words_wanted = _words(self._query.where, self._query.domain) if self._query.where is not None else None
        cursor = db.cursor()
        self._cursors.append(cursor)
        if words_wanted is not None:
            bounds = (_first_seq(db, low), _first_seq(db, high + 1) - 1)
            cursor.execute(
                "SELECT e.time_us, e.seq, e.octets FROM word CROSS JOIN event e ON e.seq = word.rowid"  # noqa: S608
                f" WHERE word MATCH ? AND word.rowid BETWEEN ? AND ? AND e.domain = ? ORDER BY word.rowid {order}",
                (words_wanted, *bounds, domain),
            )
        else:
            kinds = "" if self._kinds is None else f" AND kind IN ({','.join(map(str, self._kinds))})"
            cursor.execute(
                "SELECT time_us, seq, octets FROM event"  # noqa: S608  # numbers and constants of ours
                f" WHERE domain = ? AND time_us BETWEEN ? AND ?{kinds} ORDER BY time_us {order}",
                (domain, low, high),
            )
        return ((time_us, shard, seq, octets) for time_us, seq, octets in cursor)


def seq_at(files: Iterable[apsw.Connection], time_us: int) -> int:
    """The highest seq of a shard that is placed at a time or before; 0 when there is none.

    Args:
        files: Of the shard, the newest first.
    """
    last = 0
    for db in files:
        first, last, last_us = db.execute("SELECT first, last, last_us FROM span").get
        if last_us <= time_us:
            return int(last)
        last = _first_seq(db, time_us + 1) - 1
        if last >= first:
            return last
    return last


def place_of(files: Iterable[apsw.Connection], seq: int) -> int:
    """The place of the last event of a shard up to a seq, microseconds since the Unix epoch; 0 when there is none.

    Args:
        files: Of the shard, the newest first.
    """
    for db in files:
        first, last, last_us = db.execute("SELECT first, last, last_us FROM span").get
        if last <= seq:
            return int(last_us)
        if first <= seq:
            found = db.execute("SELECT time_us FROM event WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (seq,)).get
            if found is not None:
                return int(found)
    return 0


def _first_seq(db: apsw.Connection, time_us: int) -> int:
    """The first seq placed at that time or later: places rise with seq, so it is found by halving."""
    low, high = db.execute("SELECT first, last + 1 FROM span").get
    while low < high:
        middle = (low + high) // 2
        found = db.execute("SELECT seq, time_us FROM event WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)).get
        if found is None or found[1] >= time_us:
            high = middle
        else:
            low = found[0] + 1
    return int(low)


def _kinds(term: Term) -> list[int] | None:
    """Kinds that the filter lets through, None when it does not say. 0 stands for all that are not listed."""
    match term.op:
        case "is" if term.field == "event":
            name = term.value.lower()
            return [KINDS.index(name) + 1] if name in KINDS else [0]
        case "and":
            said = [kinds for part in term.parts if (kinds := _kinds(part)) is not None]
            return sorted(set(said[0]).intersection(*said[1:])) if said else None
        case "or":
            each = [_kinds(part) for part in term.parts]
            return sorted({kind for kinds in each for kind in kinds or ()}) if None not in each else None
    return None


def _words(term: Term, domain: str) -> str | None:
    """What to ask FTS5 for: finds at least all that the filter lets through. None when it cannot help."""
    match term.op, term.field:
        case "is", "recipient":
            return f'"{recipient_word(term.value, domain)}"'
        case "is", "message-id":
            return f'"{message_word(term.value, domain)}"'
        case "is", "tags":
            return f'"{tag_word(term.value, domain)}"'
        case "has", "subject":
            said = words(term.value).split()
            return " AND ".join([f'"{word}"' for word in said]) + "*" if said else None
    if term.op not in ("and", "or"):
        return None
    parts = [_words(part, domain) for part in term.parts]
    useful = [f"({part})" for part in parts if part is not None]
    if not useful or (term.op == "or" and len(useful) < len(parts)):
        return None
    return (" AND " if term.op == "and" else " OR ").join(useful)
