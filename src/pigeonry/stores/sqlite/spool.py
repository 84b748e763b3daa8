"""A body being received: in memory while it is small, in a file of its own once it is not.

What was received is written on the spool's lane while more arrives; how far the file may lag behind is bounded.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import BodyRef

if TYPE_CHECKING:
    from pigeonry.ports.disk import AppendFile, Disk, Lane
    from pigeonry.stores.sqlite.layout import Layout
    from pigeonry.stores.sqlite.limits import Limits
    from pigeonry.stores.sqlite.shard import Shard

__all__ = ["BodySpool"]


class BodySpool:
    """See ``ports.body_store.Spool`` for the contract."""

    def __init__(self, shard: Callable[[], Shard], *, disk: Disk, layout: Layout, lane: Lane, limits: Limits) -> None:
        self._shard = shard
        self._disk = disk
        self._layout = layout
        self._lane = lane
        self._limits = limits
        self._chunks: list[bytes] = []
        self._behind = 0
        self._crc = 0
        self._length = 0
        self._number = 0
        self._path = ""
        self._file: AppendFile | None = None
        self._flush: asyncio.Future[None] | None = None

    @property
    def length(self) -> int:
        """Octets written so far."""
        return self._length

    def write(self, octets: bytes | memoryview) -> None:
        """Append; hands over to the lane once there is more than stays in memory."""
        if self._flush is not None and self._flush.done():
            self._flushed(self._flush)
        if self._behind + len(octets) > self._limits.spool_behind_octets_max:
            raise StoreBusy("The disk cannot keep up with the message.", retry_after_s=1.0)
        self._chunks.append(bytes(octets))
        self._behind += len(octets)
        self._length += len(octets)
        self._crc = zlib.crc32(octets, self._crc)
        if self._length > self._limits.spool_memory_octets_max and self._flush is None:
            self._start_flush()

    async def finish(self) -> bytes | BodyRef:
        """The body: octets when it is small, else a reference to its synced file."""
        if not self._number:
            return b"".join(self._chunks)
        if self._flush is not None:
            await asyncio.wait((self._flush,))
            self._flushed(self._flush)
        chunks, self._chunks = self._chunks, []
        try:
            await self._lane.run(self._write_out, chunks, sync=True)
        except OSError as error:
            raise StoreBusy("The message could not be written to the disk.", retry_after_s=1.0) from error
        self._behind = 0
        return BodyRef(self._shard().number, self._number, -1, self._length, self._crc)

    def discard(self) -> None:
        """Forget it, and its file; one whose message may be stored goes with its day."""
        self._chunks.clear()
        number, self._number = self._number, 0
        if number and number not in self._shard().held_files:
            self._flush = asyncio.ensure_future(self._lane.run(self._remove))
            self._flush.add_done_callback(_seen)

    def _start_flush(self) -> None:
        if not self._number:
            shard = self._shard()
            self._number = shard.next_body_number()
            self._path = self._layout.own_file(shard.number, self._number)
        chunks, self._chunks = self._chunks, []
        self._flush = asyncio.ensure_future(self._lane.run(self._write_out, chunks, sync=False))
        self._flush.add_done_callback(_seen)

    def _flushed(self, flush: asyncio.Future[None]) -> None:
        self._flush = None
        error = flush.exception()
        if error is not None:
            raise StoreBusy("The message could not be written to the disk.", retry_after_s=1.0) from error
        self._behind = sum(map(len, self._chunks))

    def _write_out(self, chunks: list[bytes], *, sync: bool) -> None:
        if self._file is None:
            self._file = self._disk.append(self._path)
        for chunk in chunks:
            self._file.write(chunk)
        if sync:
            self._file.sync()
            self._file.close()
            self._file = None

    def _remove(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._disk.unlink(self._path)


def _seen(flush: asyncio.Future[None]) -> None:
    """An error is told to who writes or finishes; a spool that was dropped has nobody to tell."""
    if not flush.cancelled():
        flush.exception()
