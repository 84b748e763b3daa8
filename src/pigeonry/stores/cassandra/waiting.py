"""Recipients that wait, in the order in which they fall due.

By minute, and sorted within a minute only when somebody asks: of a million that wait a page of the next thousand is
found without looking at the rest, and one that comes or goes costs a set's insertion.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pigeonry.domain.message import Pending
    from pigeonry.ports.queue_store import DueMark

__all__ = ["Waiting"]

_GRAIN_S: Final = 60.0  # what is sorted at once when asked for: a minute's worth


class Waiting:
    """The pending recipients of one shard, by serial."""

    def __init__(self) -> None:
        self._by_serial: dict[int, Pending] = {}
        self._by_minute: dict[int, set[int]] = {}
        self._minutes: list[int] = []  # the keys of the above, in order

    def __len__(self) -> int:
        return len(self._by_serial)

    def __contains__(self, serial: int) -> bool:
        return serial in self._by_serial

    def get(self, serial: int) -> Pending | None:
        """One that waits."""
        return self._by_serial.get(serial)

    def serials(self) -> list[int]:
        """All of them as they are now, in no order."""
        return list(self._by_serial)

    def put(self, pending: Pending) -> None:
        """One that waits from now on, or waits for another time."""
        self.remove(pending.serial)
        self._by_serial[pending.serial] = pending
        minute = _minute(pending.due)
        of_minute = self._by_minute.get(minute)
        if of_minute is None:
            of_minute = self._by_minute[minute] = set()
            bisect.insort(self._minutes, minute)
        of_minute.add(pending.serial)

    def remove(self, serial: int) -> Pending | None:
        """One that waits no longer; None when it did not."""
        pending = self._by_serial.pop(serial, None)
        if pending is not None:
            minute = _minute(pending.due)
            of_minute = self._by_minute[minute]
            of_minute.discard(serial)
            if not of_minute:
                del self._by_minute[minute]
                del self._minutes[bisect.bisect_left(self._minutes, minute)]
        return pending

    def due(self, *, after: DueMark, until: float, shard: int) -> Iterator[Pending]:
        """Who waits beyond a place and no later than a time, in the order of (due, serial)."""
        place = (after.due, after.shard, after.serial)
        for minute in self._minutes[bisect.bisect_left(self._minutes, _minute(after.due)) :]:
            if minute > _minute(until):
                return
            found = [self._by_serial[serial] for serial in self._by_minute.get(minute, ())]
            marks = sorted((each.due, each.serial) for each in found)
            for due, serial in marks:
                if due > until:
                    return
                if (due, shard, serial) > place:
                    yield self._by_serial[serial]


def _minute(due: float) -> int:
    return int(max(-1e15, min(due, 1e15)) // _GRAIN_S)
