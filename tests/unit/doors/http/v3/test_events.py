from __future__ import annotations

from urllib.parse import urlencode, urlsplit

import pytest

from pigeonry.doors.http.v3.events import routes
from pigeonry.events.asking import WholeNode
from pigeonry.events.search import EventSearch
from pigeonry.stores.memory.event_index import MemoryEventIndex
from support.events import T0, SetClock, accepted, delivered
from support.http_door import Answer
from support.http_door import World as Door

PATH = "/v3/example.org/events"
PAGES = ("next", "previous", "first", "last")


class World:
    def __init__(self) -> None:
        self.clock = SetClock(T0 + 100)
        self.index = MemoryEventIndex(self.clock)
        self.door = Door()
        search = EventSearch(WholeNode(self.index), self.clock, b"secret")
        self.door.door._router.router.routes.extend(routes(search))

    async def feed(self, *events: bytes) -> None:
        await self.index.feed(0, list(enumerate(events, await self.index.cursor(0) + 1)))
        await self.index.level({0: self.clock.now()})

    async def get(
        self, path: str = PATH, headers: dict[str, str] | None = None, key: str | None = "", **query
    ) -> Answer:
        given = {} if key == "" else {"key": key}
        text = urlencode({name.replace("_", "-"): value for name, value in query.items()}, doseq=True)
        return await self.door.ask("GET", path, query=text, headers=headers, **given)

    async def follow(self, url: str, **query) -> Answer:
        return await self.get(urlsplit(url).path, **query)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.feed(
        *[accepted(i, T0 + i, domain="example.org") for i in range(1, 4)],
        delivered(4, T0 + 4, domain="example.org"),
        accepted(5, T0 + 5, domain="second.example"),
        accepted(6, T0 + 6, domain="foreign.example"),
    )
    return world


def numbers(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.body
    return [int(item["id"][1:]) for item in answer.json["items"]]


async def test_events_of_the_domain_alone_with_pages_all_around(world: World):
    answer = await world.get()
    assert numbers(answer) == [4, 3, 2, 1]
    assert sorted(answer.json["paging"]) == sorted(PAGES)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert float(answer.headers["x-pigeonry-watermark"]) == pytest.approx(T0 + 99.75)


async def test_urls_are_absolute_with_the_host_the_client_used_and_the_token_last(world: World):
    answer = await world.get(headers={"host": "mail.local:8080"})
    for page in PAGES:
        url = urlsplit(answer.json["paging"][page])
        assert (url.scheme, url.netloc, url.query) == ("http", "mail.local:8080", "")
        assert url.path.startswith(f"{PATH}/")
        assert "/" not in url.path.removeprefix(f"{PATH}/")
    assert answer.json["items"][-1]["storage"]["url"].startswith(
        "http://mail.local:8080/v3/domains/example.org/messages/"
    )


async def test_next_is_followed_until_empty_and_other_parameters_beside_a_token_mean_nothing(world: World):
    answer = await world.get(limit="2", ascending="yes", event="accepted")
    assert numbers(answer) == [1, 2]
    answer = await world.follow(answer.json["paging"]["next"], event="delivered", limit="77", begin="nonsense")
    assert numbers(answer) == [3]
    answer = await world.follow(answer.json["paging"]["next"])
    assert numbers(answer) == []
    assert sorted(answer.json["paging"]) == sorted(PAGES)
    assert numbers(await world.follow(answer.json["paging"]["previous"])) == [2, 3]


async def test_repeated_parameters_must_all_hold(world: World):
    assert numbers(await world.get(recipient=["user2@there.example", "user3@there.example"])) == []
    assert numbers(await world.get(recipient="user2@there.example OR user3@there.example")) == [3, 2]
    assert numbers(await world.get(message_id="<2@mail.example>")) == [2]
    assert numbers(await world.get(pretty="yes", anything="else")) == [4, 3, 2, 1]


async def test_token_of_one_domain_opens_no_other(world: World):
    token = (await world.get()).json["paging"]["next"].rsplit("/", 1)[1]
    answer = await world.get(f"/v3/second.example/events/{token}")
    assert answer.status == 404
    assert "token" in answer.json["message"]
    assert (await world.get(f"{PATH}/{token[:-1]}")).status == 404
    assert (await world.get(f"{PATH}/nonsense")).status == 404


@pytest.mark.parametrize(
    "query", [{"begin": "x"}, {"limit": "no"}, {"ascending": "up"}, {"event": "(a"}, {"size": "<x"}, {"tags": '"a'}]
)
async def test_malformed_parameter_is_a_400_that_names_it(world: World, query: dict[str, str]):
    answer = await world.get(**query)
    assert answer.status == 400
    assert next(iter(query)) in answer.json["message"]


async def test_domain_that_is_not_the_callers_is_not_found(world: World):
    for path in ("/v3/foreign.example/events", "/v3/foreign.example/events/abc", "/v3/no.example/events"):
        answer = await world.get(path)
        assert answer.status == 404
        assert "Domain not found" in answer.json["message"]
    assert (await world.get(key="key-other")).status == 404


async def test_without_a_key_or_with_one_that_only_sends_nothing_is_shown(world: World):
    answer = await world.get(key=None)
    assert (answer.status, answer.body) == (401, b"Forbidden")
    assert (await world.get(key="key-sending")).status == 403
    assert (await world.get(key="key-basic")).status == 200


async def test_what_is_ours_alone_is_not_shown(world: World):
    for item in (await world.get()).json["items"]:
        assert "account" not in item
        assert "domain" not in item
        assert item["recipient-domain"] == "there.example"
