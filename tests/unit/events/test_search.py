from __future__ import annotations

import asyncio
import random

import pytest

from pigeonry.domain.errors import BadRequest
from pigeonry.events.asking import WholeNode
from pigeonry.events.search import EventPage, EventSearch, Question
from pigeonry.ports.event_index import IndexMark, IndexPage
from pigeonry.stores.memory.event_index import MemoryEventIndex
from support.events import T0, SetClock, accepted, delivered, number

D = "mail.example"


class World:
    def __init__(self) -> None:
        self.clock = SetClock()
        self.index = MemoryEventIndex(self.clock)
        self.search = EventSearch(WholeNode(self.index), self.clock, b"secret")
        self.next_seq: dict[int, int] = {}

    async def feed(self, *events: bytes, shard: int = 0, level: bool = True) -> None:
        first = self.next_seq.get(shard, 1)
        self.next_seq[shard] = first + len(events)
        await self.index.feed(shard, list(enumerate(events, first)))
        if level:
            await self.index.level({shard: self.clock.now()})

    async def ask(self, **parameters: str | list[str]) -> EventPage:
        listed = {
            name.replace("_", "-"): text if isinstance(text, list) else [text] for name, text in parameters.items()
        }
        return await self.search.page(self.search.question(D, listed))

    async def go(self, token: str) -> EventPage:
        return await self.search.page(self.search.read_token(D, token))


@pytest.fixture
def world() -> World:
    return World()


def numbers(page: EventPage) -> list[int]:
    return [number(octets) for octets in page.items]


async def test_without_parameters_the_newest_come_first(world: World):
    world.clock.time = T0 + 50
    await world.feed(*[accepted(i, T0 + i) for i in range(5)])
    assert numbers(await world.ask()) == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("ascending", ["yes", "no"])
async def test_following_next_shows_everything_once_and_ends_empty(world: World, ascending: str):
    world.clock.time = T0 + 50
    await world.feed(*[accepted(i, T0 + i) for i in range(10)])
    page = await world.ask(ascending=ascending, limit="3")
    seen = []
    while page.items:
        seen.append(numbers(page))
        page = await world.go(page.next)
    flat = [i for each in seen for i in each]
    assert flat == (list(range(10)) if ascending == "yes" else list(range(9, -1, -1)))
    assert [len(each) for each in seen] == [3, 3, 3, 1]


async def test_previous_leads_back_to_the_page_before(world: World):
    world.clock.time = T0 + 50
    await world.feed(*[accepted(i, T0 + i) for i in range(10)])
    for ascending in ("yes", "no"):
        first = await world.ask(ascending=ascending, limit="3")
        second = await world.go(first.next)
        third = await world.go(second.next)
        assert numbers(await world.go(third.previous)) == numbers(second)
        assert numbers(await world.go(second.previous)) == numbers(first)
        before = await world.go((await world.go(second.previous)).previous)
        assert before.items == []
        assert numbers(await world.go(before.next)) == numbers(first)


async def test_first_and_last_lead_to_the_ends(world: World):
    world.clock.time = T0 + 50
    await world.feed(*[accepted(i, T0 + i) for i in range(10)])
    page = await world.go((await world.ask(ascending="yes", limit="3")).next)
    assert numbers(await world.go(page.first)) == [0, 1, 2]
    last = await world.go(page.last)
    assert numbers(last) == [7, 8, 9]
    assert (await world.go(last.next)).items == []
    assert numbers(await world.go(last.previous)) == [4, 5, 6]


async def test_next_of_the_empty_last_page_waits_for_more(world: World):
    world.clock.time = T0 + 1
    await world.feed(accepted(1, T0))
    page = await world.go((await world.ask(begin=str(T0 - 5), ascending="yes")).next)
    assert page.items == []
    for i in range(2, 5):
        world.clock.time = T0 + i
        await world.feed(delivered(i, world.clock.time), level=False)
        world.clock.time += 0.5
        await world.index.level({0: world.clock.time})
        page = await world.go(page.next)
        assert numbers(page) == [i]
        page = await world.go(page.next)
        assert page.items == []


async def test_empty_answer_has_all_tokens_and_waits_too(world: World):
    page = await world.ask(ascending="yes")
    assert page.items == []
    assert all((page.next, page.previous, page.first, page.last))
    assert (await world.go(page.previous)).items == []
    world.clock.time += 5
    await world.feed(accepted(1, world.clock.time))
    world.clock.time += 1
    await world.index.level({0: world.clock.time})
    assert numbers(await world.go(page.next)) == [1]


async def test_waiting_does_not_look_at_the_same_events_again(world: World):
    world.clock.time = T0 + 50
    await world.feed(*[accepted(i, T0 + i) for i in range(10)])
    page = await world.ask(ascending="yes", **{"from": "nobody"})
    question = world.search.read_token(D, page.next)
    assert question.place is not None
    assert question.place.time_us > (T0 + 49) * 1e6


