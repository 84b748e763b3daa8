"""Workers that draw from one rate together use all of it, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import structlog

from pigeonry.domain.errors import StoreBusy
from pigeonry.ports.buckets import Bucket, Rate
from pigeonry.quota.rates import IDLE_S, Rates
from pigeonry.stores.memory.buckets import MemoryBuckets
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.loop import VirtualLoop

T = TypeVar("T")
HOUR_S = 3_600.0


class Shaky(MemoryBuckets):
    """Buckets that do not answer while a test says so."""

    fails = False
    draws = 0

    async def change(self, name: str, work: Callable[[Bucket | None], tuple[Bucket, T]]) -> T:
        if self.fails:
            raise StoreBusy("no")
        self.draws += 1
        return await super().change(name, work)


class Stage:
    """Some workers over one table."""

    def __init__(self, workers: int) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        table: dict[str, Bucket] = {}
        self.buckets = [Shaky(table) for _ in range(workers)]
        self.workers = [
            Rates(each, clock=self.clock, workers=lambda: workers, log=structlog.get_logger()) for each in self.buckets
        ]

    def play(self, story: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            await story()

        self.loop.play(main())
        self.loop.close()

    async def flood(self, rate: Rate, seconds: float, pause_s: float) -> int:
        """What all take together who ask all the time."""
        until, taken = self.clock.monotonic() + seconds, 0

        async def work(rates: Rates) -> None:
            nonlocal taken
            while self.clock.monotonic() < until:
                if await rates.take("r", rate):
                    await self.clock.sleep(pause_s)
                else:
                    taken += 1

        await asyncio.gather(*map(work, self.workers))
        return taken


@pytest.mark.parametrize(("limit", "workers"), [(10_000, 8), (20_000, 4), (7, 4)])
def test_workers_together_use_a_rate_to_one_percent(limit: int, workers: int) -> None:
    stage, rate = Stage(workers), Rate(limit, HOUR_S)

    async def story() -> None:
        assert await stage.flood(rate, 1.0, 0.1) <= limit * 1.001
        taken = await stage.flood(rate, HOUR_S, max(1.0, HOUR_S / limit))
        assert limit * 0.99 - 1 <= taken <= limit * 1.01 + 1

    stage.play(story)


def test_a_limit_of_many_costs_no_draw_for_each() -> None:
    stage = Stage(1)

    async def story() -> None:
        for _ in range(1_000):
            assert not await stage.workers[0].take("r", Rate(100_000, HOUR_S))
        assert stage.buckets[0].draws == 10

    stage.play(story)


def test_who_is_refused_is_told_when_there_is_room() -> None:
    stage, rate = Stage(1), Rate(60, HOUR_S)

    async def story() -> None:
        (worker,) = stage.workers
        assert not await worker.take("r", rate, 60)
        assert await worker.take("r", rate) == pytest.approx(60.0)
        await stage.clock.sleep(20.0)
        assert await worker.take("r", rate) == pytest.approx(40.0)
        await stage.clock.sleep(40.1)
        assert not await worker.take("r", rate)
        assert await worker.take("r", rate, 1_000) == pytest.approx(HOUR_S, rel=0.01)

    stage.play(story)


def test_what_a_worker_does_not_use_is_the_others_again() -> None:
    stage, rate = Stage(2), Rate(10_000, HOUR_S)

    async def story() -> None:
        one, two = stage.workers
        running = asyncio.ensure_future(one.run())
        assert not await one.take("r", rate)
        assert not await two.take("r", rate, 9_990)
        assert await two.take("r", rate, 9)
        await stage.clock.sleep(2 * IDLE_S)
        assert not await two.take("r", rate, 9)
        running.cancel()
        assert not await one.take("r", rate, 5)
        await one.close()
        assert not await two.take("r", rate, 9)

    stage.play(story)


def test_who_cannot_ask_keeps_to_a_safe_part_and_says_so() -> None:
    stage, rate = Stage(4), Rate(3_600, HOUR_S)

    async def story() -> None:
        for each in stage.buckets:
            each.fails = True
        taken = await stage.flood(rate, 400.0, 1.0)
        assert 390 <= taken <= 410
        assert all(worker.failing for worker in stage.workers)
        for each in stage.buckets:
            each.fails = False
        await stage.clock.sleep(1.0)
        assert not await stage.workers[0].take("r", rate, 100)
        assert not stage.workers[0].failing

    stage.play(story)
