"""A body being received: in memory while it is small, else written part by part as it comes."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING

from pigeonry.domain.errors import Fault, StoreBusy
from pigeonry.domain.message import BodyRef
from pigeonry.stores.cassandra.messages import PART_OCTETS

if TYPE_CHECKING:
    from pigeonry.domain.message import MessageKey
    from pigeonry.stores.cassandra.messages import Messages

__all__ = ["CassandraSpool"]


class CassandraSpool:
    """See ``ports.body_store.Spool`` for the contract.

    Args:
        key: Under whose serial its parts are written: one that no message has.
        memory_octets_max: A body up to this size is handed back as octets.
        behind_octets_max: How far the parts may lag behind.
    """

    def __init__(self, messages: Messages, key: MessageKey, *, memory_octets_max: int, behind_octets_max: int) -> None:
        self._messages = messages
        self._key = key
        self._memory_octets_max = memory_octets_max
        self._parts_behind_max = max(1, behind_octets_max // PART_OCTETS)
        self._received = bytearray()
        self._length = 0
        self._crc = 0
        self._parts = 0
        self._writes: set[asyncio.Task[None]] = set()
        self._failed = False

    @property
    def length(self) -> int:
        """Octets written so far."""
        return self._length

    def write(self, octets: bytes | memoryview) -> None:
        """Append."""
        if self._failed or len(self._writes) >= self._parts_behind_max:
            raise StoreBusy("The store cannot take the message just now.", retry_after_s=1.0)
        self._received += octets
        self._length += len(octets)
        self._crc = zlib.crc32(octets, self._crc)
        if self._length > self._memory_octets_max:
            while len(self._received) >= PART_OCTETS:
                self._part(PART_OCTETS)

    async def finish(self) -> bytes | BodyRef:
        """The body: octets when it is small, else a reference."""
        if self._length <= self._memory_octets_max:
            octets = bytes(self._received)
            self._received.clear()
            return octets
        if self._received:
            self._part(len(self._received))
        if self._writes:
            await asyncio.wait(self._writes)
        if self._failed:
            raise StoreBusy("The store could not take the message.", retry_after_s=1.0)
        return BodyRef(self._key.shard, self._key.serial, -1, self._length, self._crc)

    def discard(self) -> None:
        """Forget it; parts that were written leave by their time to live."""
        self._received.clear()
        for write in self._writes:
            write.cancel()

    def _part(self, octets: int) -> None:
        part = bytes(self._received[:octets])
        del self._received[:octets]
        write = asyncio.ensure_future(self._write(self._parts, part))
        self._parts += 1
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _write(self, part: int, octets: bytes) -> None:
        try:
            await self._messages.keep_part(self._key.shard, self._key.serial, part, octets)
        except Fault:
            self._failed = True