@pytest.mark.parametrize("seed", range(30))
async def test_shards_with_different_lag_never_put_an_event_before_a_page_that_was_shown(seed: int):
    """A poller and a pager read while two shards are indexed with lags of their own: both see every event once."""
    world, dice = World(), random.Random(seed)
    waiting: dict[int, list[tuple[float, bytes]]] = {0: [], 1: []}
    polled: list[int] = []
    page = await world.ask(begin=str(T0 - 9), ascending="yes", limit="4")
    made = 0
    for _ in range(150):
        world.clock.time += dice.random() * 0.3
        shard = dice.randrange(2)
        if dice.random() < 0.6:
            made += 1
            stamped = world.clock.time - dice.choice([0.0, 0.01, 2.0])  # some commits take long
            waiting[shard].append((stamped, accepted(made, stamped)))
        for each, lag in ((0, 0.2), (1, 0.8)):
            if dice.random() < 0.3 / (1 + lag):
                taken, waiting[each] = waiting[each], []
                await world.feed(*[octets for _, octets in taken], shard=each, level=dice.random() < 0.8)
        polled += numbers(page)
        page = await world.go(page.next)
    for each in (0, 1):
        await world.feed(*[octets for _, octets in waiting[each]], shard=each)
    world.clock.time += 1
    await world.index.level(dict.fromkeys((0, 1), world.clock.time))
    polled += numbers(page)
    while (page := await world.go(page.next)).items:
        polled += numbers(page)
    assert sorted(polled) == list(range(1, made + 1))
    again = []
    page = await world.ask(begin=str(T0 - 9), ascending="yes", limit="300")
    while page.items:
        again += numbers(page)
        page = await world.go(page.next)
    assert again == polled


async def test_end_before_begin_means_newest_first(world: World):
    world.clock.time = T0 + 50
    await world.feed(*[accepted(i, T0 + i) for i in range(10)])
    assert numbers(await world.ask(begin=str(T0 + 6), end=str(T0 + 3))) == [6, 5, 4, 3]
    assert numbers(await world.ask(begin=str(T0 + 3), end=str(T0 + 6))) == [3, 4, 5, 6]
    assert numbers(await world.ask(begin=str(T0 + 6))) == [6, 7, 8, 9]
    assert numbers(await world.ask(begin=str(T0 + 2), ascending="no")) == [2, 1, 0]
    assert numbers(await world.ask(end=str(T0 + 7))) == [9, 8, 7]
    assert numbers(await world.ask(end=str(T0 + 2), ascending="yes")) == [0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "Wed, 18 Nov 2026 11:06:42 GMT",
        "Wed, 18 Nov 2026 11:06:42 -0000",
        "18 Nov 2026 12:06:42 +0100",
        str(T0 - 18400 + 18402),
        f"{int(T0 + 2)}",
    ],
)
async def test_times_are_dates_or_seconds(world: World, text: str, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    world.clock.time = T0 + 50
    await world.feed(*[accepted(i, T0 + i) for i in range(4)])
    assert numbers(await world.ask(begin=text, ascending="yes")) == [2, 3]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"begin": "yesterday"}, "begin"),
        ({"end": "-1"}, "end"),
        ({"begin": "nan"}, "begin"),
        ({"begin": "1e300"}, "begin"),
        ({"begin": "Wed, 99 Nov 2026 08:53:22 GMT"}, "begin"),
        ({"ascending": "up"}, "ascending"),
        ({"begin": "5", "end": "9", "ascending": "no"}, "ascending"),
        ({"begin": "9", "end": "5", "ascending": "yes"}, "ascending"),
        ({"limit": "0"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "٣"}, "limit"),
        ({"limit": "1" * 5000}, "limit"),
        ({"event": "a OR"}, "event"),
        ({"size": "big"}, "size"),
        ({"subject": ["x"] * 33}, "filters"),
        ({"subject": ["x" * 2000] * 3}, "filters"),
    ],
)
async def test_malformed_parameter_is_refused_by_name(world: World, parameters: dict, named: str):
    with pytest.raises(BadRequest, match=named):
        await world.ask(**parameters)


async def test_limit_has_a_default_and_a_highest_value(world: World):
    assert world.search.question(D, {}).limit == 100
    assert world.search.question(D, {"limit": ["301"]}).limit == 300
    assert world.search.question(D, {"limit": ["1"]}).limit == 1


async def test_same_field_twice_must_hold_twice(world: World):
    world.clock.time = T0 + 50
    await world.feed(accepted(1, T0, tags=("a",)), accepted(2, T0, tags=("a", "b")))
    assert numbers(await world.ask(tags=["a", "b"])) == [2]
    assert numbers(await world.ask(tags="a b")) == [2]
    assert numbers(await world.ask(tags="a NOT b")) == [1]
    assert numbers(await world.ask(tags="")) == [2, 1]


async def test_variables_are_asked_for_as_json_or_by_their_words(world: World):
    world.clock.time = T0 + 50
    await world.feed(accepted(1, T0, variables={"id": "7", "n": 5}), accepted(2, T0, variables={"id": "77"}))
    assert numbers(await world.ask(user_variables='{"id": "7"}')) == [1]
    assert numbers(await world.ask(user_variables='{"n": 5}')) == [1]
    assert numbers(await world.ask(user_variables="id")) == [2, 1]
    with pytest.raises(BadRequest):
        await world.ask(user_variables='{"id": ')


class Slow:
    """An index in which looking goes on and on."""

    def __init__(self, clock: SetClock, hits: int) -> None:
        self.clock = clock
        self.hits = hits

    async def watermark(self) -> float:
        return self.clock.now()

    async def search(self, query) -> IndexPage:
        self.clock.time += 0.2
        await asyncio.sleep(0)
        place = query.after.time_us + 1 if query.after else 1
        items = ()
        if self.hits:
            self.hits -= 1
            items = ((IndexMark(place, 0, place), accepted(place, T0)),)
        return IndexPage(items, IndexMark(place, 0, place))


async def test_looking_for_long_ends_with_what_was_found_or_says_so():
    clock = SetClock()
    search = EventSearch(WholeNode(Slow(clock, 1)), clock, b"s")  # type: ignore[arg-type]
    question = Question(D, 0, 2**62, ascending=True, limit=5, filters=())
    page = await search.page(question)
    assert numbers(page) == [1]
    on = search.read_token(D, page.next)
    assert on.place is not None
    assert on.place.time_us > 1
    with pytest.raises(BadRequest, match="Narrow begin and end"):
        await search.page(on)
    assert clock.now() < T0 + 10
