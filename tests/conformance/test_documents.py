"""Every store of documents is held to ``ports.documents.Documents``, with two instances over one store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest

from pigeonry.domain.errors import Conflict, StoreBusy, StoreInDoubt, TooLarge
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemClock, SystemDice, SystemIds
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.documents import Documents
from pigeonry.stores.cassandra import documents
from pigeonry.stores.cassandra.documents import CassandraDocuments
from pigeonry.stores.cassandra.session import Session
from pigeonry.stores.memory.documents import MemoryDocuments, Shelf
from pigeonry.stores.sqlite.documents import SqliteDocuments
from pigeonry.stores.sqlite.shared_file import SharedFile, WrongSchema
from pigeonry.testing.cassandra import Cluster
from support.cassandra_leases import LEASE_KEYSPACE, lease_sessions
from support.tenancy import HandClock

Two = tuple[Documents, Documents]


@pytest.fixture(params=["memory", "sqlite", "cassandra"])
def engine(request: pytest.FixtureRequest) -> str | Cluster:
    """Which store; for Cassandra its node, which starts where no loop runs."""
    return request.getfixturevalue("cassandra") if request.param == "cassandra" else request.param


@pytest.fixture
async def two(engine: str | Cluster, tmp_path) -> AsyncIterator[Two]:
    """Two instances over the same documents, as two workers have them."""
    if not isinstance(engine, str):
        async with lease_sessions(engine, 2) as sessions:
            name = uuid4().hex
            yield cassandra_store(sessions[0], name), cassandra_store(sessions[1], name)
        return
    if engine == "memory":
        shelf = Shelf()
        yield MemoryDocuments(shelf), MemoryDocuments(shelf)
        return
    lanes = [ThreadLanes().lane("one"), ThreadLanes().lane("two")]
    stores = [sqlite(tmp_path, lane) for lane in lanes]
    yield stores[0], stores[1]
    for store, lane in zip(stores, lanes, strict=True):
        await store.close()
        lane.close()


def sqlite(folder, lane, **options) -> SqliteDocuments:
    disk = LocalDisk(str(folder))
    return SqliteDocuments(str(folder / "identity.db"), disk=disk, lane=lane, clock=SystemClock(), **options)


class Cassandra(CassandraDocuments):
    """One whose writing of documents can fail."""

    async def _told_nobody(self, *_: object) -> None:
        raise StoreBusy("gone")


def cassandra_store(session: Session, name: str, **options) -> Cassandra:
    parts = {"clock": SystemClock(), "dice": SystemDice(), "ids": SystemIds()}
    return Cassandra(session, keyspace=LEASE_KEYSPACE, name=name, **{**parts, **options})


Pair = tuple[Cassandra, Cassandra, HandClock]


@pytest.fixture
async def pair(cassandra: Cluster) -> AsyncIterator[Pair]:
    """Two over the same documents, on a clock that stands."""
    async with lease_sessions(cassandra, 1) as (session,):
        name, clock = uuid4().hex, HandClock()
        yield cassandra_store(session, name, clock=clock), cassandra_store(session, name, clock=clock), clock


async def test_document_put_by_one_instance_is_read_by_the_other(two: Two):
    one, other = two
    made = await one.put("domain", "a.example", b"{}", expect=0)
    assert made.version == 1
    assert await other.get("domain", "a.example") == made
    assert await other.get("account", "a.example") is None


async def test_creating_what_exists_is_a_conflict_and_changes_nothing(two: Two):
    one, other = two
    await one.put("domain", "a", b"1", expect=0)
    with pytest.raises(Conflict):
        await other.put("domain", "a", b"2", expect=0)
    found = await other.get("domain", "a")
    assert found is not None
    assert (found.value, found.version) == (b"1", 1)


async def test_change_needs_the_version_that_stands(two: Two):
    one, other = two
    await one.put("domain", "a", b"1", expect=0)
    assert (await other.put("domain", "a", b"2", expect=1)).version == 2
    with pytest.raises(Conflict):
        await one.put("domain", "a", b"3", expect=1)
    assert (await one.put("domain", "a", b"4", expect=None)).version == 3


async def test_changing_what_is_not_there_is_a_conflict(two: Two):
    one, _ = two
    with pytest.raises(Conflict):
        await one.put("domain", "a", b"1", expect=1)
    assert await one.changes(after=0) == []


async def test_delete_says_whether_there_was_one(two: Two):
    one, other = two
    await one.put("domain", "a", b"1", expect=0)
    assert await other.delete("domain", "a", expect=None) is True
    assert await one.get("domain", "a") is None
    assert await one.delete("domain", "a", expect=None) is False


async def test_delete_of_another_version_is_a_conflict(two: Two):
    one, _ = two
    await one.put("domain", "a", b"1", expect=0)
    with pytest.raises(Conflict):
        await one.delete("domain", "a", expect=7)
    with pytest.raises(Conflict):
        await one.delete("domain", "b", expect=1)
    assert await one.get("domain", "a") is not None


async def test_document_made_again_after_its_deletion_starts_at_version_one(two: Two):
    one, _ = two
    await one.put("domain", "a", b"1", expect=0)
    await one.delete("domain", "a", expect=1)
    assert (await one.put("domain", "a", b"2", expect=0)).version == 1


async def test_value_at_the_limit_is_stored_and_one_over_it_is_not(two: Two):
    one, _ = two
    await one.put("domain", "a", bytes(64 * 1024), expect=0)
    with pytest.raises(TooLarge):
        await one.put("domain", "b", bytes(64 * 1024 + 1), expect=0)
    assert [d.id for d in await one.list("domain")] == ["a"]


async def test_list_is_in_the_order_of_ids_and_pages_by_prefix(two: Two):
    one, other = two
    for name in ("b/2", "a/1", "b/1", "b/3", "c/1", "b/ä", "b/𝄞"):
        await one.put("suppression", name, b"", expect=0)
    await one.put("domain", "b/0", b"", expect=0)
    assert [d.id for d in await other.list("suppression")] == ["a/1", "b/1", "b/2", "b/3", "b/ä", "b/𝄞", "c/1"]
    assert [d.id for d in await other.list("suppression", prefix="b/")] == ["b/1", "b/2", "b/3", "b/ä", "b/𝄞"]
    assert [d.id for d in await other.list("suppression", prefix="b/", after="b/1", limit=2)] == ["b/2", "b/3"]
    assert await other.list("suppression", prefix="d") == []
    await other.delete("suppression", "b/2", expect=None)
    assert [d.id for d in await one.list("suppression", prefix="b/", limit=2)] == ["b/1", "b/3"]


async def test_feed_shows_each_document_once_as_it_is_now(two: Two):
    one, other = two
    await one.put("domain", "a", b"1", expect=0)
    await one.put("domain", "b", b"1", expect=0)
    await other.put("domain", "a", b"2", expect=1)
    feed = await one.changes(after=0)
    assert [(c.id, c.document and c.document.value) for c in feed] == [("b", b"1"), ("a", b"2")]
    assert [c.document and c.document.version for c in feed] == [1, 2]


async def test_feed_goes_on_behind_a_position_with_changes_of_either_instance(two: Two):
    one, other = two
    await one.put("domain", "a", b"1", expect=0)
    position = (await one.changes(after=0))[-1].position
    assert await other.changes(after=position) == []
    await other.put("domain", "b", b"1", expect=0)
    await one.delete("domain", "a", expect=None)
    behind = await one.changes(after=position)
    assert [(c.kind, c.id, c.document is None) for c in behind] == [("domain", "b", False), ("domain", "a", True)]
    assert position < behind[0].position < behind[1].position


async def test_feed_pages_without_a_gap_or_a_repetition(two: Two):
    one, other = two
    for number in range(25):
        await one.put("domain", f"{number:02}", b"", expect=0)
    position, seen = 0, []
    while page := await other.changes(after=position, limit=10):
        assert len(page) <= 10
        seen += [change.id for change in page]
        position = page[-1].position
    assert seen == [f"{number:02}" for number in range(25)]


async def test_position_rises_also_after_the_newest_document_was_deleted(two: Two):
    one, _ = two
    await one.put("domain", "a", b"", expect=0)
    await one.delete("domain", "a", expect=None)
    position = (await one.changes(after=0))[-1].position
    await one.put("domain", "a", b"", expect=0)
    assert [c.position > position for c in await one.changes(after=0)] == [True]


async def test_of_many_that_change_one_version_only_one_succeeds(two: Two):
    one, other = two
    await one.put("domain", "a", b"", expect=0)
    tries = [store.put("domain", "a", b"%d" % n, expect=1) for n in range(10) for store in (one, other)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 19


async def test_sqlite_keeps_documents_and_positions_over_a_restart(tmp_path):
    lane = ThreadLanes().lane("documents")
    first = sqlite(tmp_path, lane)
    await first.put("domain", "a", b"1", expect=0)
    await first.delete("domain", "a", expect=None)
    await first.put("domain", "b", b"2", expect=0)
    feed = await first.changes(after=0)
    await first.close()
    second = sqlite(tmp_path, lane)
    assert await second.changes(after=0) == feed
    await second.put("domain", "c", b"3", expect=0)
    assert (await second.changes(after=0))[-1].position > feed[-1].position
    await second.close()
    lane.close()


async def test_sqlite_store_that_stays_locked_is_busy_by_the_deadline_and_stores_nothing(tmp_path):
    lanes = [ThreadLanes().lane("one"), ThreadLanes().lane("two")]
    store, other = sqlite(tmp_path, lanes[0], timeout_s=0.05), sqlite(tmp_path, lanes[1])
    await store.open()
    locker = SharedFile(
        str(tmp_path / "identity.db"), disk=LocalDisk(str(tmp_path)), lane=lanes[1], clock=SystemClock(), schema=""
    )

    def hold(connection) -> None:
        with pytest.raises(StoreBusy):
            asyncio.run(store.put("domain", "a", b"", expect=0))

    await locker.write(hold)
    assert await other.get("domain", "a") is None
    assert (await store.put("domain", "a", b"", expect=0)).version == 1
    await close(lanes, store.close, other.close, locker.close)


async def test_sqlite_file_of_a_newer_program_is_refused(tmp_path):
    lane = ThreadLanes().lane("documents")
    store = sqlite(tmp_path, lane)
    await store.open()
    newer = SharedFile(
        str(tmp_path / "identity.db"), disk=LocalDisk(str(tmp_path)), lane=lane, clock=SystemClock(), schema=""
    )
    await newer.write(lambda connection: connection.pragma("user_version", 99))
    await store.close()
    with pytest.raises(WrongSchema, match="newer version"):
        await store.open()
    await close([lane], newer.close)


async def test_sqlite_file_that_is_no_database_is_busy_and_left_as_it_is(tmp_path):
    (tmp_path / "identity.db").write_bytes(b"this is not a database, whatever it may be" * 100)
    before = (tmp_path / "identity.db").read_bytes()
    lane = ThreadLanes().lane("documents")
    store = sqlite(tmp_path, lane)
    with pytest.raises(StoreBusy):
        await store.get("domain", "a")
    assert (tmp_path / "identity.db").read_bytes() == before
    await close([lane], store.close)


async def test_sqlite_file_is_readable_by_its_owner_only(tmp_path):
    lane = ThreadLanes().lane("documents")
    store = sqlite(tmp_path, lane)
    await store.put("domain", "a", b"", expect=0)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
    await close([lane], store.close)


async def test_sqlite_forgets_tombstones_that_are_a_month_old(tmp_path):
    class LateClock(SystemClock):
        ahead_s = 0.0

        def now(self) -> float:
            return super().now() + self.ahead_s

    lane = ThreadLanes().lane("documents")
    clock = LateClock()
    store = SqliteDocuments(str(tmp_path / "d.db"), disk=LocalDisk(str(tmp_path)), lane=lane, clock=clock)
    for name in ("a", "b"):
        await store.put("domain", name, b"", expect=0)
    await store.delete("domain", "a", expect=None)
    assert [c.id for c in await store.changes(after=0)] == ["b", "a"]
    clock.ahead_s = 31 * 86_400.0
    await store.delete("domain", "b", expect=None)
    assert [c.id for c in await store.changes(after=0)] == ["b"]
    await close([lane], store.close)


async def close(lanes, *closers: Callable) -> None:
    for closer in closers:
        await closer()
    for lane in lanes:
        lane.close()


async def test_cassandra_change_is_known_although_its_writer_died_before_it_told_anybody(pair: Pair):
    """The log has it: followers learn of it at their next look without a bell, and see to its document."""
    one, other, clock = pair
    await one.put("domain", "a", b"1", expect=0)
    (seen,) = await other.changes(after=0)
    assert await other.changes(after=seen.position) == []
    one._keep = one._told_nobody  # type: ignore[method-assign]
    with pytest.raises(StoreInDoubt):
        await one.put("domain", "a", b"2", expect=1)
    assert await other.changes(after=seen.position) == []
    clock.at += 2.1
    (missed,) = await other.changes(after=seen.position)
    assert missed.document is not None
    assert missed.document.value == b"2"
    assert (await other.get("domain", "a")).value == b"1"
    assert await other.changes(after=missed.position) == []
    assert (await other.get("domain", "a")).value == b"2"


async def test_cassandra_next_writer_believes_the_log_and_not_a_document_that_is_behind_it(pair: Pair):
    one, other, _ = pair
    await one.put("domain", "a", b"1", expect=0)
    one._keep = one._told_nobody  # type: ignore[method-assign]
    with pytest.raises(StoreInDoubt):
        await one.put("domain", "a", b"2", expect=1)
    with pytest.raises(Conflict):
        await other.put("domain", "a", b"3", expect=1)
    assert (await other.put("domain", "a", b"3", expect=2)).version == 3


async def test_cassandra_document_that_is_written_late_does_not_undo_a_newer_one(pair: Pair):
    one, other, _ = pair
    kept = []
    keep, one._keep = one._keep, lambda *args: kept.append(args) or one._told_nobody(*args)  # type: ignore[method-assign]
    with pytest.raises(StoreInDoubt):
        await one.put("domain", "a", b"1", expect=0)
    await other.put("domain", "a", b"2", expect=1)
    for late in kept:
        await keep(*late)
    assert (await other.get("domain", "a")).value == b"2"


async def test_cassandra_append_that_was_not_confirmed_counts_once(pair: Pair, monkeypatch):
    one, other, _ = pair
    conditional = Session.conditional

    async def unheard(self, *args, **kwargs):
        await conditional(self, *args, **kwargs)
        raise StoreInDoubt("the answer was lost")

    monkeypatch.setattr(Session, "conditional", unheard)
    assert (await one.put("domain", "a", b"1", expect=0)).version == 1
    monkeypatch.undo()
    assert [(c.position, c.id) for c in await other.changes(after=0)] == [(1, "a")]


async def test_cassandra_log_goes_on_over_the_ends_of_its_segments(pair: Pair, monkeypatch):
    monkeypatch.setattr(documents, "SEGMENT", 4)
    one, other, clock = pair
    position, seen = 0, []
    for number in range(13):
        await (one if number % 2 else other).put("domain", f"{number:02}", b"", expect=0)
        if number % 3 == 0:
            clock.at += 3.0
            page = await one.changes(after=position)
            seen += [change.id for change in page]
            position = page[-1].position
    fresh = cassandra_store(one._session, one._name)
    await fresh.open()
    assert (await fresh.put("domain", "99", b"", expect=0)).version == 1
    seen += [change.id for change in await other.changes(after=position)]
    assert seen == [*[f"{number:02}" for number in range(13)], "99"]
    assert [change.position for change in await fresh.changes(after=0)] == list(range(1, 15))


async def test_cassandra_follower_whose_part_of_the_log_has_expired_gets_the_documents(pair: Pair):
    one, other, _ = pair
    for name in ("a", "b", "c"):
        await one.put("domain", name, b"1", expect=0)
    await one.delete("domain", "b", expect=None)
    await one.put("domain", "a", b"2", expect=1)
    log = f"DELETE FROM {LEASE_KEYSPACE}.document_log WHERE store = ? AND segment = 0 AND position <= 5"
    await one._session.execute(log, (one._name,), timeout_s=5.0)
    told = await other.changes(after=1, limit=2)
    told += await other.changes(after=told[-1].position)
    assert [(c.position, c.id, c.document and c.document.value) for c in told] == [
        (3, "c", b"1"),
        (4, "b", None),
        (5, "a", b"2"),
    ]
    assert await other.changes(after=5) == []
    await one.put("domain", "d", b"1", expect=0)
    assert [(c.position, c.id) for c in await other.changes(after=5)] == [(6, "d")]


async def test_cassandra_what_changes_while_the_documents_are_read_is_left_to_the_log(pair: Pair):
    """A document that was looked for too early must not be passed over because a later one was found."""
    one, other, _ = pair
    for name in ("a", "b"):
        await one.put(name, "x", b"1", expect=0)
    await one._session.execute(
        f"DELETE FROM {LEASE_KEYSPACE}.document_log WHERE store = ? AND segment = 0", (one._name,), timeout_s=5.0
    )
    await one._session.execute(
        f"UPDATE {LEASE_KEYSPACE}.document_log SET head = 2 WHERE store = ? AND segment = 0",
        (one._name,),
        timeout_s=5.0,
    )
    pages = other._pages

    async def slow(cql, values):
        async for page in pages(cql, values):
            yield page
            if "a" in values:  # its documents were read: now one comes there, and then one where it is still seen
                await one.put("a", "y", b"1", expect=0)
                await one.put("b", "y", b"1", expect=0)

    other._pages = slow  # type: ignore[method-assign]
    told = await other.changes(after=0)
    told += await other.changes(after=told[-1].position)
    assert [(c.position, c.kind, c.id) for c in told] == [(1, "a", "x"), (2, "b", "x"), (3, "a", "y"), (4, "b", "y")]


async def test_cassandra_follower_that_is_level_asks_only_for_the_bell(pair: Pair, monkeypatch):
    one, other, clock = pair
    await one.put("domain", "a", b"1", expect=0)
    (seen,) = await other.changes(after=0)
    await other.changes(after=seen.position)
    asked = []
    execute = Session.execute

    async def counted(self, cql, values=(), **options):
        asked.append(cql)
        return await execute(self, cql, values, **options)

    monkeypatch.setattr(Session, "execute", counted)
    for _ in range(7):
        clock.at += 0.25
        assert await other.changes(after=seen.position) == []
    assert len(asked) == 7
    assert set(asked) == {other._cql.bell}
