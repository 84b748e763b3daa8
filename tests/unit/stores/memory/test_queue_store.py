"""What the store in memory does where nothing else is asked of a store: faults that a test plays, bounds, retention."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pigeonry.domain.errors import Conflict, StoreBusy, StoreInDoubt
from pigeonry.domain.message import Note, RecipientState, Settle
from pigeonry.stores.memory.queue_store import MemoryLimits, MemoryNode, MemoryStore
from support.day_files import DAY_S, SetClock, letter
from support.queue_stores import due, log, turns

SOON = 1e12


class Medium:
    """What a write meets: a gate, and the next errors."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def sync(self) -> None:
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop()


@asynccontextmanager
async def running(node: MemoryNode, clock: SetClock, **options) -> AsyncIterator[MemoryStore]:
    store = MemoryStore(node, clock=clock, **options)
    await store.open()
    task = asyncio.create_task(store.run())
    yield store
    await store.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_write_that_finds_no_room_stores_nothing_and_sheds_for_a_while() -> None:
    clock, medium = SetClock(), Medium()
    async with running(MemoryNode(), clock, sync=medium.sync) as store:
        medium.errors.append(OSError("no space"))
        with pytest.raises(StoreBusy):
            await store.commit(letter(store, "b@y.test"), deadline=SOON)
        assert store.reason_to_shed() == "the disk is full"
        with pytest.raises(StoreBusy):
            await store.commit(letter(store, "c@y.test"), deadline=SOON)
        clock.time += 1.0
        assert store.reason_to_shed() is None
        await store.commit(letter(store, "d@y.test"), deadline=SOON)
        assert [pending.address for pending in await due(store)] == ["d@y.test"]
        assert await log(store) == [b'{"accepted":"d@y.test"}']


async def test_after_a_sync_in_doubt_nothing_is_shown_and_the_successor_voids_by_last_words() -> None:
    node, clock, medium = MemoryNode(), SetClock(), Medium()
    async with running(node, clock, sync=medium.sync) as store:
        await store.commit(letter(store, "kept@y.test"), deadline=SOON)
        medium.errors.append(StoreInDoubt("perhaps"))
        with pytest.raises(StoreInDoubt):
            await store.commit(letter(store, "doubt@y.test"), deadline=SOON)
        assert store.broken.is_set()
        assert [pending.address for pending in await due(store)] == ["kept@y.test"]
        with pytest.raises(StoreBusy):
            await store.commit(Note(b"{}"), deadline=SOON)
        words = store.last_words()
    async with running(node, clock, last_words=words) as store:
        assert [pending.address for pending in await due(store)] == ["kept@y.test"]
        assert await log(store) == [b'{"accepted":"kept@y.test"}', b""]


async def test_bodies_and_backlog_are_bounded() -> None:
    clock, medium = SetClock(), Medium()
    limits = MemoryLimits(backlog_transitions_max=4, octets_max=1000)
    async with running(MemoryNode(), clock, sync=medium.sync, limits=limits) as store:
        spool = store.spool()
        spool.write(b"x" * 900)
        with pytest.raises(StoreBusy):
            spool.write(b"x" * 200)
        spool.discard()
        medium.gate.clear()
        tasks = [asyncio.ensure_future(store.commit(letter(store, "f@y.test"), deadline=SOON))]
        await turns()
        tasks += [asyncio.ensure_future(store.commit(letter(store, f"{n}@y.test"), deadline=SOON)) for n in range(4)]
        assert store.reason_to_shed() is not None
        with pytest.raises(StoreBusy):
            await store.commit(letter(store, "over@y.test"), deadline=SOON)
        medium.gate.set()
        await asyncio.gather(*tasks)
        await store.commit(letter(store, "big@y.test", body=b"x" * 1000), deadline=SOON)
        assert store.reason_to_shed() == "the memory is full"


async def test_what_is_over_is_forgotten_after_its_retention_and_what_waits_is_kept() -> None:
    node, clock = MemoryNode(), SetClock()
    async with running(node, clock, limits=MemoryLimits(retention_s=2 * DAY_S)) as store:
        gone, kept = letter(store, "gone@y.test", scope=b"s" * 32), letter(store, "kept@y.test")
        await store.commit(gone, deadline=SOON)
        await store.commit(kept, deadline=SOON)
        pending = (await due(store))[0]
        await store.commit(Settle(pending, RecipientState.DELIVERED, b"{}", attempts=1), deadline=SOON)
        clock.time += 3 * DAY_S + 1.0
        await store.commit(Note(b"late"), deadline=SOON)
        assert await store.body(gone.message.key) is None
        assert await store.body(kept.message.key) == b"body"
        (shard,) = store.shards()
        assert [(entry.seq, entry.octets) for entry in await store.tail(shard, after=0, limit=9)] == [(4, b"late")]
        assert node.octets == len(b"body")


async def test_shards_of_a_worker_that_ends_are_taken_over_by_its_fellow_and_no_shard_has_two_owners() -> None:
    node, clock = MemoryNode(shards=2), SetClock()
    old = MemoryStore(node, clock=clock)
    await old.open()
    old.apply(letter(old, "b@y.test"))
    async with running(node, clock) as new:
        assert set(new.owned()).isdisjoint(old.owned())
        with pytest.raises(Conflict):
            await MemoryStore(node, clock=clock).open()
        old.crash()
        assert list(new.owned()) == [0, 1]
        assert [pending.address for pending in await due(new)] == ["b@y.test"]
