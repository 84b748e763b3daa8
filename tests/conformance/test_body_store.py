"""Every body store is held to ``ports.body_store.BodyStore``."""

from __future__ import annotations

import msgspec
import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import BodyRef
from support.queue_stores import Node, Store, accept, soon

SMALL = 256 * 1024


@pytest.mark.parametrize("octets", [0, 10, SMALL, SMALL + 1, 3_000_000])
async def test_a_spooled_body_comes_back_octet_for_octet(node: Node, store: Store, octets: int) -> None:
    body = bytes(range(256)) * (octets // 256) + b"x" * (octets % 256)
    spool = store.spool()
    for at in range(0, len(body), 100_000):
        spool.write(memoryview(body)[at : at + 100_000])
    assert spool.length == octets
    finished = await spool.finish()
    assert isinstance(finished, bytes) == (octets <= SMALL)
    work = accept(node, store, "b@y.test", body=finished)
    await store.commit(work, deadline=soon(node))
    assert await store.body(work.message.key) == body


async def test_a_large_body_can_be_read_by_its_reference_also_after_a_restart(node: Node) -> None:
    store = await node.open()
    ref = await _spooled(store, b"x" * 600_000)
    work = accept(node, store, "b@y.test", body=ref)
    await store.commit(work, deadline=soon(node))
    assert await store.read(ref) == b"x" * 600_000
    await node.close(store)
    store = await node.open()
    assert await store.read(ref) == b"x" * 600_000
    assert await store.body(work.message.key) == b"x" * 600_000


async def test_bodies_received_at_once_do_not_mix(node: Node, store: Store) -> None:
    one, two = store.spool(), store.spool()
    for _ in range(4):
        one.write(b"1" * 100_000)
        two.write(b"2" * 100_000)
    refs = [await one.finish(), await two.finish()]
    works = [accept(node, store, "b@y.test", body=ref) for ref in refs]
    for work in works:
        await store.commit(work, deadline=soon(node))
    assert [await store.body(work.message.key) for work in works] == [b"1" * 400_000, b"2" * 400_000]


async def test_octets_that_do_not_match_their_checksum_are_not_given_out(store: Store) -> None:
    ref = await _spooled(store, b"x" * 600_000)
    with pytest.raises(StoreBusy):
        await store.read(msgspec.structs.replace(ref, crc=ref.crc ^ 1))


async def test_a_spool_may_be_discarded_at_any_time(store: Store) -> None:
    fresh, begun, large = store.spool(), store.spool(), store.spool()
    begun.write(b"x" * 1000)
    large.write(b"x" * 600_000)
    for spool in (fresh, begun, large):
        spool.discard()
        spool.discard()
    small = store.spool()
    small.write(b"x")
    await small.finish()
    small.discard()


# In a cluster it leaves by its time to live: nobody can tell an abandoned body from one whose door is about to accept.
@pytest.mark.parametrize("made", ["memory", "sqlite", "sqlite-one-connection"], indirect=True)
async def test_what_was_finished_and_never_accepted_is_gone_after_a_restart(node: Node) -> None:
    store = await node.open()
    ref = await _spooled(store, b"x" * 600_000)
    await store.commit(accept(node, store, "b@y.test"), deadline=soon(node))
    await node.close(store)
    store = await node.open()
    with pytest.raises(StoreBusy):
        await store.read(ref)


async def _spooled(store: Store, body: bytes) -> BodyRef:
    spool = store.spool()
    spool.write(body)
    finished = await spool.finish()
    assert isinstance(finished, BodyRef)
    return finished
