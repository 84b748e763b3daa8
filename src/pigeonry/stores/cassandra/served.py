"""A shard that this worker owns and has read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pigeonry.stores.cassandra.journal import Buckets
    from pigeonry.stores.cassandra.shard import Shard

__all__ = ["Served"]


class Served:
    """One shard being served.

    Attributes:
        shard: Its state.
        buckets: Where its events are.
        lost: Set when it is another's: nothing more of it is acknowledged.
        events_since: Since its last checkpoint.
        checkpoint_at: Monotonic time of that.
    """

    def __init__(self, shard: Shard, buckets: Buckets, *, now: float) -> None:
        self.shard = shard
        self.buckets = buckets
        self.lost = asyncio.Event()
        self.events_since = 0
        self.checkpoint_at = now

    async def unless_lost(self, awaited: Awaitable[None]) -> None:
        """Wait for something, but no longer than the shard is ours."""
        waiting = asyncio.ensure_future(awaited)
        lost = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait((waiting, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            lost.cancel()
