"""Every search index is held to ``ports.event_index.EventIndex``: one that feeds, one of another worker that reads."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from pigeonry.net.disk import LocalDisk
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.event_index import EventIndex, IndexMark, IndexQuery, Term
from pigeonry.stores.event_filter import decode_candidate, predicate
from pigeonry.stores.memory.event_index import MemoryEventIndex
from pigeonry.stores.sqlite.event_index import SqliteEventIndex
from pigeonry.testing.power import ForgetfulDisk
from support.events import T0, SetClock, accepted, delivered, failed, ids

END = 2**62
DAY = 86_400.0


class Node:
    """Two workers' views of one index, and the clock they share."""

    def __init__(self, one: EventIndex, other: EventIndex, clock: SetClock) -> None:
        self.one = one
        self.other = other
        self.clock = clock

    async def feed(
        self, *events: bytes, shard: int = 0, first: int | None = None, by: EventIndex | None = None
    ) -> None:
        index = by or self.one
        start = first if first is not None else await index.cursor(shard) + 1
        await index.feed(shard, list(enumerate(events, start)))

    async def level(self, *shards: int, by: EventIndex | None = None) -> None:
        await (by or self.one).level(dict.fromkeys(shards or (0,), self.clock.now()))

    async def found(self, where: Term | None = None, **fields) -> list[int]:
        return ids(await self.other.search(query(where, **fields)))


def query(where: Term | None = None, **fields) -> IndexQuery:
    asked = {"domain": "mail.example", "begin_us": 0, "end_us": END, "ascending": True, "limit": 100}
    return IndexQuery(where=where, **{**asked, **fields})


def word(field: str, value: str) -> Term:
    return Term("is" if field not in ("subject", "from", "to", "attachment") else "has", field, value)


