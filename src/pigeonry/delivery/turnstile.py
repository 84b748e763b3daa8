"""Lets deliveries begin only for so long in one turn of the loop, so that doors keep their share of it.

A group's messages fall due together, and to begin one means to render and to sign it: a millisecond of the loop with
RSA-2048, next to nothing without a signature. A dozen signatures in one turn would keep every client waiting that waits
for an answer. Who does not pass in this turn passes in one of the next, in order; an idle loop turns as fast as it is
asked to.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock

__all__ = ["Turnstile"]

WOKEN_PER_TURN: Final = 2  # of those who had to wait: what they take is not known before they have taken it


class Turnstile:
    """Looks at how long a turn has lasted.

    Args:
        clock: Time.
        share_s: Seconds of a turn in which deliveries may begin.
    """

    def __init__(self, clock: Clock, share_s: float) -> None:
        self._clock = clock
        self._share_s = share_s
        self._until = 0.0
        self._turning = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def free(self) -> bool:
        """Whether one more may begin in this turn, and none that came earlier waits."""
        if self._waiting:
            return False
        now = self._clock.monotonic()
        if not self._turning:
            self._until = now + self._share_s
            self._turn_soon()
        return now < self._until

    async def pass_through(self) -> None:
        """Return when one more may begin, in this turn or a later one."""
        if not self.free():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            self._turn_soon()
            await waiter

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        woken = 0
        while self._waiting and woken < WOKEN_PER_TURN:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else who waited was cancelled
                waiter.set_result(None)
                woken += 1
        if self._waiting:
            self._turn_soon()
