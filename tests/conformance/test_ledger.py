"""Every queue store is held to ``ports.ledger.StoreLedger``."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pigeonry.domain.message import Accept, Pending, RecipientState, Settle, Void, minute_of
from pigeonry.ports.ledger import KEPT_S, Ledger, LedgerRow
from support.queue_stores import Node, Store, accept, due, soon

KILLABLE = pytest.mark.parametrize("made", ["memory", "sqlite-one-connection", "cassandra"], indirect=True)


def taken(node: Node, store: Store, *addresses: str, domain: str = "x.test", ago_s: float = 0.0) -> Accept:
    """A message of a domain that is accepted now, or was some time ago."""
    work = accept(node, store, *addresses)
    at = node.clock.now() - ago_s
    return msgspec.structs.replace(work, message=msgspec.structs.replace(work.message, domain=domain, accepted_at=at))


async def told(store: Store) -> Ledger:
    """The ledger of the one shard that has events."""
    (shard,) = store.shards()
    ledger = await store.ledger(shard)
    assert ledger is not None
    assert ledger.seq == store.head(shard)
    return ledger


def ended(pending: Pending, state: RecipientState) -> Settle:
    """The end of a recipient."""
    return Settle(pending, state, b'{"event":"end"}', attempts=1)


async def test_each_domain_and_minute_balances_as_recipients_come_to_their_ends(node: Node, store: Store) -> None:
    works = [
        taken(node, store, "a@y.test", "b@y.test", "c@y.test"),
        taken(node, store, "d@y.test", domain="z.test", ago_s=60.0),
    ]
    now, before = (minute_of(work.message.accepted_at) for work in works)
    for work in works:
        await store.commit(work, deadline=soon(node))
    ledger = await told(store)
    assert sorted(ledger.rows) == [LedgerRow("x.test", now, 3, 0, 0), LedgerRow("z.test", before, 1, 0, 0)]
    assert (ledger.pending, ledger.waiting) == (4, 4)
    waiting = {pending.address: pending for pending in await due(store)}
    assert {pending.accepted_minute for pending in waiting.values()} == {now, before}
    views = await store.recipients(waiting["d@y.test"].message)
    assert [view.pending.accepted_minute for view in views] == [before]
    for address, state in {
        "a@y.test": RecipientState.DELIVERED,
        "b@y.test": RecipientState.FAILED,
        "c@y.test": RecipientState.PENDING,
        "d@y.test": RecipientState.DELIVERED,
    }.items():
        await store.commit(ended(waiting[address], state), deadline=soon(node))
    ledger = await told(store)
    assert sorted(ledger.rows) == [LedgerRow("x.test", now, 3, 1, 1), LedgerRow("z.test", before, 1, 1, 0)]
    assert (ledger.pending, ledger.waiting) == (1, 1)


async def test_a_second_end_counts_no_more_than_it_is_an_event(node: Node, store: Store) -> None:
    await store.commit(taken(node, store, "a@y.test"), deadline=soon(node))
    (pending,) = await due(store)
    ends = [ended(pending, RecipientState.DELIVERED), ended(pending, RecipientState.FAILED)]
    await asyncio.gather(*(store.commit(end, deadline=soon(node)) for end in ends))
    ledger = await told(store)
    assert [(row.accepted, row.delivered, row.failed) for row in ledger.rows] == [(1, 1, 0)]
    assert (ledger.seq, ledger.pending, ledger.waiting) == (2, 0, 0)


async def test_what_was_voided_was_never_accepted(node: Node, store: Store) -> None:
    work = taken(node, store, "a@y.test", "b@y.test")
    await store.commit(work, deadline=soon(node))
    await store.commit(taken(node, store, "c@y.test"), deadline=soon(node))
    await store.commit(Void(work.message.key, 2), deadline=soon(node))
    ledger = await told(store)
    assert [(row.accepted, row.pending) for row in ledger.rows] == [(1, 1)]
    assert (ledger.pending, ledger.waiting) == (1, 1)


async def test_a_minute_is_told_of_while_it_is_young_or_something_of_it_waits(node: Node, store: Store) -> None:
    old = minute_of(node.clock.now() - KEPT_S) - 2
    await store.commit(taken(node, store, "a@y.test", ago_s=KEPT_S + 120.0), deadline=soon(node))
    assert [row.minute for row in (await told(store)).rows] == [old]
    (pending,) = await due(store)
    await store.commit(ended(pending, RecipientState.DELIVERED), deadline=soon(node))
    assert (await told(store)).rows == ()


@KILLABLE
async def test_a_successor_goes_on_with_what_was_counted(node: Node, store: Store) -> None:
    await store.commit(taken(node, store, "a@y.test", "b@y.test", "c@y.test"), deadline=soon(node))
    first, second, third = await due(store)
    await store.commit(ended(first, RecipientState.DELIVERED), deadline=soon(node))
    before = await told(store)
    await node.crash(store)
    store = await node.open()
    assert await told(store) == before
    await store.commit(ended(second, RecipientState.FAILED), deadline=soon(node))
    before = await told(store)
    await node.close(store)
    store = await node.open()
    assert await told(store) == before
    await store.commit(ended(third, RecipientState.DELIVERED), deadline=soon(node))
    ledger = await told(store)
    assert [(row.accepted, row.delivered, row.failed) for row in ledger.rows] == [(3, 2, 1)]
    assert (ledger.pending, ledger.waiting) == (0, 0)


async def test_a_shard_of_another_has_no_ledger_here(store: Store) -> None:
    assert await store.ledger(10_000) is None
