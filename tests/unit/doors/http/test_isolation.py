"""What another account may not even know of, over every route there is.

The cases are made from the route table: a route that is added is tried without anybody thinking of it, and a parameter
that nobody gave a value for fails here.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from starlette.routing import Route

from pigeonry.domain.tenant import Caller
from pigeonry.doors.http.app import HttpDoor
from pigeonry.doors.http.v1 import why
from pigeonry.doors.http.v3 import credentials, domains, events
from pigeonry.events.asking import WholeNode
from pigeonry.events.search import EventSearch
from pigeonry.stores.memory.event_index import MemoryEventIndex
from support.events import accepted
from support.http_door import KEY, World
from support.tenancy import Tenancy

OTHER = "key-other"
STRANGERS = (OTHER, "key-other-domain", "key-other-sending")
FREE = frozenset({"/"})  # says the same to everybody
LISTS = frozenset({"/v3/domains", "/v4/domains"})  # name no domain: each caller gets its own
FORM = {"from": "a@mine.example", "to": "b@c.dd", "subject": "s", "text": "t", "message": "From: a@mine.example\n\nt"}
FORM |= {"login": "new", "password": "a-long-password-1", "smtp_password": "a-long-password-1", "require_tls": "yes"}


async def nobody_asks(key: Any, account: str) -> Any:
    raise AssertionError("another's message was asked for")


class Site:
    """The whole door. ``mine.example`` is KEY's, ``other.example`` is OTHER's."""

    def __init__(self) -> None:
        self.tenancy = tenancy = Tenancy()
        self.world = world = World()
        world.keys.callers["key-other-domain"] = Caller("other", "aaaaaaaa-00000005", domain="other.example")
        world.keys.callers["key-other-sending"] = Caller(
            "other", "aaaaaaaa-00000006", role="sending", domain="other.example"
        )
        world.keys.callers["key-one-domain"] = Caller("acct", "aaaaaaaa-00000009", domain="elsewhere.example")
        self.index = MemoryEventIndex(tenancy.clock)
        search = EventSearch(WholeNode(self.index), tenancy.clock, b"secret")
        world.door = HttpDoor(
            keys=world.keys,
            domains=tenancy.book,
            accept=world.store.accept,
            reject=world.store.reject,
            store=world.store,  # type: ignore[arg-type]
            bodies=world.bodies,
            coordinator=world.coordinator,
            clock=tenancy.clock,
            ids=tenancy.ids,
            gate=world.gate,
            hostname="mx.example.net",
            extra_routes=[
                *events.routes(search),
                *domains.routes(
                    book=tenancy.book, registry=tenancy.registry, register=tenancy.register, clock=tenancy.clock
                ),
                *credentials.routes(registry=tenancy.registry, register=tenancy.register),
                *why.routes(world.store, search, ask=nobody_asks),
            ],
        )

    def routes(self) -> list[Route]:
        return [route for route in self.world.door._router.routes if isinstance(route, Route)]

    async def ask(self, method: str, path: str, key: str | None) -> Any:
        headers = {"content-type": "application/x-www-form-urlencoded"} if method != "GET" else {}
        body = urlencode(FORM).encode() if method != "GET" else b""
        return await self.world.ask(method, path, body, headers=headers, key=key)

    async def state(self) -> tuple[object, ...]:
        stores = (self.tenancy.directory, self.tenancy.identity)
        found = [await store.changes(after=0) for store in stores]
        positions = [change.position for page in found for change in page]
        return len(self.world.store.accepted), len(self.world.store.rejected), positions


@pytest.fixture
async def site() -> Site:
    site = Site()
    for key, name in ((KEY, "mine.example"), (OTHER, "other.example")):
        body = urlencode({"name": name, "dkim_key_size": "1024", "smtp_password": "a-long-password-1"}).encode()
        made = await site.world.ask(
            "POST", "/v3/domains", body, key=key, headers={"content-type": "application/x-www-form-urlencoded"}
        )
        assert made.status == 200
    await site.tenancy.book.refresh()
    assert (await site.ask("POST", "/v3/mine.example/messages", KEY)).status == 200
    now = site.tenancy.clock.now()
    await site.index.feed(0, [(1, accepted(1, now, domain="mine.example"))])
    await site.index.level({0: now + 10})
    site.tenancy.clock.at += 100
    return site


async def values(site: Site) -> dict[str, str]:
    """What the parameters of paths stand for: each is there, and KEY's."""
    page = (await site.ask("GET", "/v3/mine.example/events", KEY)).json
    assert len(page["items"]) == 1
    return {
        "{domain}": "mine.example",
        "{name}": "mine.example",
        "{key}": site.world.store.key(),
        "{number}": "0",
        "{token}": page["paging"]["first"].rpartition("/")[2],
        "{login}": "postmaster",
    }


