"""Interventions are checked when they are made, reach every follower, and end by themselves."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.admission.interventions import LONGEST_S, STANDING_MAX, InterventionBook, InterventionRegister
from pigeonry.domain.errors import BadRequest, NotFound, Overloaded
from pigeonry.domain.intervention import Scope
from pigeonry.stores.memory.documents import MemoryDocuments
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededIds
from pigeonry.testing.loop import VirtualLoop

SCOPE = Scope(to="to.test")


class World:
    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.directory = MemoryDocuments()
        self.register = InterventionRegister(
            self.directory, clock=self.clock, ids=SeededIds("interventions"), pools=["warm"]
        )
        self.heard: list[list[str]] = []
        self.book = InterventionBook(
            self.directory, self.clock, lambda standing: self.heard.append([each.id for each in standing])
        )


@pytest.fixture
def world() -> World:
    return World()


def play(world, story):
    async def whole():
        following = asyncio.ensure_future(world.book.run())
        try:
            await story()
        finally:
            following.cancel()
            await asyncio.wait([following])

    world.loop.play(whole())


def test_a_follower_hears_of_it_and_of_its_end(world):
    async def story():
        made = await world.register.make("suspend", SCOPE, reason="storm", lasting_s=60.0)
        await asyncio.sleep(1.0)
        assert world.heard[-1] == [made.id]
        await asyncio.sleep(58.0)
        assert world.heard[-1] == [made.id]
        await asyncio.sleep(1.5)
        assert world.heard[-1] == []
        assert await world.register.standing() == []

    play(world, story)


def test_a_follower_hears_when_it_is_lifted(world):
    async def story():
        made = await world.register.make("drop", SCOPE, reason="", lasting_s=60.0)
        kept = await world.register.make("suspend", SCOPE, reason="", lasting_s=60.0)
        await world.register.lift(made.id)
        await asyncio.sleep(1.0)
        assert world.heard[-1] == [kept.id]
        with pytest.raises(NotFound):
            await world.register.lift(made.id)

    play(world, story)


def test_what_is_suspended_is_looked_at_now_and_then(world):
    async def story():
        await world.register.make("suspend", SCOPE, reason="", lasting_s=7_200.0)
        await asyncio.sleep(1.0)
        heard = len(world.heard)
        await asyncio.sleep(3_600.0)
        assert len(world.heard) - heard == 6

    play(world, story)


@pytest.mark.parametrize(
    ("action", "scope", "how"),
    [
        ("suspend", Scope(), {}),
        ("suspend", SCOPE, {"lasting_s": 0.0}),
        ("suspend", SCOPE, {"lasting_s": LONGEST_S + 1.0}),
        ("suspend", SCOPE, {"lasting_s": float("nan")}),
        ("suspend", SCOPE, {"reason": "a\r\nb"}),
        ("suspend", SCOPE, {"reason": "a" * 201}),
        ("rebind", SCOPE, {}),
        ("rebind", SCOPE, {"pool": "nowhere"}),
        ("rebind", Scope(tag="news"), {"pool": "warm"}),
        ("rebind", Scope(source="192.0.2.1"), {"pool": "warm"}),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing_behind(world, action, scope, how):
    async def story():
        with pytest.raises(BadRequest):
            await world.register.make(action, scope, **{"reason": "", "lasting_s": 60.0, **how})
        assert await world.directory.list("intervention") == []

    play(world, story)


def test_names_of_domains_are_taken_in_any_case(world):
    async def story():
        made = await world.register.make("suspend", Scope(domain="A.Test", to="B.Test"), reason="", lasting_s=60.0)
        assert made.scope == Scope(domain="a.test", to="b.test")

    play(world, story)


def test_only_so_many_stand_and_those_that_are_over_make_room(world):
    async def story():
        for _ in range(STANDING_MAX):
            await world.register.make("suspend", SCOPE, reason="", lasting_s=60.0)
        with pytest.raises(Overloaded):
            await world.register.make("suspend", SCOPE, reason="", lasting_s=60.0)
        await asyncio.sleep(61.0)
        await world.register.make("suspend", SCOPE, reason="", lasting_s=60.0)
        assert len(await world.directory.list("intervention")) == 1

    play(world, story)
