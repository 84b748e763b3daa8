"""What is said of a recipient that is due and not attempted is what delivery itself looks at."""

from __future__ import annotations

import asyncio

import msgspec

from pigeonry.delivery.egress import Egress
from pigeonry.delivery.rulebook.rules import Provider, Rule
from pigeonry.domain.intervention import Intervention, Scope
from pigeonry.domain.route import EgressPool, EgressSource


def holding(stage, *, before=None, seconds=1.0, count=1, **limits):
    """What is said of the last of some recipients, so many seconds after they were dispatched."""
    found = []
    pendings = [stage.pending() for _ in range(count)]

    async def main():
        dispatcher = stage.dispatcher(**limits)
        task = asyncio.ensure_future(dispatcher.run())
        await asyncio.sleep(0)
        if before is not None:
            before(dispatcher)
        for pending in pendings:
            dispatcher.dispatch(pending)
        await asyncio.sleep(seconds)
        found.append(dispatcher.explaining.holding(pendings[-1]))
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())
    return found[0]


def test_an_intervention(stage):
    stage.site()
    told = Intervention("i7", "suspend", Scope(to="to.test"), "storm", 0.0, 1e12)
    said = holding(stage, before=lambda dispatcher: dispatcher.intervene([told]))
    assert (said.limit, said.whose, said.until) == ("intervention", "operator", 1e12)
    assert said.description == "Suspended by intervention i7 (to=to.test): storm"


def test_a_path_that_rests_with_what_failed_and_until_when(stage):
    stage.site(refuse=True)
    said = holding(stage, rest_s=60.0, count=2)
    assert (said.limit, said.whose) == ("rest", "receiver")
    assert "could be had once: " in said.description
    assert 50.0 < said.until - stage.clock.now() < 90.0


def test_connections_that_are_taken(stage):
    stage.site(replies={"MAIL": None})
    said = holding(stage, connections_per_path=2, count=5)
    assert (said.limit, said.whose) == ("connections", "receiver")
    assert said.description.startswith("All 2 connections to ")
    assert said.description.endswith("3 wait.")


def test_a_pool_without_an_address(stage):
    pool = EgressPool("far", ((EgressSource(id="far", address="192.0.2.1", hostname="far.test"), 1),))
    stage.egress = Egress([pool], default="far", domain=stage.domains.get, clock=stage.clock)
    said = holding(stage)
    assert (said.limit, said.whose) == ("pool", "operator")
    assert "far" in said.description


def test_a_look_up(stage):
    stage.site()
    assert holding(stage, seconds=0.001).limit == "route"


def test_a_source_that_rests_at_a_provider(stage):
    listed = {"id": "world.listed", "means": "We are on a list.", "cause": "blocklist", "action": "suspend-source"}
    given = {
        **listed,
        "for_s": 600.0,
        "codes": ["421"],
        "source": "a document",
        "date": "2026-11-28",
        "samples": ["421 x"],
    }
    stage.knows(Provider(id="world", name="World", rules=(msgspec.convert(given, Rule),)))
    stage.site(replies={"MAIL": b"421 listed"}, offers=())
    said = holding(stage)
    assert (said.limit, said.whose) == ("rest", "receiver")
    assert "(rule world.listed): We are on a list." in said.description
    assert 590.0 < said.until - stage.clock.now() <= 600.0
