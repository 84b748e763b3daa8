"""A token bucket, as a value: so many at once, and as many again in each period.

It belongs to nobody and asks no clock. Who draws says what time it is, on a clock that all who draw have more or less
in common; a time before the last one counts as the last one. So what is ever drawn is at most the limit, and the limit
once more for each period by which the furthest clock has gone on: however many draw, in whatever order.
"""

from __future__ import annotations

from typing import Final

from pigeonry.ports.buckets import Bucket, Rate

__all__ = ["PARTS", "block", "drawn", "given_back", "wait_s"]

PARTS: Final = 1_000
"""Into so many blocks a limit is cut at most: what a worker holds and does not use is a thousandth, so that ten of them
are exact to one percent, and a limit costs a thousand draws a period, not one for each message."""


def drawn(bucket: Bucket | None, rate: Rate, want: int, now: float) -> tuple[Bucket, int]:
    """Take up to so many whole tokens; the bucket afterwards, and how many they are.

    Args:
        bucket: None for one that was never drawn from: it is full.
        now: Seconds of the common clock.
    """
    filled = _filled(bucket, rate, now)
    taken = max(0, min(want, int(filled.level)))
    return Bucket(filled.level - taken, filled.at), taken


def given_back(bucket: Bucket | None, rate: Rate, tokens: int, now: float) -> Bucket:
    """Put unused tokens back, as far as there is room."""
    filled = _filled(bucket, rate, now)
    return Bucket(min(float(rate.limit), filled.level + tokens), filled.at)


def wait_s(bucket: Bucket, rate: Rate, want: int) -> float:
    """Seconds after ``at`` when so many tokens are there if nobody else draws, or as many as the limit."""
    lacks = min(want, rate.limit) - bucket.level
    return max(0.0, lacks * rate.period_s / rate.limit)


def block(rate: Rate) -> int:
    """How many tokens are drawn at once."""
    return max(1, rate.limit // PARTS)


def _filled(bucket: Bucket | None, rate: Rate, now: float) -> Bucket:
    if bucket is None:
        return Bucket(float(rate.limit), now)
    at = max(bucket.at, now)
    level = min(bucket.level, float(rate.limit)) + (at - bucket.at) * rate.limit / rate.period_s
    return Bucket(min(float(rate.limit), level), at)
