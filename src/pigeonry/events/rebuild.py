"""Rebuilding a window of the search index from the log, while both go on.

In steps that anybody may repeat: each looks at a page of the log and adds what the index lacks of it. What is there
stays where it is, so readers who page through it see everything once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import NotOwner, StoreBusy

if TYPE_CHECKING:
    from pigeonry.ports.event_index import EventIndex
    from pigeonry.ports.event_log import EventLog

__all__ = ["Rebuild", "Rebuilt", "Window", "seq_since"]

PAGE: Final = 1_000  # events of one step: some 10 ms
LOOKED_AT: Final = 16  # events looked at for one that was not voided, when a place in the log is searched
SLACK_S: Final = 60.0  # the log is in the order of commits, which may be as late as a door waits
MOVED_S: Final = 1.0  # seconds after which it is known whose a shard is


class Window(msgspec.Struct, frozen=True):
    """What of a shard's log is to be looked at: seqs over ``after``, up to ``last``."""

    shard: int
    after: int
    last: int


class Rebuilt(msgspec.Struct, frozen=True):
    """What a step did: all up to ``after`` was looked at, ``added`` events were missing."""

    after: int
    added: int


class _Time(msgspec.Struct, frozen=True, gc=False):
    timestamp: float


_decode: Final = msgspec.json.Decoder(_Time).decode


async def seq_since(log: EventLog, shard: int, since: float) -> int:
    """The seq after which the events from a time on are found, give or take those that were committed late.

    Args:
        since: Seconds since the Unix epoch.
    """
    low, high = 0, log.head(shard)
    while low < high:
        middle = (low + high) // 2
        page = await log.tail(shard, after=middle, limit=LOOKED_AT)
        found = next((entry for entry in page if entry.octets), None)
        if found is None or _time(found.octets) >= since:
            high = middle
        else:
            low = max(middle + 1, found.seq)
    return low


class Rebuild:
    """Rebuilds what this worker owns."""

    def __init__(self, log: EventLog, index: EventIndex) -> None:
        self._log = log
        self._index = index

    async def windows(self, begin: float, end: float) -> list[Window]:
        """What there is to do for a time (seconds since the Unix epoch), in each shard."""
        found = []
        for shard in self._log.shards():
            after = await seq_since(self._log, shard, begin - SLACK_S)
            found.append(Window(shard, after, await seq_since(self._log, shard, end + SLACK_S)))
        return [window for window in found if window.after < window.last]

    async def step(self, window: Window) -> Rebuilt:
        """Look at the next page of a window.

        Raises:
            NotOwner: The shard is another worker's by now.
            StoreBusy: The index or the log cannot be had, or the index has not come as far: try again.
        """
        shard = window.shard
        if shard not in self._log.shards():
            raise NotOwner("The shard belongs to another worker.", retry_after_s=MOVED_S)
        upto = await self._index.cursor(shard)
        page = await self._log.tail(shard, after=window.after, limit=PAGE)
        entries = [(entry.seq, entry.octets) for entry in page if entry.seq <= min(upto, window.last)]
        if not entries:
            if page and page[0].seq <= window.last:
                raise StoreBusy("The search index has not come as far yet.", retry_after_s=1.0)
            return Rebuilt(window.last, 0)
        return Rebuilt(entries[-1][0], await self._index.restore(shard, entries))


def _time(octets: bytes) -> float:
    try:
        return _decode(octets).timestamp
    except msgspec.DecodeError:
        return 0.0
