"""A body being received into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.domain.errors import StoreBusy

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.domain.message import BodyRef
    from pigeonry.stores.memory.shard import MemoryShard

__all__ = ["MemorySpool"]


class MemorySpool:
    """See ``ports.body_store.Spool`` for the contract.

    Args:
        shard: Keeps the body when it is large.
        short_of_room: Whether so many octets more are too many.
        octets_max: A body up to this size is handed back as octets.
    """

    def __init__(self, shard: MemoryShard, *, short_of_room: Callable[[int], bool], octets_max: int) -> None:
        self._shard = shard
        self._short_of_room = short_of_room
        self._octets_max = octets_max
        self._received = bytearray()
        self._length = 0
        self._ref: BodyRef | None = None

    @property
    def length(self) -> int:
        """Octets written so far."""
        return self._length

    def write(self, octets: bytes | memoryview) -> None:
        """Append."""
        if self._short_of_room(len(octets)):
            raise StoreBusy("There is no room for the message.", retry_after_s=1.0)
        self._received += octets
        self._length += len(octets)
        self._shard.octets += len(octets)

    async def finish(self) -> bytes | BodyRef:
        """The body: octets when it is small, else a reference."""
        octets = bytes(self._received)
        if len(octets) <= self._octets_max:
            self._forget()
            return octets
        self._received.clear()
        self._ref = self._shard.keep_file(octets)
        return self._ref

    def discard(self) -> None:
        """Forget it, and what was kept of it."""
        self._forget()
        if self._ref is not None:
            self._shard.remove_file(self._ref)

    def _forget(self) -> None:
        self._shard.octets -= len(self._received)
        self._received.clear()
