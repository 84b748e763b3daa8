"""An idempotency record in a cluster: every worker finds what counts, whoever wrote it and whatever happened to him."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import IdempotencyRecord, MessageKey, Void
from pigeonry.stores.cassandra.queue_store import CassandraStore
from pigeonry.stores.cassandra.records import Records
from pigeonry.stores.cassandra.shares import ShardRow
from support.queue_keyspace import QueueKeyspace
from support.queue_stores import CassandraMachine, accept, soon

SCOPE = b"k" * 32
ENOUGH_S = 20.0


@pytest.fixture
async def cluster(queue_keyspace: QueueKeyspace) -> AsyncIterator[CassandraMachine]:
    made = CassandraMachine(queue_keyspace)
    yield made
    made.gate.set()
    await made.end()


async def test_an_owner_that_died_before_it_confirmed_is_believed_once_its_shard_is_served_again(
    cluster: CassandraMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = await cluster.open(gated="SET confirmed")
    gated = cluster.gated
    other = await cluster.open()
    assert isinstance(other, CassandraStore)
    cluster.gate.clear()
    work = accept(cluster, dying, "r@y.test", scope=SCOPE)
    waiting = asyncio.ensure_future(dying.commit(work, deadline=soon(cluster)))
    while not gated.held:  # noqa: ASYNC110  # its group is durable then
        await asyncio.sleep(0.01)
    with pytest.raises(StoreBusy):
        await other.idempotent(SCOPE)
    moved, asked, read = asyncio.Event(), asyncio.Event(), other.shares.read

    async def late() -> list[ShardRow]:
        asked.set()
        await moved.wait()
        return list(await read())

    monkeypatch.setattr(other.shares, "read", late)
    answer = asyncio.ensure_future(other.idempotent(SCOPE))  # it has read the record, and asks for its owner now
    await asked.wait()
    await cluster.crash(dying)
    await asyncio.gather(waiting, return_exceptions=True)
    await cluster.open()
    moved.set()
    assert await answer == work.idempotency


async def test_the_record_of_a_message_that_was_voided_is_nobodys_answer(cluster: CassandraMachine) -> None:
    first, second = await cluster.open(), await cluster.open()
    work = accept(cluster, first, "r@y.test", scope=SCOPE)
    await first.commit(work, deadline=soon(cluster))
    assert await second.idempotent(SCOPE) == work.idempotency
    await first.commit(Void(work.message.key, 1), deadline=soon(cluster))
    assert await first.idempotent(SCOPE) is None
    async with asyncio.timeout(ENOUGH_S):
        while await second.idempotent(SCOPE) is not None:  # noqa: ASYNC110  # what follows the journal is not waited for
            await asyncio.sleep(0.01)
    again = accept(cluster, second, "r@y.test", scope=SCOPE)
    await second.commit(again, deadline=soon(cluster))
    assert await first.idempotent(SCOPE) == again.idempotency


async def test_what_arrives_late_of_one_attempt_changes_nothing_of_another(
    cluster: CassandraMachine, queue_keyspace: QueueKeyspace
) -> None:
    await cluster.open()
    session = await queue_keyspace.session()
    try:
        records = Records(session, kept_s=60.0, timeout_s=5.0)
        record = IdempotencyRecord(SCOPE, b"f" * 32, b"{}", 1e12)
        await records.put(record, MessageKey(1, 1, 7), epoch=1)
        await records.confirm(SCOPE, 1, 7)
        for late in (MessageKey(1, 1, 7), MessageKey(2, 1, 7)):
            await records.put(record, late, epoch=1)
        await records.confirm(SCOPE, 3, 9)  # and a confirmation that comes before what it confirms
        found = await records.find(SCOPE, now=0.0)
        assert [(each.shard, each.serial, each.confirmed) for each in found] == [(1, 7, True), (2, 7, False)]
        assert await records.find(SCOPE, now=1e13) == []
    finally:
        await session.close()


async def test_a_place_is_over_when_another_owner_has_read_it(cluster: CassandraMachine) -> None:
    dying, other = await cluster.open(), await cluster.open()
    place, number = dying.place(), int(dying.place().partition("/")[0])
    work = accept(cluster, dying, "r@y.test", scope=SCOPE)
    await dying.commit(work, deadline=soon(cluster))
    assert not await other.is_over(place)
    await cluster.crash(dying)
    async with asyncio.timeout(ENOUGH_S):
        while not await other.is_over(place):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
    assert number in other.owned()
    assert await other.idempotent(SCOPE) == work.idempotency
    assert not await other.is_over(other.place())
