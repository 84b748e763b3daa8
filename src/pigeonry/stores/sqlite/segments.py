"""Bodies on disk: appended to segment files, synced before the transaction that names them.

A body's place is decided on the loop (``place``), its octets are written and synced on the writer's lane
(``write_out``), and only then is the transaction committed. So a committed row never names octets that a loss of power
can take away, and what a crash leaves beyond the last committed body is cut off when the shard is opened.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from pigeonry.domain.errors import StoreBusy

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.domain.message import BodyRef
    from pigeonry.ports.disk import AppendFile, Disk
    from pigeonry.stores.sqlite.layout import Layout

__all__ = ["SegmentWriter", "SyncFailed", "read_body"]


class SyncFailed(Exception):
    """What was written may be lost, and no second sync of it can be believed (invariant I1)."""


class SegmentWriter:
    """Appends to the segments of one day file.

    Args:
        shard: The shard's number.
        number_next: Gives a number that no body file of the shard had before.
        octets_max: Size at which the segment is rolled.
    """

    def __init__(
        self, disk: Disk, layout: Layout, *, shard: int, number_next: Callable[[], int], octets_max: int
    ) -> None:
        self._disk = disk
        self._layout = layout
        self._shard = shard
        self._number_next = number_next
        self._octets_max = octets_max
        self._file: AppendFile | None = None
        self._chunks: list[bytes] = []
        self.number = 0
        self.end = 0

    def resume(self, number: int, end: int) -> None:
        """Go on in a segment that recovery has cut to ``end`` octets; number 0 for none."""
        self.number, self.end = number, end

    def roll_when_full(self) -> bool:
        """Begin a new segment when there is none or it is full. Call between groups; True when it was begun."""
        if self.number and self.end < self._octets_max:
            return False
        self.close()
        self.number, self.end = self._number_next(), 0
        return True

    def place(self, octets: bytes) -> int:
        """Take a body into the next write; returns its offset."""
        offset = self.end
        self.end += len(octets)
        self._chunks.append(octets)
        return offset

    def write_out(self) -> None:
        """Write and sync what was placed. May block.

        Raises:
            OSError: It could not be written; nothing of it may be named.
            SyncFailed: It was written, and the sync failed.
        """
        if not self._chunks:
            return
        chunks, self._chunks = self._chunks, []
        if self._file is None:
            self._file = self._disk.append(self._layout.segment(self._shard, self.number))
        self._file.write(b"".join(chunks))
        try:
            self._file.sync()
        except OSError as error:
            raise SyncFailed(f"segment {self.number} of shard {self._shard}: {error}") from error

    def forget(self) -> None:
        """The group failed: what was placed is not wanted. What reached the file stays there unused."""
        self._chunks.clear()
        if self._file is not None:
            self.end = self._file.size
            return
        self.end = max(0, self._disk.size(self._layout.segment(self._shard, self.number)))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_body(disk: Disk, layout: Layout, ref: BodyRef) -> bytes:
    """The octets of a body, checked. May block.

    Raises:
        StoreBusy: They cannot be read, or they are not what was written.
    """
    try:
        if ref.offset < 0:
            octets = disk.read(layout.own_file(ref.shard, ref.segment), 0, ref.length)
        else:
            octets = disk.read(layout.segment(ref.shard, ref.segment), ref.offset, ref.length)
    except OSError as error:
        raise StoreBusy("The message could not be read from the disk.") from error
    if len(octets) != ref.length or zlib.crc32(octets) != ref.crc:
        raise StoreBusy("The message on disk does not match its checksum.")
    return octets
