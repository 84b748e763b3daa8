"""The event log: every event, in the order of its shard, for consumers with cursors of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EventLog", "LogEntry"]


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    """One event.

    Args:
        seq: Its number in the shard: from 1, without gaps over all day files.
        octets: What ``domain.event.encode_event`` gave; empty where the event was voided.
    """

    seq: int
    octets: bytes


class EventLog(Protocol):
    """Events are appended inside ``QueueStore.commit`` only; here they are read.

    Every event has (shard, seq), gapless. An event is seen only when its commit is durable and not in doubt.
    tests/conformance/test_event_log.py holds every log to this.
    """

    def shards(self) -> Sequence[int]:
        """The shards with events that this worker owns."""
        ...

    async def tail(self, shard: int, *, after: int, limit: int) -> Sequence[LogEntry]:
        """Events with seq over ``after``, in order, at most ``limit``; empty at the end.

        Starts at the oldest one kept when ``after`` is older than the retention.
        """
        ...

    def head(self, shard: int) -> int:
        """The highest seq that ``tail`` would show; 0 when there is none. Does no I/O."""
        ...
