"""Every event log is held to ``ports.event_log.EventLog``."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import Note, RecipientState, Settle, Void
from support.queue_stores import Node, Store, accept, due, log, soon, turns


async def test_a_log_without_events_is_empty(store: Store) -> None:
    assert store.shards() == []
    for shard in store.owned():
        assert store.head(shard) == 0
        assert list(await store.tail(shard, after=0, limit=10)) == []


async def test_a_note_is_in_the_log_and_nowhere_else(node: Node, store: Store) -> None:
    await store.commit(Note(b'{"n":1}'), deadline=soon(node))
    assert await log(store) == [b'{"n":1}']
    assert await due(store) == []


async def test_many_at_once_are_all_durable_with_a_gapless_log(node: Node, store: Store) -> None:
    works = [accept(node, store, f"r{n}@y.test") for n in range(500)]
    await asyncio.gather(*(store.commit(work, deadline=soon(node)) for work in works))
    assert len(await due(store, limit=1000)) == 500
    (shard,) = store.shards()
    entries = await store.tail(shard, after=0, limit=1000)
    assert [entry.seq for entry in entries] == list(range(1, 501))
    assert [entry.octets for entry in entries] == [work.events[0] for work in works]
    assert store.head(shard) == 500


async def test_a_cursor_goes_on_where_it_was_page_by_page(node: Node, store: Store) -> None:
    for number in range(7):
        await store.commit(Note(str(number).encode()), deadline=soon(node))
    (shard,) = store.shards()
    cursor, seen = 0, []
    while page := await store.tail(shard, after=cursor, limit=3):
        assert len(page) <= 3
        seen += [entry.octets for entry in page]
        cursor = page[-1].seq
    assert seen == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]
    assert cursor == store.head(shard) == 7


async def test_a_voided_messages_events_are_empty_and_keep_their_seqs(node: Node, store: Store) -> None:
    work = accept(node, store, "b@y.test", "c@y.test")
    await store.commit(work, deadline=soon(node))
    await store.commit(Note(b"{}"), deadline=soon(node))
    await store.commit(Void(work.message.key, 2), deadline=soon(node))
    (shard,) = store.shards()
    entries = [(entry.seq, entry.octets) for entry in await store.tail(shard, after=0, limit=10)]
    assert entries == [(1, b""), (2, b""), (3, b"{}")]


async def test_what_was_refused_leaves_no_gap(node: Node, store: Store) -> None:
    await store.commit(Note(b"1"), deadline=soon(node))
    with pytest.raises(StoreBusy):
        await store.commit(accept(node, store, "b@y.test"), deadline=node.clock.monotonic() - 1.0)
    await store.commit(Note(b"2"), deadline=soon(node))
    (shard,) = store.shards()
    assert [entry.seq for entry in await store.tail(shard, after=0, limit=10)] == [1, 2]


async def test_the_head_moves_when_the_commit_is_durable_and_not_before(node: Node, store: Store) -> None:
    await store.commit(Note(b"1"), deadline=soon(node))
    (shard,) = store.shards()
    node.gate.clear()
    task = asyncio.ensure_future(store.commit(Note(b"2"), deadline=soon(node)))
    await turns()
    assert store.head(shard) == 1
    assert list(await store.tail(shard, after=1, limit=10)) == []
    node.gate.set()
    await task
    assert store.head(shard) == 2


async def test_seqs_go_on_after_a_restart(node: Node) -> None:
    for number in range(3):
        store = await node.open()
        await store.commit(Note(str(number).encode()), deadline=soon(node))
        await node.close(store)
    store = await node.open()
    (shard,) = store.shards()
    assert store.head(shard) == 3
    entries = [(entry.seq, entry.octets) for entry in await store.tail(shard, after=0, limit=10)]
    assert entries == [(1, b"0"), (2, b"1"), (3, b"2")]


async def test_what_settles_an_older_message_stands_in_the_order_of_its_commit(node: Node, store: Store) -> None:
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    node.clock.time += 86_400.0
    await store.commit(accept(node, store, "c@y.test"), deadline=soon(node))
    await store.commit(Settle(pending, RecipientState.DELIVERED, b'{"d":1}', attempts=1), deadline=soon(node))
    await store.commit(Note(b"{}"), deadline=soon(node))
    (shard,) = store.shards()
    entries = [(entry.seq, entry.octets) for entry in await store.tail(shard, after=1, limit=10)]
    assert entries == [(2, b'{"accepted":"c@y.test"}'), (3, b'{"d":1}'), (4, b"{}")]
