"""A worker's side of rates: tokens in hand, drawn a block at a time from buckets that all workers share.

What is drawn is gone for the others, so that all together never use more than the rate; what a worker has and does not
use for a while it gives back. A worker that dies takes at most a block with it.

When the buckets do not answer a worker goes on at a safe pace of its own: its part of the rate among the workers that
it knows of, one at a time. That is said in the log and the metrics.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Fault
from pigeonry.ports.buckets import Bucket, Rate
from pigeonry.quota.bucket import block, drawn, given_back, wait_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.ports.buckets import Buckets
    from pigeonry.ports.environment import Clock
    from pigeonry.telemetry.log import Logger

__all__ = ["Rates"]

DRAW_S: Final = 1.0  # seconds for a draw: who waits for it is a door with a client
ASK_AGAIN_S: Final = 1.0  # seconds after a refusal in which the bucket is not asked again: others may have given back
IDLE_S: Final = 10.0  # seconds after which tokens that nobody took are given back
LEAVE_S: Final = 1.0  # seconds for giving all of them back at the end


class _Purse:
    """What is in hand of one rate.

    Args:
        safe: The bucket that is drawn from while the common one does not answer.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.rate = Rate(1, 1.0)
        self.used_at = 0.0
        self.asked_at = -math.inf
        self.until = -math.inf  # when there will be enough, as far as is known
        self.safe: Bucket | None = None
        self.turn = asyncio.Lock()


class Rates:
    """The rates that this worker needs tokens of.

    Args:
        workers: How many workers there are, as far as is known.
    """

    def __init__(self, buckets: Buckets, *, clock: Clock, workers: Callable[[], int], log: Logger) -> None:
        self._buckets = buckets
        self._clock = clock
        self._workers = workers
        self._log = log
        self._purses: dict[str, _Purse] = {}
        self.failing = False
        """Whether the buckets did not answer when they were last asked: a safe pace is kept."""

    async def take(self, name: str, rate: Rate, count: int = 1) -> float:
        """Take tokens, at most as many as the limit; 0.0, or the seconds after which there may be enough.

        Nothing is taken then.
        """
        count = min(count, rate.limit)
        purse = self._purses.setdefault(name, _Purse())
        purse.used_at, purse.rate = self._clock.monotonic(), rate
        if purse.tokens >= count:
            purse.tokens -= count
            return 0.0
        async with purse.turn:
            if purse.tokens < count:
                await self._draw(name, purse, count)
        now = self._clock.monotonic()
        if purse.tokens >= count:
            purse.tokens -= count
            return 0.0
        return self._safely(purse, now, count) if self.failing else max(purse.until - now, 0.001)

    async def put_back(self, name: str, count: int) -> None:
        """What was taken was not used after all."""
        purse = self._purses.get(name)
        if purse is not None:
            purse.tokens += min(count, purse.rate.limit)

    async def run(self) -> None:
        """Give back what nobody takes, until cancelled."""
        while True:
            await self._clock.sleep(IDLE_S)
            now = self._clock.monotonic()
            for name, purse in list(self._purses.items()):
                if now - purse.used_at >= IDLE_S and not purse.turn.locked():
                    del self._purses[name]
                    await self._give_back(name, purse)

    async def close(self) -> None:
        """Give everything back."""
        purses, self._purses = self._purses, {}
        await asyncio.gather(*(self._give_back(name, purse) for name, purse in purses.items()))

    async def _draw(self, name: str, purse: _Purse, count: int) -> None:
        now, rate = self._clock.monotonic(), purse.rate
        if now < min(purse.until, purse.asked_at + ASK_AGAIN_S):
            return
        want = max(block(rate), count - purse.tokens)
        wall = self._clock.now()

        def work(bucket: Bucket | None) -> tuple[Bucket, tuple[int, float]]:
            left, taken = drawn(bucket, rate, want, wall)
            short = count - purse.tokens - taken
            return left, (taken, wait_s(left, rate, short) + max(0.0, left.at - wall) if short > 0 else 0.0)

        purse.asked_at = now
        try:
            async with asyncio.timeout(DRAW_S):
                taken, wait = await self._buckets.change(name, work)
        except (Fault, TimeoutError) as error:
            self._tell(reason=str(error) or "no answer in time")
            purse.until = now
            return
        self._tell()
        purse.tokens += taken
        purse.until = now + wait

    def _safely(self, purse: _Purse, now: float, count: int) -> float:
        """As ``take``, at a pace that is safe for one of so many workers."""
        pace = Rate(1, purse.rate.period_s * max(1, self._workers()) / purse.rate.limit)
        purse.safe, taken = drawn(purse.safe, pace, 1, now)
        if taken:
            purse.safe = Bucket(purse.safe.level - (count - 1), purse.safe.at)  # the others are owed
            return 0.0
        return wait_s(purse.safe, pace, 1)

    async def _give_back(self, name: str, purse: _Purse) -> None:
        tokens, purse.tokens = purse.tokens, 0
        if not tokens:
            return
        now, rate = self._clock.now(), purse.rate
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._buckets.change(name, lambda bucket: (given_back(bucket, rate, tokens, now), None))
        except (Fault, TimeoutError):
            self._log.info("rate_tokens_lost", rate=name, tokens=tokens, consequence="less is allowed for a while")

    def _tell(self, *, reason: str = "") -> None:
        if self.failing != bool(reason):
            self.failing = bool(reason)
            if reason:
                self._log.warning("rates_unreachable", reason=reason, meaning=_UNREACHABLE)
            else:
                self._log.info("rates_reachable")


_UNREACHABLE: Final = "each worker keeps to its part of each rate, one message at a time"
