"""What is said of a message to who asks why it is where it is."""

from __future__ import annotations

from typing import Any

import pytest

from pigeonry.domain.errors import OwnerUnreachable
from pigeonry.doors.http.v1.why import routes
from pigeonry.events.asking import WholeNode
from pigeonry.events.search import EventSearch
from pigeonry.stores.memory.event_index import MemoryEventIndex
from support.events import T0, SetClock, accepted, delivered, failed
from support.http_door import Answer
from support.http_door import World as Door

HOLDING = {"limit": "rest", "whose": "receiver", "description": "x", "until": T0 + 60}


class World:
    def __init__(self) -> None:
        self.clock = SetClock(T0 + 100)
        self.index = MemoryEventIndex(self.clock)
        self.door = Door()
        self.asked: list[tuple[str, str]] = []
        self.fault: Exception | None = None
        search = EventSearch(WholeNode(self.index), self.clock, b"secret")
        self.door.door._router.router.routes.extend(routes(self.door.store, search, ask=self.ask))

    async def ask(self, key: Any, account: str) -> list[dict[str, Any]]:
        self.asked.append((key.text(), account))
        if self.fault is not None:
            raise self.fault
        return [{"recipient": "b@c.dd", "state": "pending", "holding": HOLDING}, {"recipient": "e@f.gg"}]

    async def get(self, key: str) -> Answer:
        return await self.door.ask("GET", f"/v1/pigeonry/messages/{key}/why")


@pytest.fixture
async def world() -> World:
    world = World()
    body = b"from=a%40example.org&to=b%40c.dd%2Ce%40f.gg&subject=s&text=t&h%3AMessage-Id=%3C3@mail.example%3E"
    form = {"content-type": "application/x-www-form-urlencoded"}
    sent = await world.door.ask("POST", "/v3/example.org/messages", body, headers=form)
    assert sent.status == 200, sent.body
    return world


def events(world: World) -> list[bytes]:
    about = {"domain": "example.org", "recipient": "b@c.dd"}
    return [
        accepted(3, T0, **about),
        failed(3, T0 + 1, severity="temporary", **about),
        failed(3, T0 + 9, severity="temporary", **about),
        delivered(4, T0 + 10, **about),
    ]


async def test_each_recipient_is_shown_with_what_holds_it_and_its_last_attempt(world: World) -> None:
    await world.index.feed(0, list(enumerate(events(world), 1)))
    await world.index.level({0: world.clock.now()})
    answer = await world.get(world.door.store.key())
    assert answer.status == 200
    first, second = answer.json["items"]
    assert first["holding"] == HOLDING
    assert (first["last-attempt"]["timestamp"], first["last-attempt"]["code"]) == (T0 + 9, 550)
    assert second["last-attempt"] is None
    assert world.asked == [(world.door.store.key(), "acct")]


async def test_an_owner_that_does_not_answer_is_said_so(world: World) -> None:
    world.fault = OwnerUnreachable("The owner does not answer.", retry_after_s=2.0)
    answer = await world.get(world.door.store.key())
    assert answer.status == 503
    assert "retry-after" in answer.headers


@pytest.mark.parametrize("key", ["x", "AAAAAAAAAAAAAAAAAAAAAA", "../../x"])
async def test_what_is_no_message_is_not_found(world: World, key: str) -> None:
    assert (await world.get(key)).status == 404
    assert not world.asked
