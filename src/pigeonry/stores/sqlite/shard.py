"""A shard that this worker owns: its day files, the numbers it gives out, and what may be seen of it.

Serials carry the shard's *epoch*, which rises durably every time the shard is opened for accepting. So a serial that
was given out and never committed is not given out again after a crash, and nothing need be written for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.message import MessageKey
from pigeonry.stores.sqlite.day_file import DayFile
from pigeonry.stores.sqlite.segments import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pigeonry.ports.disk import Disk, FileLock
    from pigeonry.stores.sqlite.layout import Layout
    from pigeonry.stores.sqlite.limits import Limits

__all__ = ["Shard"]

_SERIAL_BITS: Final = 40  # A million million recipients an opening; 2**23 openings in SQLite's 63 bits.


class Shard:
    """One owned shard.

    Attributes:
        number: Which.
        files: Its day files by day.
        today: The day that accepts; 0 in a shard that does not.
        epoch: Of this opening.
        seq_next: The next seq for an event.
        seq_durable: The highest seq whose commit is durable.
        hidden: Serials of messages that may not be seen yet: their commit is under way, or it is to be voided.
        held_files: Numbers of body files of their own whose messages may be stored although nobody was told so.
        doubts: Those to be voided, with the seq of their first event.
    """

    def __init__(self, number: int, *, disk: Disk, layout: Layout, limits: Limits, lock: FileLock) -> None:
        self.number = number
        self.files: dict[int, DayFile] = {}
        self.today = 0
        self.epoch = 0
        self.seq_next = 1
        self.seq_durable = 0
        self.hidden: set[int] = set()
        self.held_files: set[int] = set()
        self.doubts: dict[int, int] = {}
        self.body_number = 0
        self._serial_next = 0
        self._disk = disk
        self._layout = layout
        self._limits = limits
        self._lock = lock

    def day_file(self, day: int) -> DayFile:
        """The file object of a day, made when there is none; opens nothing."""
        file = self.files.get(day)
        if file is None:
            segments = SegmentWriter(
                self._disk,
                self._layout,
                shard=self.number,
                number_next=self.next_body_number,
                octets_max=self._limits.segment_octets_max,
            )
            path = self._layout.day_file(self.number, day)
            file = self.files[day] = DayFile(shard=self.number, day=day, path=path, segments=segments)
        return file

    def newest_first(self) -> Iterable[DayFile]:
        """The files, newest day first."""
        return [self.files[day] for day in sorted(self.files, reverse=True)]

    def start_accepting(self, *, epoch: int, day: int) -> None:
        """Give out serials of this epoch from now on; the epoch is durable."""
        self.epoch, self.today = epoch, day
        self._serial_next = epoch << _SERIAL_BITS

    def allocate(self, recipients: int) -> MessageKey:
        """A key with so many serials."""
        serial = self._serial_next
        self._serial_next += max(1, recipients)
        return MessageKey(self.number, self.today, serial)

    def next_body_number(self) -> int:
        """A number for a body file that none had before."""
        self.body_number += 1
        return self.body_number

    def seq_visible(self) -> int:
        """The highest seq that may be shown: durable, with nothing below it that is still to be voided."""
        if not self.doubts:
            return self.seq_durable
        return min(self.seq_durable, min(self.doubts.values()) - 1)

    def close(self) -> None:
        """Close the files and give the shard back. May block."""
        for file in self.files.values():
            file.close()
        self._lock.release()