@pytest.fixture(params=["memory", "sqlite", "sqlite-one-connection"])
async def node(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[Node]:
    clock = SetClock()
    if request.param == "memory":
        index = MemoryEventIndex(clock)
        yield Node(index, index, clock)
        return
    disk = LocalDisk(str(tmp_path))
    if request.param == "sqlite-one-connection":
        alone = SqliteEventIndex(str(tmp_path), disk=ForgetfulDisk(disk), lanes=ThreadLanes(), clock=clock)
        yield Node(alone, alone, clock)
        await alone.close()
        return
    both = [SqliteEventIndex(str(tmp_path), disk=disk, lanes=ThreadLanes(), clock=clock) for _ in range(2)]
    yield Node(both[0], both[1], clock)
    for index in both:
        await index.close()


async def test_time_from_the_future_is_taken_for_now(node: Node):
    await node.feed(accepted(1, T0 + 3600))
    assert (await node.other.search(query())).items[0][0].time_us == int(T0 * 1e6)


async def test_pages_go_on_after_a_mark_in_both_directions(node: Node):
    node.clock.time = T0 + 100
    await node.feed(*[accepted(i, T0 + i) for i in range(10)])
    page = await node.other.search(query(limit=4))
    assert ids(page) == [0, 1, 2, 3]
    mark = page.items[-1][0]
    assert await node.found(after=mark, limit=3) == [4, 5, 6]
    assert await node.found(after=mark, ascending=False) == [2, 1, 0]
    assert await node.found(ascending=False, limit=2) == [9, 8]


async def test_shards_and_days_are_merged_by_time_whoever_feeds_them(node: Node):
    node.clock.time = T0 + 3 * DAY
    times = [T0 + i * DAY / 4 for i in range(12)]
    await node.feed(*[accepted(i, times[i]) for i in range(0, 12, 2)], shard=0)
    await node.feed(*[accepted(i, times[i]) for i in range(1, 12, 2)], shard=7, by=node.other)
    assert await node.found() == list(range(12))
    assert await node.found(ascending=False, limit=5) == [11, 10, 9, 8, 7]
    some = await node.found(begin_us=int(times[3] * 1e6), end_us=int(times[8] * 1e6))
    assert some == [3, 4, 5, 6, 7, 8]


async def test_domains_are_apart(node: Node):
    node.clock.time = T0 + 100
    await node.feed(accepted(1, T0), accepted(2, T0, domain="other.example"))
    assert await node.found() == [1]
    assert await node.found(domain="other.example") == [2]
    assert await node.found(domain="third.example") == []
    assert await node.found(word("recipient", "user2@there.example")) == []


async def test_feeding_again_changes_nothing(node: Node):
    node.clock.time = T0 + 100
    events = [accepted(i, T0 + i) for i in range(6)]
    await node.feed(*events[:4])
    await node.feed(*events, first=1)
    assert await node.one.cursor(0) == 6
    assert await node.found() == [0, 1, 2, 3, 4, 5]
    assert await node.found(word("subject", "way")) == [0, 1, 2, 3, 4, 5]


async def test_voided_events_and_what_is_no_event_only_move_the_cursor(node: Node):
    node.clock.time = T0 + 100
    await node.feed(b"", accepted(1, T0), b"", b"{}", b"\xff", b"")
    assert await node.one.cursor(0) == 6
    assert await node.found() == [1]


FILTERS = [
    (word("event", "delivered"), [2]),
    (word("event", "DELIVERED"), [2]),
    (Term("or", parts=(word("event", "delivered"), word("event", "failed"))), [2, 3]),
    (Term("not", parts=(word("event", "accepted"),)), [2, 3]),
    (word("event", "opened"), []),
    (word("severity", "temporary"), [3]),
    (word("recipient", "ANN@There.example"), [1]),
    (word("recipient", "ann"), []),
    (word("message-id", "2@mail.example"), [2]),
    (word("tags", "Spring Sale"), [1, 4]),
    (word("tags", "spring"), []),
    (word("subject", "ord"), [2, 3]),
    (word("subject", "order #2"), [2]),
    (word("subject", "rder"), []),
    (word("subject", "grüße AUS"), [1]),
    (word("subject", "京都"), [1]),
    (word("subject", "都か"), [1]),
    (word("subject", "#"), [2, 3]),
    (Term("and", parts=(word("subject", "order"), Term("not", parts=(word("event", "failed"),)))), [2]),
    (Term("or", parts=(word("subject", "京都"), word("from", "nobody"))), [1]),
    (word("from", "ann@else"), [4]),
    (word("to", "user3"), [3]),
    (word("attachment", "bill-2"), [2]),
    (Term("and", parts=(Term("gt", "size", "1001"), Term("lt", "size", "1004"))), [2, 3]),
    (word("recipients", "ann@there.example"), [1]),
    (Term("has", "user-variables", "order=77"), [4]),
    (Term("has", "user-variables", "77"), [4]),
    (word("list", "list@mail.example"), []),
]


@pytest.mark.parametrize(("where", "expected"), FILTERS, ids=[str(i) for i in range(len(FILTERS))])
async def test_filters_mean_the_same_everywhere(node: Node, where: Term, expected: list[int]):
    node.clock.time = T0 + 100
    await node.feed(
        accepted(1, T0 + 1, recipient="ann@there.example", subject="Grüße aus 京都から", tags=("spring sale", "x")),
        delivered(2, T0 + 2),
        failed(3, T0 + 3, severity="temporary"),
        accepted(4, T0 + 4, sender="ann@else.example", tags=("SPRING SALE",), subject="", variables={"order": "77"}),
    )
    assert await node.found(where) == expected
    assert await node.found(where, ascending=False) == expected[::-1]


async def test_any_filter_finds_what_judging_each_event_finds(node: Node):
    """What an index narrows down by its words must let through all that the filter does."""
    node.clock.time = T0 + 1000
    dice = random.Random(5)
    subjects = ["Hello world", "hello, World!", "Über uns", "uber", "a_b c", "x-1 y.2", "", "ΑΣ ας", "né\u0301"]
    made = []
    for i in range(60):
        kind = dice.choice([accepted, delivered, failed])
        tags = tuple(dice.sample(["a", "b c", "Ü", "d-e"], dice.randrange(3)))
        made.append(kind(i, T0 + i, subject=dice.choice(subjects), tags=tags))
    await node.feed(*made)
    leaves = [
        word("subject", text)
        for text in ["hello", "wor", "WORLD hello", "über", "b", "a", "2", "né", "!", "\u03b1\u03c3"]
    ]
    leaves += [word("tags", text) for text in ["A", "b c", "ü", "none"]]
    leaves += [word("event", "failed"), word("recipient", "user7@there.example"), word("message-id", "9@mail.example")]

    def term(depth: int) -> Term:
        op = dice.choice(["leaf", "leaf", "and", "or", "not"]) if depth else "leaf"
        if op == "leaf":
            return dice.choice(leaves)
        return Term(op, parts=tuple(term(depth - 1) for _ in range(1 if op == "not" else dice.choice([2, 3]))))

    for _ in range(80):
        where = term(3)
        judge = predicate(where)
        assert await node.found(where) == [i for i, octets in enumerate(made) if judge(decode_candidate(octets))], where


async def test_watermark_of_shards_that_stand_still_follows_the_clock(node: Node):
    await node.level(0, 1)
    node.clock.time = T0 + 5
    await node.level(0, 1)
    assert T0 + 4 <= await node.other.watermark() <= T0 + 5


async def test_slowest_shard_holds_the_watermark(node: Node):
    await node.level(0)
    await node.level(1, by=node.other)
    node.clock.time = T0 + 2
    await node.level(0)
    assert await node.one.watermark() < T0 + 0.1
    await node.level(1, by=node.other)
    assert await node.one.watermark() > T0 + 1


async def test_event_that_comes_late_is_placed_after_what_was_shown(node: Node):
    node.clock.time = T0 + 10
    await node.feed(accepted(1, T0 + 1), shard=0)
    await node.feed(accepted(2, T0 + 2), shard=1, by=node.other)
    await node.level(0)
    await node.level(1, by=node.other)
    shown = int(await node.other.watermark() * 1e6)
    page = await node.other.search(query(end_us=shown))
    assert ids(page) == [1, 2]
    await node.feed(accepted(3, T0 + 1.5), accepted(4, T0 - 3600), shard=0)  # their commit took long
    node.clock.time = T0 + 11
    await node.level(0)
    await node.level(1, by=node.other)
    assert await node.found(after=page.items[-1][0]) == [3, 4]
    assert await node.found(begin_us=shown) == [3, 4]
    assert await node.found() == [1, 2, 3, 4]


async def test_shard_whose_owner_is_silent_holds_nothing_back_and_comes_later(node: Node):
    await node.level(0)
    await node.level(1)
    node.clock.time = T0 + 5
    await node.level(0)
    assert await node.other.watermark() < T0 + 1
    node.clock.time = T0 + 30
    await node.level(0)
    assert await node.other.watermark() > T0 + 29
    await node.feed(accepted(9, T0 + 2), shard=1)  # it was only slow
    mark = (await node.other.search(query())).items[0][0]
    assert mark.time_us > (T0 + 29) * 1e6


async def test_shard_given_up_is_not_waited_for(node: Node):
    await node.level(0, 1)
    node.clock.time = T0 + 3
    await node.one.give_up(1)
    await node.level(0)
    assert await node.other.watermark() > T0 + 2


@pytest.mark.parametrize("back_s", [2.0, 3600.0])
async def test_clock_set_back_stops_nobody(node: Node, back_s: float):
    node.clock.time = T0 + back_s
    await node.level(0, 1)
    node.clock.time = T0
    await node.feed(accepted(1, T0), shard=0)
    await node.level(0, 1)
    await node.level(0, 1)
    shown = int(await node.other.watermark() * 1e6)
    assert await node.found(end_us=shown) == [1]


async def test_wiped_index_is_rebuilt_with_the_same_places(node: Node):
    node.clock.time = T0 + 2 * DAY
    events = [accepted(i, T0 + i * DAY / 3) for i in range(6)]
    await node.feed(*events)
    await node.level(0)
    before = await node.other.search(query())
    await node.one.wipe()
    assert await node.one.cursor(0) == 0
    assert await node.found() == []
    await node.feed(*events[:2])
    assert await node.other.watermark() < T0 + DAY  # what is missing is not passed over by those who page
    await node.feed(*events[2:])
    await node.level(0)
    assert await node.other.search(query()) == before
    await node.feed(accepted(7, T0))
    assert (await node.found())[-1] == 7


async def test_marks_are_unique_and_rise_also_when_times_do_not(node: Node):
    node.clock.time = T0 + 100
    await node.feed(*[accepted(i, T0) for i in range(300)])
    page = await node.other.search(query(limit=300))
    marks = [mark for mark, _ in page.items]
    assert marks == sorted(set(marks))
    assert ids(page) == list(range(300))
    assert all(isinstance(mark, IndexMark) for mark in marks)


async def test_restoring_what_is_there_changes_nothing_and_what_is_not_fed_yet_is_left_to_the_feed(node: Node):
    node.clock.time = T0 + 100
    await node.feed(*[accepted(i, T0 + i) for i in range(5)])
    before = (await node.other.search(query())).items
    assert await node.one.restore(0, [(i + 1, accepted(i, T0 + i)) for i in range(7)]) == 0
    assert (await node.other.search(query())).items == before


def edges(page) -> dict[int, tuple[int, int]]:
    return dict(page.covered)


async def test_only_the_shards_that_are_asked_for_are_looked_at_and_it_is_said_how_far(node: Node):
    node.clock.time = T0 + 1000
    for shard in range(3):
        await node.feed(*[accepted(10 * shard + i, T0 + 100 * i + shard) for i in range(4)], shard=shard)
    page = await node.other.search(query(shards=(0, 2)))
    assert ids(page) == [0, 20, 1, 21, 2, 22, 3, 23]
    assert edges(page) == {0: (0, 4), 2: (0, 4)}
    page = await node.other.search(query(shards=(0, 2), limit=3))
    assert (ids(page), edges(page)) == ([0, 20, 1], {0: (0, 2), 2: (0, 1)})
    page = await node.other.search(query(shards=(0, 2), limit=3, ascending=False))
    assert (ids(page), edges(page)) == ([23, 3, 22], {0: (3, 4), 2: (2, 4)})
    page = await node.other.search(
        query(shards=(0, 1), begin_us=round((T0 + 100) * 1e6), end_us=round((T0 + 200.5) * 1e6))
    )
    assert (ids(page), edges(page)) == ([1, 11, 2], {0: (1, 3), 1: (1, 2)})
    page = await node.other.search(query(shards=(5,)))
    assert (ids(page), edges(page)) == ([], {5: (0, 0)})
    assert edges(await node.other.search(query())) == {}


async def test_pages_go_on_from_a_seq_in_each_shard_whatever_the_place(node: Node):
    node.clock.time = T0 + 3 * DAY
    for shard in range(2):
        await node.feed(*[accepted(10 * shard + i, T0 + i * DAY / 2 + shard) for i in range(6)], shard=shard)
    marks = {0: 2, 1: 3}
    page = await node.other.search(query(shards=(0, 1), marks=marks))
    assert (ids(page), edges(page)) == ([2, 3, 13, 4, 14, 5, 15], {0: (2, 6), 1: (3, 6)})
    page = await node.other.search(query(shards=(0, 1), marks=marks, ascending=False))
    assert (ids(page), edges(page)) == ([12, 11, 1, 10, 0], {0: (0, 2), 1: (0, 3)})
    page = await node.other.search(query(shards=(0, 1), marks=marks, ascending=False, limit=2))
    assert (ids(page), edges(page)) == ([12, 11], {0: (2, 2), 1: (1, 3)})
    page = await node.other.search(query(shards=(0, 1), marks={0: 9, 1: 6}))
    assert (ids(page), edges(page)) == ([], {0: (9, 9), 1: (6, 6)})
    page = await node.other.search(query(shards=(0, 1), marks={0: 4}, after=IndexMark(round((T0 + DAY) * 1e6), 1, 2)))
    assert ids(page) == [12, 13, 4, 14, 5, 15]


async def test_a_page_ends_when_its_octets_are_up(node: Node):
    node.clock.time = T0 + 100
    await node.feed(*[accepted(i, T0 + i) for i in range(4)])
    page = await node.other.search(query(shards=(0,), octets_max=1))
    assert (ids(page), edges(page)) == ([0], {0: (0, 1)})
    assert page.upto == page.items[-1][0]


async def test_it_is_known_how_far_each_shard_is(node: Node):
    assert node.one.reached(0) == 0.0
    node.clock.time = T0 + 100
    await node.feed(accepted(1, T0 + 1))
    assert node.one.reached(0) == T0 + 1
    await node.level()
    assert T0 + 99 <= node.one.reached(0) <= T0 + 100