def filled(path: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        path = path.replace(name, value)
    assert "{" not in path, f"say in values() what stands for the parameter in {path}"
    return path


def cases(site: Site) -> list[tuple[str, str]]:
    found = {(method, route.path) for route in site.routes() for method in (route.methods or ()) if method != "HEAD"}
    return sorted(case for case in found if case[1] not in FREE)


async def test_what_is_anothers_is_not_found_over_any_route_and_stays_as_it_is(site: Site) -> None:
    given, before = await values(site), await site.state()
    tried = 0
    for method, template in cases(site):
        if template in LISTS:
            continue
        path = filled(template, given)
        for key in (*STRANGERS, "key-one-domain"):
            answer = await site.ask(method, path, key)
            # A sending key is told that it may not, before anything is looked for: the same for what is not there.
            allowed = {404, 403} if key == "key-other-sending" else {404}
            assert answer.status in allowed, (method, path, key, answer.body)
            nowhere = await site.ask(method, path.replace("mine.example", "gone.example"), key)
            assert nowhere.status == answer.status, (method, path, key)
            assert nowhere.body.replace(b"gone", b"mine") == answer.body, (method, path, key)
            tried += 1
    assert tried > 80
    assert await site.state() == before


async def test_one_thing_of_anothers_is_not_found_through_ones_own_domain(site: Site) -> None:
    given = {**await values(site), "{domain}": "other.example", "{name}": "other.example"}
    for template in ("/v3/domains/{domain}/messages/{key}", "/v3/{domain}/events/{token}"):
        assert (await site.ask("GET", filled(template, given), OTHER)).status == 404
    for method in ("PUT", "DELETE"):
        for template in ("/v3/domains/{domain}/credentials/{login}", "/v3/{domain}/mailboxes/{login}"):
            path = filled(template, {**given, "{login}": "postmaster@mine.example"})
            assert (await site.ask(method, path, OTHER)).status == 404


async def test_lists_show_ones_own_alone(site: Site) -> None:
    for path in LISTS:
        assert [item["name"] for item in (await site.ask("GET", path, OTHER)).json["items"]] == ["other.example"]
        assert (await site.ask("GET", path, "key-one-domain")).json["items"] == []


async def test_nothing_is_said_without_a_key(site: Site) -> None:
    given, before = await values(site), await site.state()
    for method, template in cases(site):
        for key in (None, "key-nobodys"):
            answer = await site.ask(method, filled(template, given), key)
            assert (answer.status, answer.body) == (401, b"Forbidden"), (method, template)
    assert await site.state() == before


async def test_a_domain_that_changed_hands_takes_nothing_of_its_past_along(site: Site) -> None:
    given = await values(site)
    store = site.world.store
    assert (await site.ask("DELETE", "/v3/domains/mine.example", KEY)).status == 200
    site.tenancy.clock.at += 100
    body = urlencode({"name": "mine.example", "dkim_key_size": "1024"}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert (await site.world.ask("POST", "/v3/domains", body, key=OTHER, headers=headers)).status == 200
    await site.tenancy.book.refresh()
    assert (await site.ask("GET", f"/v3/domains/mine.example/messages/{store.key()}", OTHER)).status == 404
    assert (await site.ask("GET", f"/v1/pigeonry/messages/{store.key()}/why", OTHER)).status == 404
    for path in ("/v3/mine.example/events", f"/v3/mine.example/events/{given['{token}']}"):
        answer = await site.ask("GET", path, OTHER)
        assert answer.status == 200
        assert msgspec.json.decode(answer.body)["items"] == []
