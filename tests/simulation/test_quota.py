"""Members on virtual time whose clocks run unevenly, whose store fails and hangs, and who stand still now and then.

At every step what they may use adds up to no more than the limit; and once the world calms down, all of the limit is in
use again, by all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.net.disk import LocalDisk
from pigeonry.ports.quota import FORGOTTEN_S, TTL_S
from pigeonry.quota import witness
from pigeonry.quota.shares import TURN_S, Shares
from pigeonry.stores.memory.quota import MemoryQuota, Table
from pigeonry.stores.sqlite.quota import SqliteQuota
from pigeonry.testing.clock import VirtualClock, VirtualLanes
from pigeonry.testing.dice import SeededDice, SeededIds
from pigeonry.testing.loop import VirtualLoop

SEEDS = 40
STORM_S = 40.0
CALM_S = 15.0


class Silent:
    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None


class Skewed:
    """A monotonic clock that runs at a rate of its own, and a wall clock that is set at random."""

    def __init__(self, loop: VirtualLoop, dice: SeededDice) -> None:
        self._loop = loop
        self._dice = dice
        self._rate = dice.between(0.92, 1.08)
        self._start = dice.between(0.0, 1e6)

    def now(self) -> float:
        return self._dice.between(0.0, 2e9)

    def monotonic(self) -> float:
        return self._start + self._loop.time() * self._rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._rate)


class Unreliable:
    """A store that is slow, hangs, loses requests and loses answers; what was asked of it happens in order."""

    def __init__(self, quota: Any, world: World, dice: SeededDice) -> None:
        self._quota = quota
        self._world = world
        self._dice = dice
        self._last: asyncio.Future[Any] | None = None
        self.cut_until = 0.0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            task = self._last = asyncio.ensure_future(self._do(self._last, name, args, kwargs))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may be gone
            return await asyncio.shield(task)

        return call

    async def _do(self, before: asyncio.Future[Any] | None, name: str, args: Any, kwargs: Any) -> Any:
        if before is not None:
            await asyncio.wait([before])
        storm, loop = self._world.storm, asyncio.get_running_loop()
        await asyncio.sleep(self._dice.between(0.0, 0.3 if storm else 0.01))
        if loop.time() < self.cut_until:
            if self._dice.chance(0.5):
                await asyncio.sleep(self.cut_until - loop.time())
            else:
                raise StoreBusy("cut off")
        if storm and self._dice.chance(0.1):
            raise StoreBusy("lost on the way")
        result = await getattr(self._quota, name)(*args, **kwargs)
        if storm and self._dice.chance(0.1):
            await asyncio.sleep(self._dice.between(0.0, 2 * TTL_S))
        if storm and self._dice.chance(0.1):
            raise StoreInDoubt("the answer was lost")
        return result


class Worker:
    """Takes and gives units, as much as its mood has it."""

    def __init__(self, world: World, number: int, engine: Any) -> None:
        self.world = world
        self.dice = world.dice.fork(f"worker {number}")
        self.clock = Skewed(world.loop, self.dice.fork("clock"))
        self.store = Unreliable(engine(self.clock), world, self.dice.fork("store"))
        self.shares = Shares(
            self.store,  # type: ignore[arg-type]
            name=f"w{number}",
            clock=self.clock,
            ids=SeededIds(f"{world.seed}/{number}"),
            log=Silent(),  # type: ignore[arg-type]
        )
        self.share = self.shares.share("x", world.limit)
        self.share.needed = lambda: self.share.used + self.waiting
        self.share.changed = self.work
        self.waiting = 0
        self.still = False
        self.served_at = 0.0

    def work(self) -> None:
        """Begin what waits; end at once what is too much."""
        if self.still:
            return
        while (self.waiting or not self.world.storm) and self.share.take():
            self.waiting = self.waiting - 1 if self.world.storm else 30
            self.served_at = self.world.loop.time()
            self.world.loop.call_later(self.dice.between(0.0, 2.0 if self.world.storm else 0.2), self.end)
        self.world.check()

    def end(self) -> None:
        if self.still:  # its process does nothing; what it has in use stays so
            self.world.loop.call_later(0.5, self.end)
            return
        self.share.give()
        self.work()

    async def live(self) -> None:
        running = asyncio.ensure_future(self.shares.run())
        loop = self.world.loop
        while self.world.storm:
            await asyncio.sleep(self.dice.between(0.0, 1.0))
            if self.dice.chance(0.5):
                self.waiting = self.dice.count(0, 30)
            if self.dice.chance(0.03):
                self.store.cut_until = loop.time() + self.dice.choose((1.0, 2 * TTL_S, 4 * TTL_S))
            if self.dice.chance(0.03):
                self.still = True
                self.store.cut_until = loop.time() + self.dice.between(0.0, 3 * TTL_S)
                await asyncio.sleep(self.store.cut_until - loop.time())
                self.still = False
            self.work()
        while True:
            self.waiting = 30
            self.work()
            await asyncio.sleep(0.5)
            assert not running.done()


class World:
    def __init__(self, seed: str, engine: str, folder: Any) -> None:
        self.seed = seed
        self.dice = SeededDice(seed)
        self.loop = VirtualLoop()
        self.limit = self.dice.choose((1, 2, 3, 7, 20))
        self.storm = True
        self.highest = 0
        table = Table()
        lanes = VirtualLanes(self.loop, self.dice.fork("lanes"))

        def make(clock: Skewed) -> Any:
            if engine == "memory":
                return MemoryQuota(clock, table)
            lane_clock = VirtualClock(self.loop)  # all processes of a machine have the same one
            return SqliteQuota(
                f"{folder}/quota.db", disk=LocalDisk(str(folder)), lane=lanes.lane("x"), clock=lane_clock
            )

        self.workers = [Worker(self, number, make) for number in range(self.dice.count(2, 5))]

    def check(self) -> None:
        """What all of them may use, or still use of what was granted to a session that goes on.

        What was begun in a session that is over ends when it ends: others may have its units by then.
        """
        total = 0
        for worker in self.workers:
            worker.shares.check()
            share = worker.share
            goes_on = worker.shares._session and not worker.shares._former
            total += max(share.allowed, min(share.used, share.units)) if goes_on else share.allowed
        self.highest = max(self.highest, total)
        assert total <= self.limit, f"{self.seed}: {total} of {self.limit} at {self.loop.time()}"

    async def main(self) -> None:
        lives = [asyncio.ensure_future(worker.live()) for worker in self.workers]
        await asyncio.sleep(STORM_S)
        self.storm = False
        began = self.loop.time()
        await asyncio.sleep(CALM_S + TURN_S * len(self.workers))
        for life in lives:
            if life.done():
                life.result()
            life.cancel()
        shares = [worker.share.allowed for worker in self.workers]
        assert sum(shares) >= self.limit - 1, f"{self.seed}: {shares} of {self.limit}"  # one may be changing hands
        if self.limit >= len(shares):
            assert max(shares) - min(shares) <= 1, f"{self.seed}: {shares} of {self.limit}"
        assert all(worker.served_at > began for worker in self.workers), f"{self.seed}: somebody had no turn"


def play(seed: str, engine: str, folder: Any) -> bool:
    """Whether the limit was reached."""
    world = World(seed, engine, folder)
    world.loop.set_exception_handler(lambda _loop, context: failures.append(context))
    failures: list[Any] = []
    world.loop.play(world.main())
    broken = [context["exception"] for context in failures if isinstance(context.get("exception"), AssertionError)]
    if broken:
        raise broken[0]
    return world.highest == world.limit


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
def test_what_members_may_use_never_exceeds_the_limit_and_all_of_it_is_used_in_the_end(engine: str, tmp_path: Any):
    reached = 0
    for seed in range(SEEDS if engine == "memory" else SEEDS // 10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        reached += play(f"quota {seed}", engine, folder)
    assert reached


def test_witness_who_is_too_quick_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setattr(witness, "MARGIN", 0.3)

    def play_all() -> None:
        for seed in range(SEEDS):
            play(f"quota {seed}", "memory", tmp_path)

    with pytest.raises(AssertionError, match="of"):
        play_all()


def test_member_that_is_cut_off_goes_on_with_its_safe_share_and_stops_when_it_is_forgotten(tmp_path: Any):
    world = World("cut off", "memory", tmp_path)
    world.limit, world.storm = 20, False
    one, other, *_ = world.workers

    async def main() -> None:
        lives = [asyncio.ensure_future(worker.live()) for worker in (one, other)]
        await asyncio.sleep(5.0)
        assert (one.share.allowed, other.share.allowed) == (10, 10)
        one.store.cut_until = world.loop.time() + 2 * FORGOTTEN_S
        await asyncio.sleep(2 * TTL_S + 2.0)
        assert (one.share.allowed, other.share.allowed) == (6, 14)
        assert one.shares.shrunk
        await asyncio.sleep(1.3 * FORGOTTEN_S)
        assert (one.share.allowed, other.share.allowed) == (0, 20)
        await asyncio.sleep(FORGOTTEN_S)
        assert (one.share.allowed, other.share.allowed) == (10, 10)
        for life in lives:
            life.cancel()

    for worker in (one, other):
        worker.share.limit = 20
    world.loop.play(main())
