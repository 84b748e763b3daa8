"""Who lost a shard acknowledges nothing of it, and all who own it later agree on what is in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.domain.message import DotSent, RecipientState, Settle
from support.queue_keyspace import QueueKeyspace
from support.queue_stores import CassandraMachine, accept, due, log, soon, turns


@pytest.fixture
async def cluster(queue_keyspace: QueueKeyspace) -> AsyncIterator[CassandraMachine]:
    made = CassandraMachine(queue_keyspace)
    yield made
    made.gate.set()
    made.leases.set()
    await made.end()


async def test_who_cannot_renew_acknowledges_nothing_until_it_can(cluster: CassandraMachine) -> None:
    store = await cluster.open()
    await store.commit(accept(cluster, store, "before@y.test"), deadline=soon(cluster))
    cluster.leases.clear()
    await cluster.lapsed(store)
    waiting = asyncio.ensure_future(store.commit(accept(cluster, store, "later@y.test"), deadline=soon(cluster)))
    await turns(500)
    assert not waiting.done()
    cluster.leases.set()
    await waiting
    assert [each.address for each in await due(store)] == ["before@y.test", "later@y.test"]


async def test_a_worker_opens_although_the_store_does_not_confirm_at_once(cluster: CassandraMachine) -> None:
    """Each step of it once, as a store does that is slow: under load, or just started."""
    cluster.stumbles += ["INTO member", "INTO shard", "SET owner", "SET serving"]
    store = await cluster.open()
    assert not cluster.stumbles
    assert list(store.owned()) == list(range(16))


async def test_who_was_deposed_while_it_slept_acknowledges_nothing_and_begins_anew(cluster: CassandraMachine) -> None:
    asleep = await cluster.open()
    await asleep.commit(accept(cluster, asleep, "kept@y.test"), deadline=soon(cluster))
    cluster.leases.clear()  # as far as others can tell it is dead
    other = await cluster.open(past_leases=True)
    assert [each.address for each in await due(other)] == ["kept@y.test"]
    work = accept(cluster, asleep, "unsaid@y.test")
    with pytest.raises((StoreBusy, StoreInDoubt)):
        await asleep.commit(work, deadline=cluster.clock.monotonic() + 2.0)
    cluster.leases.set()
    await cluster.level()
    assert set(asleep.owned()).isdisjoint(other.owned())
    assert asleep.owned()
    found = [each.address for store in (asleep, other) for each in await due(store)]
    assert found == ["kept@y.test"]


async def test_a_row_that_appears_behind_a_takeover_is_nobodys(cluster: CassandraMachine) -> None:
    asleep = await cluster.open()
    await asleep.commit(accept(cluster, asleep, "kept@y.test"), deadline=soon(cluster))
    cluster.gate.clear()  # its next group is on the way to the store
    late = asyncio.ensure_future(asleep.commit(accept(cluster, asleep, "late@y.test"), deadline=soon(cluster)))
    await turns()
    cluster.leases.clear()
    second = await cluster.open(past_leases=True, past_gate=True)
    cluster.gate.set()  # and arrives now
    with pytest.raises((StoreBusy, StoreInDoubt)):
        await late
    await second.commit(accept(cluster, second, "new@y.test"), deadline=soon(cluster))
    await cluster.crash(second)
    await cluster.crash(asleep)
    third = await cluster.open(past_leases=True, past_gate=True)
    assert [each.address for each in await due(third)] == ["kept@y.test", "new@y.test"]
    assert await log(third) == [b'{"accepted":"kept@y.test"}', b'{"accepted":"new@y.test"}']


async def test_a_crash_loses_nothing_acknowledged_and_flags_what_may_have_left(cluster: CassandraMachine) -> None:
    first = await cluster.open()
    for number in range(40):
        await first.commit(accept(cluster, first, f"r{number}@y.test"), deadline=soon(cluster))
    waiting = await due(first)
    await first.commit(DotSent(waiting[0], 1), deadline=soon(cluster))
    await first.commit(Settle(waiting[1], RecipientState.DELIVERED, b'{"d":1}', attempts=1), deadline=soon(cluster))
    await cluster.crash(first)
    second = await cluster.open()
    found = {each.address: each for each in await due(second)}
    assert set(found) == {f"r{number}@y.test" for number in range(40)} - {waiting[1].address}
    assert [address for address, each in found.items() if each.in_doubt] == [waiting[0].address]
    assert len(await log(second)) == 41
    view = await second.recipient(waiting[1])
    assert view is not None
    assert view.state is RecipientState.DELIVERED


async def test_who_leaves_hands_its_queue_over_while_it_still_accepts(cluster: CassandraMachine) -> None:
    leaving = await cluster.open()
    for number in range(5):
        await leaving.commit(accept(cluster, leaving, f"r{number}@y.test"), deadline=soon(cluster))
    other = await cluster.open()
    cluster.leave(leaving)
    while len(other.owned()) < 15 or await due(leaving):  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.01)
    assert len(await due(other)) == 5
    await leaving.commit(accept(cluster, leaving, "last@y.test"), deadline=soon(cluster))
    assert len(leaving.owned()) == 1
    await cluster.close(leaving)
    assert len(await due(other)) == 6
