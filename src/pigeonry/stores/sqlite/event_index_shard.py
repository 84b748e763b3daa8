"""The search index of one shard, as its owner builds it: a chain of day files, each going on where the last ended.

There is no cursor beside the files. Every file says which seqs it covers, in the same transaction as the events, and
the cursor is the end of the unbroken chain from the oldest file on: so it can never be ahead of what is indexed, also
where a loss of power took the end of yesterday's file and left today's. A file that cannot be read is replaced by an
empty one; the chain then breaks there, the events in the gap come again from the log, and the cursor jumps to the
end once it is closed. ``YYYY-MM-DD.lost`` stands in the folder while a file is being replaced, or where a reader
found a damaged one: only the owner repairs.

Everything here blocks and runs on the index's lane.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Final

import apsw

from pigeonry.stores.event_order import DAY_US, ShardOrder, micros
from pigeonry.stores.sqlite.event_index_beacon import Beacon, BeaconFile, read_beacon
from pigeonry.stores.sqlite.event_index_file import IndexFile, Span, remove_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.ports.disk import Disk
    from pigeonry.stores.sqlite.event_index_file import Prepared

__all__ = ["DAMAGED", "Entry", "ShardIndex", "beacon_path", "day_path", "days_in", "lost_path", "retire_left"]

DAMAGED: Final = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)
_EPOCH: Final = dt.date(1970, 1, 1)
_LOOK_FOR_LOST_S: Final = 10.0  # seconds between two looks for files that are gone

Entry = tuple[int, "Prepared | None"]
"""A seq and what is indexed of its event; None where it was voided or is nothing we understand."""


def day_path(folder: str, day: int) -> str:
    """The file of a day, days since the Unix epoch."""
    return f"{folder}/{_EPOCH + dt.timedelta(days=day)}.db"


def lost_path(folder: str, day: int) -> str:
    """The mark that the file of a day is to be replaced."""
    return f"{folder}/{_EPOCH + dt.timedelta(days=day)}.lost"


def beacon_path(folder: str) -> str:
    """The file by which the owner speaks to readers."""
    return f"{folder}/watermark"


def days_in(folder: str, *, disk: Disk, ending: str = "db") -> list[int]:
    """The days that have a file with that ending, oldest first."""
    found = []
    for name in disk.list(folder):
        stem, _, suffix = name.partition(".")
        if suffix == ending:
            with contextlib.suppress(ValueError):  # Not ours: left alone.
                found.append((dt.date.fromisoformat(stem) - _EPOCH).days)
    return sorted(found)


def retire_left(folder: str, before_day: int, *, disk: Disk) -> None:
    """Remove the files of older days of a shard that nobody in this node feeds now.

    The newest one stays: whoever feeds the shard here again goes on from it.
    """
    for day in days_in(folder, disk=disk)[:-1]:
        if day < before_day:
            remove_file(day_path(folder, day), disk=disk)


class ShardIndex:
    """The writing side of one shard.

    Args:
        folder: Where its files are.
        others: The highest watermark of all other shards of the node.
        release: Called before a file is opened for writing, where a file has one connection only.
        moving: The shard may have been another node's since. What came meanwhile is placed by its time, as if nothing
            of it had been shown: who saw some of it goes on from a seq.
    """

    def __init__(
        self,
        folder: str,
        *,
        disk: Disk,
        others: Callable[[], int],
        release: Callable[[str], None],
        now_us: int,
        moving: bool = False,
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._others = others
        self._release = release
        self._spans: dict[int, Span] = {}
        self._open: tuple[int, IndexFile] | None = None
        self._looked_us = now_us
        disk.make_folder(folder)
        beacon = read_beacon(beacon_path(folder), disk=disk) or Beacon(0, 0, 0, 0, 0)
        self._generation = beacon.generation
        self._order = ShardOrder()
        if not moving:
            self._order = ShardOrder(
                known=beacon.known,
                watermark_us=beacon.watermark_us,
                shown_us=beacon.shown_us,
                spoken_us=beacon.spoken_us,
            )
        self._beacon = BeaconFile(beacon_path(folder), disk=disk)
        self._read_chain(now_us)
        self.cursor = self._frontier()[1].last
        """The seq up to which the chain of files is unbroken. May be read from any thread."""

    @property
    def watermark_us(self) -> int:
        """Up to where all is indexed."""
        return self._order.watermark_us

    def connection(self, day: int) -> apsw.Connection | None:
        """The connection to a day's file, if it is the one being written."""
        return self._open[1].connection if self._open is not None and self._open[0] == day else None

    def feed(self, entries: Sequence[Entry], *, now_us: int) -> None:
        """Add events in order.

        Raises:
            apsw.Error: Those from some seq on were not added; the cursor says which.
            OSError: The same.
        """
        if self._order.silent(now_us):
            self._order.raise_to(self._others())
        rest = list(entries)
        while rest:
            day, span, ceiling = self._frontier()
            rest = [entry for entry in rest if entry[0] > span.last]
            if ceiling is None:
                run, rest = rest, []
            else:
                first = self._spans[ceiling].first
                run, rest = (
                    [entry for entry in rest if entry[0] < first],
                    [entry for entry in rest if entry[0] >= first],
                )
                if not run and rest:  # The log has nothing any more for this gap.
                    self._commit(day, [], first - 1)
            if run:
                self._add_run(run, day=day, ceiling=ceiling, now_us=now_us)
        self._order.advance()
        self._speak(now_us)

    def restore(self, entries: Sequence[Entry], *, now_us: int) -> int:
        """Add those that are missing at or before the cursor; how many. A file that is gone or damaged is begun anew.

        Raises:
            apsw.Error, OSError: Not all were added.
        """
        added = 0
        for day in sorted(self._spans):
            span = self._spans[day]
            if self._disk.size(day_path(self._folder, day)) < 0:
                self._lose(day, now_us)  # the log is read again from there on
                continue
            mine = [
                (seq, event) for seq, event in entries if event and span.first <= seq <= min(span.last, self.cursor)
            ]
            if mine:
                try:
                    added += self._restore(day, mine)
                except DAMAGED:
                    self._lose(day, now_us)
        return added

    def _restore(self, day: int, entries: list[tuple[int, Prepared]]) -> int:
        path = day_path(self._folder, day)
        if self._open is not None and self._open[0] == day:
            return self._open[1].restore(entries)
        self._release(path)
        file = IndexFile(path, disk=self._disk)
        try:
            return file.restore(entries)
        finally:
            file.finish()
            file.close()

    def level(self, at_us: int, *, now_us: int) -> None:
        """The log had nothing beyond the cursor at that time."""
        if abs(now_us - self._looked_us) > micros(_LOOK_FOR_LOST_S):
            self._looked_us = now_us
            for day in days_in(self._folder, disk=self._disk, ending="lost"):
                self._lose(day, now_us)
        if self._frontier()[2] is not None:
            self._speak(now_us)  # A gap is open: alive, and not level.
            return
        if self._order.silent(now_us):
            self._order.raise_to(self._others())
        self._order.last_us = self._frontier()[1].last_us
        others = self._others() if at_us < self._order.shown_us else 0
        self._order.level(at_us, others_us=others)
        self._speak(now_us)

    def wipe(self, now_us: int) -> None:
        """Forget everything but what was ever shown."""
        self._order.forget()
        self._renew(now_us)
        self._speak(now_us)
        self._close_file()
        for day in days_in(self._folder, disk=self._disk):
            self._release(day_path(self._folder, day))
            remove_file(day_path(self._folder, day), disk=self._disk)
        for day in days_in(self._folder, disk=self._disk, ending="lost"):
            self._disk.unlink(lost_path(self._folder, day))
        self._spans.clear()
        self.cursor = 0

    def retire(self, before_day: int, now_us: int) -> None:
        """Remove the files of older days, but never the one at the cursor."""
        day, _, _ = self._frontier()
        old = [each for each in self._spans if each < min(before_day, day)]
        for each in old:
            del self._spans[each]
            self._release(day_path(self._folder, each))
            remove_file(day_path(self._folder, each), disk=self._disk)
        if old:
            self._renew(now_us)
            self._speak(now_us)

    def close(self) -> None:
        """Close the files and tell readers not to wait for this shard."""
        self._speak(0)
        self._beacon.close()
        self._close_file()

    def _frontier(self) -> tuple[int, Span, int | None]:
        """Where the chain ends: that day, its span, and the day of the file beyond the gap, if there is one."""
        days = sorted(self._spans)
        if not days:
            return -1, Span(1, 0, 0), None
        here = days[0]
        for day in days[1:]:
            if self._spans[day].first > self._spans[here].last + 1:
                return here, self._spans[here], day
            here = day
        return here, self._spans[here], None

    def _read_chain(self, now_us: int) -> None:
        for day in days_in(self._folder, disk=self._disk, ending="lost"):
            remove_file(day_path(self._folder, day), disk=self._disk)
        lost = set(days_in(self._folder, disk=self._disk, ending="lost"))
        for day in sorted({*days_in(self._folder, disk=self._disk), *lost}):
            if day in lost:
                self._replace(day, now_us)
                continue
            span = self._spans[max(self._spans)] if self._spans else Span(1, 0, 0)
            try:  # Of a file that power failed on before its tables were written, it must not be said that it is first.
                file = IndexFile(
                    day_path(self._folder, day), disk=self._disk, first=span.last + 1, last_us=span.last_us
                )
            except DAMAGED:
                self._replace(day, now_us)
            else:
                self._spans[day] = file.span
                file.close()
        _, span, _ = self._frontier()
        if span.last < self._order.known:  # Something that was indexed is not any more.
            self._order.watermark_us = min(self._order.watermark_us, span.last_us)
        self._order.last_us = span.last_us

    def _lose(self, day: int, now_us: int) -> None:
        """A file cannot be read: start it anew."""
        self._order.forget()
        self._replace(day, now_us)
        _, span, _ = self._frontier()
        self._order.last_us, self.cursor = span.last_us, span.last

    def _replace(self, day: int, now_us: int) -> None:
        self._renew(now_us)
        self._disk.append(lost_path(self._folder, day)).close()
        if self._open is not None and self._open[0] == day:
            self._close_file()
        path = day_path(self._folder, day)
        self._release(path)
        remove_file(path, disk=self._disk)
        before = [each for each in self._spans if each < day]
        span = self._spans[max(before)] if before else Span(1, 0, 0)
        file = IndexFile(path, disk=self._disk, first=span.last + 1, last_us=span.last_us)
        self._spans[day] = file.span
        file.finish()
        file.close()
        self._disk.unlink(lost_path(self._folder, day))

    def _add_run(self, run: list[Entry], *, day: int, ceiling: int | None, now_us: int) -> None:
        """Add events that follow the frontier and lie before the next file, if there is one."""
        order = self._order
        order.last_us = self._frontier()[1].last_us
        known = order.known
        latest_us = now_us if ceiling is None else min(now_us, ceiling * DAY_US - 1)
        batch: list[tuple[int, int, Prepared]] = []
        last = 0
        try:
            for seq, event in run:
                if event is not None:
                    place = order.place(seq, micros(event[0]), now_us=latest_us)
                    its_day = max(day, place // DAY_US if ceiling is None else min(place // DAY_US, ceiling - 1))
                    if its_day != day:
                        if batch or last:
                            self._commit(day if day >= 0 else its_day, batch, last)
                            known, batch = last, []
                        day = its_day
                    batch.append((seq, place, event))
                last = seq
            self._commit(day if day >= 0 else now_us // DAY_US, batch, last)
        except BaseException:
            order.known = max(known, self.cursor)
            raise

    def _commit(self, day: int, batch: list[tuple[int, int, Prepared]], last: int) -> None:
        try:
            file = self._file(day)
            last_us = batch[-1][1] if batch else file.span.last_us
            file.add(batch, Span(file.span.first, last, last_us))
        except DAMAGED:
            self._lose(day, self._order.spoken_us)
            raise
        except (apsw.Error, OSError):
            self._close_file()
            raise
        self._spans[day] = file.span
        self.cursor = self._frontier()[1].last

    def _file(self, day: int) -> IndexFile:
        if self._open is not None:
            if self._open[0] == day:
                return self._open[1]
            self._open[1].finish()
            self._close_file()
        path = day_path(self._folder, day)
        self._release(path)
        _, span, _ = self._frontier()
        file = IndexFile(path, disk=self._disk, first=span.last + 1, last_us=span.last_us)
        self._open = (day, file)
        self._spans[day] = file.span
        return file

    def _close_file(self) -> None:
        if self._open is not None:
            file, self._open = self._open[1], None
            file.close()

    def _renew(self, now_us: int) -> None:
        self._generation = max(now_us, self._generation + 1)

    def _speak(self, now_us: int) -> None:
        """Tell readers. What cannot be written makes the shard silent, and readers go on without it."""
        order = self._order
        beacon = Beacon(now_us, order.watermark_us, order.shown_us, order.known, self._generation, order.last_us)
        with contextlib.suppress(OSError):
            self._beacon.write(beacon)
            order.spoken_us = now_us
