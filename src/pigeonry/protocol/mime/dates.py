"""A moment as clients write it: an RFC 2822 date, or seconds since the Unix epoch.

Standards: RFC 5322 sections 3.3 and 4.3 (dates; ``-0000`` is UTC of which nothing else is known).
Trust: takes anything.
"""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["seconds_of"]


def seconds_of(text: str) -> float | None:
    """Seconds since the Unix epoch; None when the text is neither a date nor a number, or lies before the epoch."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = _date(text)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _date(text: str) -> float:
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # -0000, which Python would take for local time
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return -1.0
