"""Events of a cluster through any of its members: merged, each once, none missing, also while shards move."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from pigeonry.domain.errors import NotOwner, OwnerUnreachable, StoreBusy
from pigeonry.events.asking import Ask, Found
from pigeonry.events.own_shards import OwnShards
from pigeonry.events.scatter import LOOK, Scattered
from pigeonry.events.search import EventPage, EventSearch
from pigeonry.ports.event_log import LogEntry
from pigeonry.ports.ownership import Member
from pigeonry.stores.memory.event_index import MemoryEventIndex
from support.events import T0, SetClock, accepted, number

D = "mail.example"
ONE, TWO = Member("one", 0), Member("two", 0, "two.test:9300")


class Logs:
    """The logs of all shards, of which each worker sees those that it owns."""

    def __init__(self) -> None:
        self.events: dict[int, list[bytes]] = {}

    def head(self, shard: int) -> int:
        return len(self.events.get(shard, ()))


class Worker:
    """A member with an index of its own."""

    def __init__(self, member: Member, logs: Logs, clock: SetClock) -> None:
        self.member, self.logs, self.clock = member, logs, clock
        self.index = MemoryEventIndex(clock)
        self.owned: set[int] = set()
        self.own = OwnShards(lambda: self.owned, log=self, index=self.index, clock=clock)  # type: ignore[arg-type]
        self.trouble: BaseException | None = None
        self.asked = 0

    def head(self, shard: int) -> int:
        return self.logs.head(shard)

    async def follow(self, *, upto: dict[int, int] | None = None) -> None:
        """Index what the logs have, of some shards only up to a seq."""
        for shard in sorted(self.owned):
            head = self.head(shard)
            last = (upto or {}).get(shard, head)
            entries = [LogEntry(seq, octets) for seq, octets in enumerate(self.logs.events.get(shard, ()), 1)]
            cursor = await self.index.cursor(shard)
            await self.index.feed(shard, [(each.seq, each.octets) for each in entries if cursor < each.seq <= last])
            if last == head and head:
                await self.index.level({shard: self.clock.now()})


class Cluster:
    """Two members, four shards; the first one is asked."""

    def __init__(self) -> None:
        self.clock = SetClock(T0 + 100)
        self.logs = Logs()
        self.workers = {ONE: Worker(ONE, self.logs, self.clock), TWO: Worker(TWO, self.logs, self.clock)}
        self.heard: dict[int, Member | None] | None = None
        self.table: dict[int, Member | None] = {}
        for shard in range(4):
            self.give(shard, (ONE, TWO)[shard % 2])
        self.scattered = Scattered(
            self.workers[ONE].own,
            me=ONE,
            ownership=self,
            ask=self.ask_member,
            clock=self.clock,  # type: ignore[arg-type]
        )
        self.search = EventSearch(self.scattered, self.clock, b"secret")

    async def owners(self, *, fresh: bool = True) -> Mapping[int, Member | None]:
        return self.heard if self.heard is not None and not fresh else self.table

    async def ask_member(self, member: Member, name: str, argument: Any, *, timeout_s: float) -> Any:
        assert (name, timeout_s > 0) == (LOOK, True)
        worker = self.workers[member]
        worker.asked += 1
        if worker.trouble is not None:
            raise worker.trouble
        found = await worker.own.look(msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(argument)), Ask))
        return msgspec.msgpack.decode(msgspec.msgpack.encode(found))

    def give(self, shard: int, member: Member | None) -> None:
        for each in self.workers.values():
            each.owned.discard(shard)
        if member is not None:
            self.workers[member].owned.add(shard)
        self.table[shard] = member

    async def write(self, shard: int, *events: bytes, follow: bool = True) -> None:
        self.logs.events.setdefault(shard, []).extend(events)
        if follow:
            await self.follow()

    async def follow(self) -> None:
        for worker in self.workers.values():
            await worker.follow()

    async def ask(self, **parameters: str) -> EventPage:
        return await self.search.page(self.search.question(D, {name: [text] for name, text in parameters.items()}))

    async def go(self, token: str) -> EventPage:
        return await self.search.page(self.search.read_token(D, token))


@pytest.fixture
async def cluster() -> Cluster:
    cluster = Cluster()
    for i in range(12):
        await cluster.write(i % 4, accepted(i, T0 + i), follow=False)
    await cluster.follow()
    return cluster


def numbers(page: EventPage) -> list[int]:
    return [number(octets) for octets in page.items]


@pytest.mark.parametrize("ascending", ["yes", "no"])
async def test_events_of_all_members_are_merged_and_paged_in_both_directions(cluster: Cluster, ascending: str) -> None:
    expected = list(range(12)) if ascending == "yes" else list(range(11, -1, -1))
    page, pages = await cluster.ask(ascending=ascending, limit="5"), []
    while page.items:
        pages.append(page)
        page = await cluster.go(page.next)
    assert [i for page in pages for i in numbers(page)] == expected
    assert numbers(await cluster.go(pages[2].previous)) == expected[5:10]
    assert numbers(await cluster.go(pages[0].last)) == expected[-5:]
    assert numbers(await cluster.go(pages[2].first)) == expected[:5]
    assert numbers(await cluster.go((await cluster.go(pages[2].previous)).previous)) == expected[:5]


async def test_who_owns_all_asks_nobody_else(cluster: Cluster) -> None:
    for shard in (1, 3):
        cluster.give(shard, ONE)
    await cluster.follow()
    assert len((await cluster.ask()).items) == 12
    assert cluster.workers[TWO].asked == 0


@pytest.mark.parametrize("ascending", ["yes", "no"])
async def test_pages_go_on_where_they_were_when_a_shard_moves(cluster: Cluster, ascending: str) -> None:
    page, seen = await cluster.ask(ascending=ascending, limit="3"), list[int]()
    owner = [TWO, ONE]
    while page.items:
        seen += numbers(page)
        for shard in range(4):
            cluster.give(shard, owner[shard % 2])
        owner.reverse()
        await cluster.follow()
        page = await cluster.go(page.next)
    assert seen == (list(range(12)) if ascending == "yes" else list(range(11, -1, -1)))


async def test_a_poller_sees_each_event_once_though_the_new_owner_places_them_otherwise(cluster: Cluster) -> None:
    page = await cluster.ask(begin=str(T0 - 10), ascending="yes")
    seen = numbers(page)
    cluster.clock.time += 10
    await cluster.write(1, accepted(20, T0 + 48))  # came late: its owner places it behind what was shown
    page = await cluster.go(page.next)
    seen += numbers(page)
    await cluster.write(1, accepted(21, T0 + 49))
    cluster.clock.time += 1
    cluster.give(1, ONE)  # who reads all of it anew, and places it where its time says: before what was shown
    await cluster.follow()
    while (page := await cluster.go(page.next)).items:
        seen += numbers(page)
    assert seen == [*range(12), 20, 21]


async def test_a_shard_that_is_not_indexed_yet_holds_the_watermark_and_then_nothing_is_missing(
    cluster: Cluster,
) -> None:
    page = await cluster.ask(begin=str(T0 - 10), ascending="yes", limit="4")
    assert numbers(page) == [0, 1, 2, 3]
    cluster.give(1, ONE)
    for behind in (0, 2):
        await cluster.workers[ONE].follow(upto={1: behind})
        page = await cluster.go(page.next)
        assert [i for i in numbers(page) if i % 4 == 1] == [5][:behind]
        assert max(numbers(page), default=0) <= 5
        assert page.watermark <= T0 + 5
    await cluster.follow()
    page = await cluster.go(page.next)
    assert numbers(page) == [6, 7, 8, 9]
    assert numbers(await cluster.go(page.next)) == [10, 11]


async def test_who_goes_back_waits_for_an_index_that_is_not_as_far(cluster: Cluster) -> None:
    page = await cluster.ask(ascending="no", limit="4")
    assert numbers(page) == [11, 10, 9, 8]
    cluster.give(1, ONE)
    await cluster.workers[ONE].follow(upto={1: 1})
    with pytest.raises(StoreBusy):
        await cluster.go(page.next)
    await cluster.follow()
    assert numbers(await cluster.go(page.next)) == [7, 6, 5, 4]


async def test_newest_first_begins_at_the_lowest_watermark(cluster: Cluster) -> None:
    cluster.clock.time = T0 + 150
    await cluster.write(0, *[accepted(i, T0 + i) for i in range(120, 140)])
    cluster.clock.time = T0 + 300
    await cluster.write(0, *[accepted(i, T0 + i) for i in range(200, 220)], follow=False)
    await cluster.workers[ONE].follow()  # the other one stands still
    page = await cluster.ask(ascending="no", limit="5")
    assert numbers(page) == [139, 138, 137, 136, 135]
    assert page.watermark < T0 + 150
    newer = await cluster.go(page.previous)
    assert newer.items == []
    await cluster.follow()
    assert numbers(await cluster.go(newer.previous)) == [204, 203, 202, 201, 200]
    assert numbers(await cluster.go(page.next)) == [134, 133, 132, 131, 130]


@pytest.mark.parametrize("trouble", [OwnerUnreachable("silent"), TimeoutError(), StoreBusy("busy"), NotOwner("moved")])
async def test_no_page_when_a_member_does_not_answer(cluster: Cluster, trouble: BaseException) -> None:
    page = await cluster.ask(ascending="yes", limit="4")
    cluster.workers[TWO].trouble = trouble
    for ask in (cluster.ask(), cluster.go(page.next)):
        with pytest.raises(StoreBusy) as refused:
            await ask
        assert refused.value.retry_after_s
    cluster.workers[TWO].trouble = None
    assert numbers(await cluster.go(page.next)) == [4, 5, 6, 7]


async def test_a_member_that_is_slow_is_waited_for_no_longer_than_the_deadline() -> None:
    cluster = Cluster()

    async def never(_ask: Ask) -> Found:
        await asyncio.Event().wait()
        raise AssertionError

    cluster.workers[ONE].own.look = never  # type: ignore[method-assign]
    cluster.scattered._deadline_s = 0.05
    with pytest.raises(StoreBusy):
        await cluster.ask()


async def test_no_page_while_a_shard_is_nobodys(cluster: Cluster) -> None:
    cluster.give(3, None)
    with pytest.raises(StoreBusy):
        await cluster.ask()
    cluster.give(3, ONE)
    await cluster.follow()
    assert len((await cluster.ask()).items) == 12


async def test_what_was_heard_of_owners_may_be_old(cluster: Cluster) -> None:
    cluster.heard = dict(cluster.table)
    cluster.give(1, ONE)
    cluster.give(2, TWO)
    await cluster.follow()
    assert numbers(await cluster.ask(ascending="yes")) == list(range(12))


async def test_an_event_that_two_shards_have_is_shown_once(cluster: Cluster) -> None:
    await cluster.write(3, accepted(4, T0 + 4))
    assert numbers(await cluster.ask(ascending="yes")) == list(range(12))


async def test_a_shard_to_which_nothing_ever_came_holds_nothing_back() -> None:
    cluster = Cluster()
    await cluster.write(0, accepted(1, T0))
    page = await cluster.ask(ascending="yes")
    assert numbers(page) == [1]
    assert page.watermark > T0 + 99
    cluster.clock.time += 1
    await cluster.write(3, accepted(2, T0 + 100))
    assert numbers(await cluster.go(page.next)) == [2]
