"""Recipients that wait, in the order in which they fall due.

By minute, and sorted within a minute only when somebody asks: of a million that wait a page of the next thousand is
found without looking at the rest, and one that comes or goes costs a set's insertion. The first ``OBJECTS_MAX`` are
objects, which costs nothing to keep and to find; in a longer queue the others are octets (``packed``).
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Final

from pigeonry.stores.cassandra.packed import Packer, due_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pigeonry.domain.message import Pending
    from pigeonry.ports.queue_store import DueMark

__all__ = ["Waiting"]

OBJECTS_MAX: Final = 10_000  # recipients of a shard kept as objects: five megabytes; more than are on their way at once
_GRAIN_S: Final = 60.0  # what is sorted at once when asked for: a minute's worth


class Waiting:
    """The pending recipients of one shard, by serial.

    Args:
        objects_max: How many are kept as objects.
    """

    def __init__(self, *, objects_max: int = OBJECTS_MAX) -> None:
        self._objects_max = objects_max
        self._objects: dict[int, Pending] = {}
        self._packed: dict[int, bytes] = {}
        self._packer = Packer()
        self._by_minute: dict[int, set[int]] = {}
        self._minutes: list[int] = []  # the keys of the above, in order

    def __len__(self) -> int:
        return len(self._objects) + len(self._packed)

    def __contains__(self, serial: int) -> bool:
        return serial in self._objects or serial in self._packed

    def get(self, serial: int) -> Pending | None:
        """One that waits."""
        pending = self._objects.get(serial)
        if pending is None and (octets := self._packed.get(serial)) is not None:
            return self._packer.unpack(serial, octets)
        return pending

    def serials(self) -> list[int]:
        """All of them as they are now, in no order."""
        return [*self._objects, *self._packed]

    def put(self, pending: Pending) -> None:
        """One that waits from now on, or waits for another time."""
        serial = pending.serial
        self.remove(serial)
        if len(self._objects) < self._objects_max:
            self._objects[serial] = pending
        else:
            self._packed[serial] = self._packer.pack(pending)
        minute = _minute(pending.due)
        of_minute = self._by_minute.get(minute)
        if of_minute is None:
            of_minute = self._by_minute[minute] = set()
            bisect.insort(self._minutes, minute)
        of_minute.add(serial)

    def remove(self, serial: int) -> bool:
        """One that waits no longer; False when it did not."""
        pending = self._objects.pop(serial, None)
        if pending is not None:
            due = pending.due
        elif (octets := self._packed.pop(serial, None)) is not None:
            due = due_of(octets)
            if not self._packed:
                self._packer.clear()
        else:
            return False
        minute = _minute(due)
        of_minute = self._by_minute[minute]
        of_minute.discard(serial)
        if not of_minute:
            del self._by_minute[minute]
            del self._minutes[bisect.bisect_left(self._minutes, minute)]
        return True

    def due(self, *, after: DueMark, until: float, shard: int) -> Iterator[Pending]:
        """Who waits beyond a place and no later than a time, in the order of (due, serial)."""
        place = (after.due, after.shard, after.serial)
        for minute in self._minutes[bisect.bisect_left(self._minutes, _minute(after.due)) :]:
            if minute > _minute(until):
                return
            marks = sorted((self._due(serial), serial) for serial in self._by_minute.get(minute, ()))
            for due, serial in marks:
                if due > until:
                    return
                if (due, shard, serial) > place and (pending := self.get(serial)) is not None:
                    yield pending

    def _due(self, serial: int) -> float:
        pending = self._objects.get(serial)
        return due_of(self._packed[serial]) if pending is None else pending.due


def _minute(due: float) -> int:
    return int(max(-1e15, min(due, 1e15)) // _GRAIN_S)
