"""What only a queue in files can do or suffer: segments that are torn, body files that are left, a successor's files."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from pigeonry.domain.message import DotSent, Note
from pigeonry.net.disk import LocalDisk
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.queue_store import RecoveryReport
from pigeonry.stores.sqlite.queue_store import SqliteStore
from support.day_files import accept_of
from support.queue_stores import ForwardClock, SqliteMachine, accept, due, soon


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SqliteMachine]:
    made = SqliteMachine(tmp_path)
    yield made
    await made.end()


def successor(root: Path, *, last_words: bytes = b"") -> SqliteStore:
    return SqliteStore(
        str(root),
        slot=0,
        slots=1,
        disk=LocalDisk(str(root)),
        lanes=ThreadLanes(),
        clock=ForwardClock(),
        last_words=last_words,
    )


async def test_last_words_void_a_message_before_anything_is_served(node: SqliteMachine, tmp_path: Path) -> None:
    store = await node.open()
    work = accept(node, store, "b@y.test")
    await store.commit(work, deadline=soon(node))
    store._writer.in_doubt.append(work.message.key)
    words = store.last_words()
    await node.close(store)
    after = successor(tmp_path, last_words=words)
    await after.open()
    assert await due(after) == []
    assert await after.message(work.message.key) is None
    await after.close()


async def test_what_waits_is_written_at_the_end_also_when_nobody_writes_any_more(tmp_path: Path) -> None:
    store = successor(tmp_path)
    await store.open()
    writing = asyncio.ensure_future(store.run())
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    handed = store.commit(Note(b'{"event":"x"}'), deadline=ForwardClock().monotonic() + 60.0)
    await asyncio.wait_for(store.close(), 10.0)
    await handed


class _Shelf(LocalDisk):
    """A disk whose folder of a shard cannot be read while ``spoilt`` names it."""

    spoilt = ""

    def list(self, folder: str) -> Sequence[str]:
        if self.spoilt and folder.endswith(self.spoilt):
            raise OSError(errno.EIO, "Input/output error")
        return super().list(folder)


class _Hurried(ForwardClock):
    """Whoever sleeps on it is awake again at once."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.02))


async def test_a_shard_that_is_taken_over_later_is_reported_with_what_was_mended(tmp_path: Path) -> None:
    clock, disk = _Hurried(), _Shelf(str(tmp_path))
    reports: asyncio.Queue[RecoveryReport] = asyncio.Queue()
    old, new = (
        SqliteStore(
            str(tmp_path), slot=0, slots=1, disk=disk, lanes=ThreadLanes(), clock=clock, taken=reports.put_nowait
        )
        for _ in range(2)
    )
    running = []
    for store in (old, new):
        await store.open()
        running.append(asyncio.create_task(store.run()))
    waits = accept_of(old.allocate(1), "b@y.test", due=clock.now())
    await old.commit(waits, deadline=clock.monotonic() + 10.0)
    (pending,) = await due(old)
    await old.commit(DotSent(pending, 1), deadline=clock.monotonic() + 10.0)
    shard = waits.message.key.shard
    disk.spoilt = f"{shard:04d}/segments"
    await old.close()
    report = await reports.get()
    assert (report.shard, report.repairs) == (shard, ("It cannot be taken over yet ([Errno 5] Input/output error).",))
    await new.commit(accept_of(new.allocate(1), "c@y.test", due=clock.now()), deadline=clock.monotonic() + 10.0)
    disk.spoilt = ""
    report = await reports.get()
    assert (report.shard, report.pending, report.in_doubt) == (shard, 1, 1)
    assert report.repairs == ("Held back 1 recipients whose last attempt may have been delivered.",)
    await new.close()
    for task in running:
        task.cancel()


async def test_a_discarded_spool_leaves_no_file(node: SqliteMachine, tmp_path: Path) -> None:
    store = await node.open()
    spool = store.spool()
    spool.write(b"x" * 600_000)
    await spool.finish()
    assert len(list(tmp_path.rglob("*.body"))) == 1  # noqa: ASYNC240  # nothing else runs
    spool.discard()
    await node.close(store)
    assert list(tmp_path.rglob("*.body")) == []  # noqa: ASYNC240  # nothing else runs


async def test_a_corrupt_tail_of_the_newest_segment_is_cut_off_and_said(node: SqliteMachine, tmp_path: Path) -> None:
    store = await node.open()
    work = accept(node, store, "b@y.test", body=b"kept")
    await store.commit(work, deadline=soon(node))
    await node.close(store)
    (segment,) = tmp_path.rglob("*.seg")  # noqa: ASYNC240  # nothing else runs
    with segment.open("ab") as file:
        file.write(b"torn")
    after = successor(tmp_path)
    reports = await after.open()
    assert any("Cut 4 octets" in repair for report in reports for repair in report.repairs)
    assert await after.body(work.message.key) == b"kept"
    await after.close()
