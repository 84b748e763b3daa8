"""Carrying: what waits longer than a message is kept is written again before that.

Time is cut into rounds of a quarter of what a message is kept. When one begins, each message that waits in a shard is
written again. So nothing that waits is ever older than two rounds; and what is delivered soon, which is nearly all, is
written once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pigeonry.domain.message import MessageKey
    from pigeonry.stores.cassandra.messages import Messages
    from pigeonry.stores.cassandra.served import Served

__all__ = ["carry", "round_of"]

ROUNDS: Final = 4  # in the time that a message is kept
AT_ONCE: Final = 8  # messages: some megabytes on their way when they are large


def round_of(now: float, *, kept_s: float) -> int:
    """Which round it is.

    Args:
        now: Seconds since the Unix epoch.
    """
    return int(now * ROUNDS // kept_s)


async def carry(served: Served, messages: Messages, *, current: int) -> None:
    """Write all that waits in a shard again.

    Args:
        current: The round, which is done for this shard when this returns.

    Raises:
        StoreBusy, StoreInDoubt: Not all of it: try again.
    """
    shard = served.shard
    keys: dict[MessageKey, None] = {}
    for serial in shard.waiting.serials():
        pending = shard.waiting.get(serial)
        if pending is not None:
            keys[pending.message] = None
    waiting = list(keys)
    for first in range(0, len(waiting), AT_ONCE):
        if served.lost.is_set():
            return
        await asyncio.gather(*(messages.carry(key) for key in waiting[first : first + AT_ONCE]))
    shard.carried = current
