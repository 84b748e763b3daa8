"""A window of the search index is rebuilt from the log, step by step, whatever is lost of it."""

from __future__ import annotations

import pytest

from pigeonry.domain.errors import NotOwner, StoreBusy
from pigeonry.domain.message import Note
from pigeonry.events.consumer import IndexConsumer
from pigeonry.events.rebuild import PAGE, Rebuild, Window
from pigeonry.ports.event_index import IndexQuery
from pigeonry.stores.memory.event_index import MemoryEventIndex
from pigeonry.stores.memory.queue_store import MemoryNode, MemoryStore
from support.day_files import SetClock
from support.events import accepted

ALL = IndexQuery("mail.example", 0, 2**62, ascending=True, limit=10_000)
HOUR = 3600.0


class World:
    """An hour of events, one each second, and the index of them."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.begun = self.clock.now()
        self.store = MemoryStore(MemoryNode(shards=1), clock=self.clock)
        self.index = MemoryEventIndex(self.clock)
        self.consumer = IndexConsumer(self.store, self.index, self.clock)
        self.rebuild = Rebuild(self.store, self.index)

    async def run(self) -> tuple[int, int]:
        """Rebuild twelve minutes; how many events were looked at, and how many added."""
        looked_at = added = 0
        for window in await self.rebuild.windows(self.begun + 1200.0, self.begun + 1920.0):
            after = window.after
            while after < window.last:
                step = await self.rebuild.step(Window(window.shard, after, window.last))
                looked_at, added, after = looked_at + step.after - after, added + step.added, step.after
        return looked_at, added


@pytest.fixture
async def world() -> World:
    world = World()
    await world.store.open()
    for second in range(int(HOUR)):
        world.clock.time += 1.0
        world.store.apply(Note(accepted(second, world.clock.time)))
    await world.consumer.round()
    return world


async def test_twelve_minutes_that_were_lost_are_complete_again_and_nothing_is_there_twice(world: World) -> None:
    before = (await world.index.search(ALL)).items
    here = world.index._shards[0]
    here.events = [each for each in here.events if not 1200 < each[0].seq <= 1920]
    assert len((await world.index.search(ALL)).items) == HOUR - 720
    looked_at, added = await world.run()
    assert (await world.index.search(ALL)).items == before
    assert added == 720
    assert PAGE > looked_at - 720 >= 120  # no more than the window and a minute on both sides
    assert await world.run() == (looked_at, 0)


async def test_an_index_that_has_not_come_as_far_is_waited_for(world: World) -> None:
    await world.index.wipe()
    with pytest.raises(StoreBusy):
        await world.run()
    await world.consumer.round()
    assert (await world.run())[1] == 0


async def test_a_shard_that_moved_is_said(world: World) -> None:
    (window,) = await world.rebuild.windows(0.0, 1e12)
    world.store.crash()
    with pytest.raises(NotOwner):
        await world.rebuild.step(window)
