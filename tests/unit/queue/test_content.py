"""The content cache: bounded by octets, released by use, read once for all who wait."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.domain.errors import NotFound, StoreBusy
from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import Accept, Message, MessageKey
from pigeonry.queue.content import MESSAGE_OCTETS, ContentCache
from support.day_files import SetClock
from support.watched_store import WatchedStore


def message(serial: int) -> Message:
    return Message(MessageKey(3, 1, serial), "a", "d.test", "", EventMessage(MessageHeaders("x@y")), 1.0, 2.0)


BODY = b"x" * 1000
SIZE = len(BODY) + MESSAGE_OCTETS


async def opened() -> WatchedStore:
    store = WatchedStore(SetClock())
    await store.open()
    return store


async def test_what_was_put_is_got_without_the_store_until_its_last_use() -> None:
    store = await opened()
    cache = ContentCache(store, SIZE * 10)
    one = message(1)
    cache.put(one, BODY, uses=2)
    assert await cache.get(one.key) == (one, BODY)
    cache.release(one.key)
    assert await cache.get(one.key) == (one, BODY)
    assert store.reads == 0
    cache.release(one.key)
    assert cache.octets == 0
    cache.release(one.key)
    with pytest.raises(NotFound):
        await cache.get(one.key)


async def test_what_is_kept_is_had_without_waiting_and_nothing_is_read_for_it() -> None:
    store = await opened()
    cache = ContentCache(store, SIZE * 10)
    one = message(1)
    cache.put(one, BODY, uses=1)
    assert cache.kept(one.key) == (one, BODY)
    assert cache.kept(message(2).key) is None
    assert store.reads == 0


async def test_the_least_recently_used_makes_room() -> None:
    store = await opened()
    cache = ContentCache(store, SIZE * 8)
    messages = [message(n) for n in range(9)]
    for each in messages[:8]:
        cache.put(each, BODY, uses=1)
    await cache.get(messages[0].key)
    cache.put(messages[8], BODY, uses=1)
    assert cache.octets == SIZE * 8
    await cache.get(messages[0].key)
    with pytest.raises(NotFound):
        await cache.get(messages[1].key)


async def test_a_body_too_large_for_the_cache_is_read_each_time() -> None:
    store = await opened()
    cache = ContentCache(store, SIZE * 8 - 1)
    one = message(1)
    store.apply(Accept(one, BODY, (), ()))
    cache.put(one, BODY, uses=5)
    assert cache.octets == 0
    assert await cache.get(one.key) == (one, BODY)
    assert await cache.get(one.key) == (one, BODY)
    assert store.reads == 2


async def test_many_who_wait_for_one_message_read_it_once() -> None:
    store = await opened()
    cache = ContentCache(store, SIZE * 10)
    one = message(1)
    store.apply(Accept(one, BODY, (), ()))
    found = await asyncio.gather(*[cache.get(one.key) for _ in range(50)])
    assert store.reads == 1
    assert set(map(id, found)) == {id(found[0])} or all(each == (one, BODY) for each in found)
    cache.release(one.key)  # nobody put it in: it stays until its room is needed
    assert cache.octets == SIZE


async def test_all_who_wait_hear_of_a_fault_and_the_next_one_tries_again() -> None:
    store = await opened()
    cache = ContentCache(store, SIZE * 10)
    one = message(1)

    async def broken(_key):
        await asyncio.sleep(0)
        raise StoreBusy("disk")

    original, store.message = store.message, broken
    results = await asyncio.gather(*[cache.get(one.key) for _ in range(3)], return_exceptions=True)
    assert [type(each) for each in results] == [StoreBusy] * 3
    store.message = original
    store.apply(Accept(one, BODY, (), ()))
    assert await cache.get(one.key) == (one, BODY)


async def test_the_reader_may_be_cancelled_and_another_reads_instead() -> None:
    store = await opened()
    cache = ContentCache(store, SIZE * 10)
    one = message(1)
    store.apply(Accept(one, BODY, (), ()))
    first = asyncio.ensure_future(cache.get(one.key))
    second = asyncio.ensure_future(cache.get(one.key))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == (one, BODY)
    assert first.cancelled()
