"""Token buckets that all workers and nodes draw from: what is left of a rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Bucket", "Buckets", "Rate"]

T = TypeVar("T")


class Rate(msgspec.Struct, frozen=True, order=True):
    """So many in a period, and as many at once.

    Args:
        limit: At least 1.
        period_s: Seconds.
    """

    limit: int
    period_s: float


class Bucket(msgspec.Struct, frozen=True):
    """What is left.

    Args:
        level: Tokens, at the time ``at``.
        at: Seconds since the Unix epoch, by whichever clock was furthest.
    """

    level: float
    at: float


class Buckets(Protocol):
    """Where they are kept. tests/conformance/test_buckets.py holds every implementation to this.

    One that nobody changed for a week may be forgotten; rates have periods of a day at the most.
    """

    async def change(self, name: str, work: Callable[[Bucket | None], tuple[Bucket, T]]) -> T:
        """Put in a bucket's place what ``work`` makes of it, as if nobody else were there; what it says.

        Args:
            work: Does no I/O; may be called several times, the last one counts. None is a bucket nobody knows of.

        Raises:
            Fault: It is not known to have been changed.
        """
        ...
