"""A queue over a store in memory, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pigeonry.domain.message import Pending
from pigeonry.queue.content import ContentCache
from pigeonry.queue.event_ids import EventIds
from pigeonry.queue.intake import Intake
from pigeonry.queue.scheduler import Scheduler, SchedulerLimits
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededDice, SeededIds
from pigeonry.testing.loop import VirtualLoop
from support.watched_store import WatchedStore

LIMITS = SchedulerLimits(recipients_max=40, horizon_s=60.0, page=8, settle_deadline_s=5.0)


class Rig:
    """The queue, wired; what was dispatched is in ``dispatched``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: SchedulerLimits = LIMITS) -> None:
        self.clock = VirtualClock(loop)
        self.store = WatchedStore(self.clock)
        self.dice = SeededDice("unit")
        self.event_ids = EventIds(b"k" * 32)
        self.content = ContentCache(self.store, 1 << 20)
        self.scheduler = Scheduler(self.store, self.clock, self.dice, limits, content=self.content)
        self.dispatched: list[Pending] = []
        self.scheduler.dispatch = self.dispatched.append
        self.intake = Intake(
            self.store,
            self.scheduler,
            self.clock,
            SeededIds("unit"),
            event_ids=self.event_ids,
            content=self.content,
        )

    def deadline(self) -> float:
        return self.clock.monotonic() + 10.0


@pytest.fixture
def play() -> Callable[[Callable[[Rig], Awaitable[Any]]], None]:
    """Runs a story with a rig whose scheduler runs."""

    def run(story: Callable[[Rig], Awaitable[Any]], limits: SchedulerLimits = LIMITS) -> None:
        loop = VirtualLoop()

        async def main() -> None:
            rig = Rig(loop, limits)
            await rig.store.open()
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(rig.scheduler.run())
                await rig.clock.sleep(0.001)
                await story(rig)
                running.cancel()

        loop.play(main())

    return run
