"""Answers for the shards that this worker owns, whoever in the cluster asks.

An owner alone knows how far its index is: of a shard that it has not indexed to the end yet it shows what is before
that place, and its watermark says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import NotOwner, StoreBusy
from pigeonry.events.asking import Found, query_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pigeonry.events.asking import Ask
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.event_index import EventIndex
    from pigeonry.ports.event_log import EventLog

__all__ = ["OwnShards"]

ANSWER_OCTETS_MAX: Final = 1024 * 1024  # of events in an answer: with its last one it stays far below a frame's 4 MiB
SETTLING_S: Final = 0.25  # seconds; an event that is being committed may be as old: one behind this would come late
MOVED_S: Final = 1.0  # seconds after which it is known whose a shard is
BEHIND_S: Final = 2.0  # seconds; an index that has some thousand events to go is level then


class OwnShards:
    """The shards of this worker.

    Args:
        owned: Their numbers, as it is now.
        log: Their logs.
        index: What they are indexed in.
    """

    def __init__(self, owned: Callable[[], Collection[int]], *, log: EventLog, index: EventIndex, clock: Clock) -> None:
        self._owned = owned
        self._log = log
        self._index = index
        self._clock = clock

    async def look(self, ask: Ask) -> Found:
        """Look for a page in the shards that are asked for.

        Raises:
            NotOwner: One of them is another worker's.
            StoreBusy: The index cannot be read just now, or is not where the page before ended.
        """
        self._check(ask.shards)
        watermark_us = min((self._watermark_us(shard) for shard in ask.shards), default=ask.end_us)
        if not ask.ascending:
            await self._check_level(ask)
        query = msgspec.structs.replace(
            query_of(ask, upto_us=watermark_us),
            shards=ask.shards,
            marks=ask.marks,
            octets_max=ANSWER_OCTETS_MAX,
        )
        page = await self._index.search(query)
        self._check(ask.shards)
        return Found(page.items, watermark_us, page.upto, page.covered)

    def _check(self, shards: Collection[int]) -> None:
        if not set(shards) <= set(self._owned()):
            raise NotOwner("A shard belongs to another worker.", retry_after_s=MOVED_S)

    def _watermark_us(self, shard: int) -> int:
        """Up to where a shard is indexed. One to which nothing ever came has no index, and needs none."""
        if self._log.head(shard) == 0:
            return int((self._clock.now() - SETTLING_S) * 1e6)
        return int(self._index.reached(shard) * 1e6)

    async def _check_level(self, ask: Ask) -> None:
        """Who goes back from a mark must find all that lies before it."""
        for shard, mark in ask.marks.items():
            if mark > await self._index.cursor(shard):
                raise StoreBusy("The search index is being built just now.", retry_after_s=BEHIND_S)
