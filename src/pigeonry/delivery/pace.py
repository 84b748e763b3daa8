"""Whether what waits may wait for a connection that is busy, or another one is to be woken or opened for it.

A message that follows another on a busy connection costs a write and a read less than one that begins on an idle
connection, at both ends, and the receiver sees fewer connections. So a path grows by its backlog: to as many
connections as take what waits within ``PATIENCE_S``, by the time that messages took lately. To a receiver next door
that is two or three; to one far away it is as many as there are messages, up to the limit.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PATIENCE_S", "Pace"]

PATIENCE_S: Final = 0.05  # a tenth of what a delivery over the Internet takes
_NEWEST: Final = 0.125  # what the last message counts for, in the time that messages take


class Pace:
    """How fast the connections of a path are, and how much they have taken."""

    __slots__ = ("message_s", "taken")

    def __init__(self) -> None:
        self.message_s = 0.0
        """Seconds that a message keeps a connection busy; 0.0 when it is not known."""
        self.taken = 0
        """Recipients that connections took to deliver, since the start."""

    def took(self, seconds: float) -> None:
        """A message kept its connection busy for so long."""
        if self.message_s:
            self.message_s += _NEWEST * (seconds - self.message_s)
        else:
            self.message_s = seconds

    def suffices(self, busy: int, waiting: int) -> bool:
        """Whether so many busy connections take so many recipients in time."""
        return 0.0 < self.message_s * waiting <= PATIENCE_S * busy
