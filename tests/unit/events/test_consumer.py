from __future__ import annotations

import contextlib

import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.events.consumer import PAGE, Consumer, IndexConsumer
from pigeonry.ports.event_index import IndexQuery
from pigeonry.ports.event_log import LogEntry
from pigeonry.stores.memory.event_index import MemoryEventIndex
from support.events import T0, SetClock, accepted, number

ALL = IndexQuery("mail.example", 0, 2**62, ascending=True, limit=10_000)


class Log:
    def __init__(self) -> None:
        self.entries: dict[int, list[LogEntry]] = {}

    def add(self, shard: int, *events: bytes) -> None:
        kept = self.entries.setdefault(shard, [])
        kept += [LogEntry(len(kept) + i, octets) for i, octets in enumerate(events, 1)]

    def shards(self) -> list[int]:
        return sorted(self.entries)

    async def tail(self, shard: int, *, after: int, limit: int) -> list[LogEntry]:
        return [entry for entry in self.entries[shard] if entry.seq > after][:limit]

    def head(self, shard: int) -> int:
        return len(self.entries[shard])


class Moody(MemoryEventIndex):
    """An index that fails as often as told."""

    def __init__(self, clock: SetClock) -> None:
        super().__init__(clock)
        self.failures: list[Exception] = []
        self.given_up: list[int] = []

    async def feed(self, shard, entries) -> None:
        if self.failures:
            raise self.failures.pop()
        await super().feed(shard, entries)

    async def give_up(self, shard: int) -> None:
        self.given_up.append(shard)


class TimeUp(BaseException):
    """Stands for the cancellation that ends a component."""


class EndingClock(SetClock):
    until = 0.0

    async def sleep(self, seconds: float) -> None:
        if self.time >= self.until:
            raise TimeUp
        await super().sleep(seconds)


class World:
    def __init__(self) -> None:
        self.clock = EndingClock()
        self.log = Log()
        self.index = Moody(self.clock)
        self.consumer = IndexConsumer(self.log, self.index, self.clock)

    async def run_until(self, time: float) -> None:
        self.clock.until = time
        with contextlib.suppress(TimeUp):
            await self.consumer.run()

    async def found(self) -> list[int]:
        return [number(octets) for _, octets in (await self.index.search(ALL)).items]


@pytest.fixture
def world() -> World:
    return World()


async def test_round_brings_every_shard_level(world: World):
    world.log.add(0, *[accepted(i, T0 - 100 + i / 100) for i in range(PAGE * 2 + 1)])
    world.log.add(3, accepted(9999, T0 - 200))
    assert world.consumer.lag() == PAGE * 2 + 2
    await world.consumer.round()
    assert world.consumer.lag() == 0
    assert len(await world.found()) == PAGE * 2 + 2
    assert await world.index.watermark() > T0 - 1


async def test_new_events_are_found_within_a_second(world: World):
    world.log.add(0, accepted(1, T0))
    await world.run_until(T0 + 1.0)
    assert await world.index.watermark() >= T0
    assert await world.found() == [1]


async def test_wiped_index_is_rebuilt_from_the_log(world: World):
    world.log.add(0, *[accepted(i, T0 - 10 + i) for i in range(5)])
    await world.consumer.round()
    before = await world.index.search(ALL)
    await world.index.wipe()
    await world.consumer.round()
    assert await world.index.search(ALL) == before


@pytest.mark.parametrize("failure", [StoreBusy("busy"), RuntimeError("a bug")])
async def test_failing_sink_is_tried_again_with_longer_pauses(world: World, failure: Exception):
    world.log.add(0, accepted(1, T0))
    world.index.failures = [failure] * 4
    await world.run_until(T0 + 4)
    assert world.clock.now() == T0 + 7  # after pauses of 1, 2 and 4 s
    assert await world.found() == []
    await world.run_until(T0 + 8)
    assert await world.found() == [1]


async def test_shard_that_cannot_be_followed_keeps_no_other_back(world: World):
    world.log.add(0, accepted(1, T0))
    world.log.add(1, accepted(2, T0))
    world.index.failures = [StoreBusy("busy")]
    with pytest.raises(StoreBusy):
        await world.consumer.round()
    assert await world.found() == [2]


async def test_shard_that_went_to_another_worker_is_given_up(world: World):
    world.log.add(0, accepted(1, T0))
    world.log.add(1, accepted(2, T0))
    await world.consumer.round()
    del world.log.entries[1]
    await world.consumer.round()
    assert world.index.given_up == [1]
    assert world.consumer.lag() == 0


async def test_sink_that_takes_nothing_is_an_error_and_no_endless_loop(world: World):
    class Deaf(Moody):
        async def feed(self, shard, entries) -> None:
            return

    world.log.add(0, accepted(1, T0))
    with pytest.raises(StoreBusy):
        await Consumer("deaf", world.log, Deaf(world.clock), world.clock).round()
