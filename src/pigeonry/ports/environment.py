"""Time, chance and identity as parameters, so that one seed replays a run (invariant I8)."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock", "Dice", "IdSource"]


class Clock(Protocol):
    """Time."""

    def now(self) -> float:
        """Wall time, seconds since the Unix epoch. For people and for what is stored."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back. For deadlines and durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after at least so many seconds of monotonic time; at once when not positive."""
        ...


class Dice(Protocol):
    """Chance that need not be secret: jitter, shuffles."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


class IdSource(Protocol):
    """Octets that nobody can guess, for identifiers and secrets."""

    def octets(self, count: int) -> bytes:
        """So many fresh random octets."""
        ...
