"""The bounds of the scheduled queue, each with its unit."""

from __future__ import annotations

import msgspec

__all__ = ["SchedulerLimits"]


class SchedulerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the scheduled queue.

    Args:
        recipients_max: Recipients in memory, waiting for their time, for a connection or in an attempt. One takes
            about 600 octets: 60 MB.
        horizon_s: Seconds before its time that a recipient may be in memory.
        page: Recipients read from the store at once.
        settle_deadline_s: Seconds for each further try to settle after the caller's own deadline.
    """

    recipients_max: int = 100_000
    horizon_s: float = 60.0
    page: int = 1_000
    settle_deadline_s: float = 10.0
