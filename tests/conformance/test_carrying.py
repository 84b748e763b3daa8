"""What waits for longer than a journal is kept is delivered all the same, by whoever owns it then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from pigeonry.domain.message import RecipientState, Settle
from support.queue_keyspace import QueueKeyspace
from support.queue_stores import CLUSTER_LIMITS, CassandraMachine, accept, due, soon

KEPT_S = 8.0  # of real time, which is what a row's time to live is: a machine may be four seconds late
LIMITS = msgspec.structs.replace(CLUSTER_LIMITS, retention_s=KEPT_S, checkpoint_s=0.5, checkpoint_again_s=1.0)
LARGE = 600 * 1024  # octets: three rows


@pytest.fixture
async def cluster(queue_keyspace: QueueKeyspace) -> AsyncIterator[CassandraMachine]:
    made = CassandraMachine(queue_keyspace)
    yield made
    await made.end()


async def test_a_message_due_after_its_journal_is_gone_is_delivered(
    cluster: CassandraMachine, queue_keyspace: QueueKeyspace
) -> None:
    session = await queue_keyspace.session()
    try:
        store = await cluster.open(limits=LIMITS)
        late = cluster.clock.now() + KEPT_S
        small = accept(cluster, store, "small@y.test", due=late)
        large = accept(cluster, store, "large@y.test", due=late + 1.0, body=b"x" * LARGE)
        spool = store.spool()
        spool.write(b"y" * LARGE)
        spooled = accept(cluster, store, "spooled@y.test", due=late + 2.0, body=await spool.finish())
        for work in (small, large, spooled):
            await store.commit(work, deadline=soon(cluster))
        shard = small.message.key.shard
        journal = f"SELECT number FROM journal WHERE shard = {shard} AND epoch = 1 AND bucket = 0"
        while await session.execute(journal, timeout_s=5.0):  # noqa: ASYNC110  # rows that expire tell nobody
            await asyncio.sleep(0.1)
        await cluster.crash(store)
        store = await cluster.open(limits=LIMITS)
        waiting = await due(store, until=late + 10.0)
        assert [each.address for each in waiting] == ["small@y.test", "large@y.test", "spooled@y.test"]
        bodies = [await store.body(each.message) for each in waiting]
        assert bodies == [b"body", b"x" * LARGE, b"y" * LARGE]
        for each in waiting:
            await store.commit(Settle(each, RecipientState.DELIVERED, b"{}", attempts=1), deadline=soon(cluster))
        assert await due(store, until=late + 10.0) == []
    finally:
        await session.close()
