"""What a reply does to more than its recipient: a source or a tenant rests at a provider, or comes slower."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter

import msgspec
import pytest

from pigeonry.delivery.classify import HELD_BACK
from pigeonry.delivery.rulebook.rules import WORLD, Limits, Provider, Rule
from pigeonry.domain.blame import Cause
from pigeonry.domain.outcome import Deferred, Delivered, Refused
from pigeonry.ports.network import MailExchanger

DATE = dt.date(2026, 11, 28)


def rule(action: str, *, name: str = "big.r", for_s: float = 600.0, cause: str = "ip", **conditions) -> Rule:
    conditions = conditions or {"codes": ("421", "554")}
    given = {"id": name, "means": "It had enough.", "cause": cause, "action": action, "for_s": for_s, **conditions}
    return msgspec.convert({**given, "source": "a document", "date": DATE, "samples": ["421 x"]}, Rule)


def big(*rules: Rule, one_site: bool = False, **limits) -> Provider:
    allowed = Limits(source="a document", date=DATE, **limits) if limits else None
    return Provider(id="big", name="Big Mail", hosts=(".big.test",), one_site=one_site, limits=allowed, rules=rules)


def at_big(stage, domain: str, address: str, **script):
    """A domain that the provider serves, by a host of its own."""
    script = stage.site(domain, address, **script)
    host = f"mx.{domain}.big.test"
    stage.names.exchangers[domain] = (MailExchanger(10, host),)
    stage.names.hosts[host] = (address,)
    return script


def play(stage, story, **limits):
    async def main():
        dispatcher = stage.dispatcher(**limits)
        task = asyncio.ensure_future(dispatcher.run())
        await asyncio.sleep(0)
        await story(dispatcher)
        task.cancel()
        await asyncio.wait([task])

    stage.play(main())


def kinds(stage):
    return Counter(type(outcome).__name__ for outcome in stage.outcomes.values())


def test_a_source_rests_at_all_sites_of_the_provider_and_what_waits_is_told_so(stage):
    stage.knows(big(rule("suspend-source")))
    at_big(stage, "a.test", "198.51.100.1", replies={"MAIL": b"421 4.7.0 enough"})
    at_big(stage, "b.test", "198.51.100.2")
    stage.site("c.test", "198.51.100.3")
    firsts = [stage.pending("u@a.test") for _ in range(5)]

    async def story(dispatcher):
        for pending in firsts:
            dispatcher.dispatch(pending)
        await asyncio.sleep(5)
        dispatcher.dispatch(stage.pending("u@b.test"))
        dispatcher.dispatch(stage.pending("u@c.test"))
        await asyncio.sleep(5)

    play(stage, story, connections_per_path=1)
    assert len(stage.servers) == 2  # at a.test and at c.test
    outcomes = [stage.outcomes[serial] for serial in range(1, 8)]
    assert isinstance(outcomes[6], Delivered)
    assert outcomes[0].code == 421
    for outcome in outcomes[1:6]:
        assert isinstance(outcome, Deferred)
        assert (outcome.code, outcome.rule, outcome.cause) == (HELD_BACK, "big.r", Cause.IP)
        assert 580.0 < outcome.pause_s <= 600.0
        assert outcome.description.startswith("Held back for ")
        assert "a reply of Big Mail (rule big.r): It had enough." in outcome.description


def test_after_its_rest_the_source_comes_with_one_connection_and_then_with_all(stage):
    stage.knows(big(rule("suspend-source")))
    script = at_big(stage, "a.test", "198.51.100.1", replies={"MAIL": b"421 4.7.0 enough"})
    most = []

    async def burst(dispatcher):
        highest = 0
        for _ in range(40):
            dispatcher.dispatch(stage.pending("u@a.test"))
        for _ in range(40):
            highest = max(highest, dispatcher.connections)
            await asyncio.sleep(0.05)
        most.append(highest)

    async def story(dispatcher):
        dispatcher.dispatch(stage.pending("u@a.test"))
        await asyncio.sleep(600.5)
        script.replies = {}
        await burst(dispatcher)
        await asyncio.sleep(70)
        await burst(dispatcher)

    play(stage, story, connections_per_path=4)
    assert most == [1, 4]
    assert kinds(stage) == {"Deferred": 1, "Delivered": 80}


def test_a_tenant_rests_and_others_go_on(stage):
    stage.knows(big(rule("suspend-tenant", cause="tenant", codes=("550",))))
    script = at_big(stage, "a.test", "198.51.100.1", replies={"MAIL": b"550 enough of you"})
    of_other = [msgspec.structs.replace(stage.pending("u@a.test"), tenant="other") for _ in range(3)]

    async def story(dispatcher):
        for pending in [stage.pending("u@a.test") for _ in range(3)]:
            dispatcher.dispatch(pending)  # the first is told so, the others wait for its connection
        await asyncio.sleep(5)
        script.replies = {}
        for pending in [stage.pending("u@a.test"), *of_other]:
            dispatcher.dispatch(pending)
        await asyncio.sleep(600)
        dispatcher.dispatch(stage.pending("u@a.test"))
        await asyncio.sleep(5)

    play(stage, story, connections_per_path=1)
    own = [stage.outcomes[serial] for serial in range(4, 9)]
    assert [outcome.code for outcome in own[:4]] == [550, HELD_BACK, HELD_BACK, HELD_BACK]
    assert all(isinstance(outcome, Deferred) for outcome in own[:4])
    assert isinstance(own[4], Delivered)
    assert all(isinstance(stage.outcomes[serial], Delivered) for serial in range(1, 4))


def test_slow_halves_the_connections_once_for_what_was_under_way(stage):
    stage.knows(big(rule("slow", for_s=300.0, codes=("451",))))
    script = at_big(stage, "a.test", "198.51.100.1", replies={"RCPT": b"451 slowly"})
    most = []

    async def story(dispatcher):
        for _ in range(32):
            dispatcher.dispatch(stage.pending("u@a.test"))
        await asyncio.sleep(8)
        script.replies = {}
        for _ in range(2):
            for _ in range(80):
                dispatcher.dispatch(stage.pending("u@a.test"))
            await asyncio.sleep(0.3)
            most.append(dispatcher.connections)
            await asyncio.sleep(310)

    play(stage, story, connections_per_path=8, idle_s=1.0)
    assert most == [4, 8]


def test_all_sites_of_a_provider_share_its_connections_and_each_gets_its_turn(stage):
    stage.knows(big(connections=2, messages_per_connection=3))
    for n in range(4):
        at_big(stage, f"d{n}.test", f"198.51.100.{n + 1}")
    highest = 0

    async def story(dispatcher):
        nonlocal highest
        for n in range(4):
            for _ in range(7):
                dispatcher.dispatch(stage.pending(f"u@d{n}.test"))
        for _ in range(1_000):
            highest = max(highest, dispatcher.connections)
            await asyncio.sleep(0.02)

    play(stage, story, connections_per_path=20)
    assert highest == 2
    assert kinds(stage) == {"Delivered": 28}
    assert max(server.taken for server in stage.servers) == 3


def test_domains_of_a_provider_whose_hosts_take_all_are_one_site(stage):
    stage.knows(big(one_site=True))
    at_big(stage, "a.test", "198.51.100.1")
    at_big(stage, "b.test", "198.51.100.2")
    stage.deliver(stage.pending("u@a.test"), stage.pending("u@b.test"), connections_per_path=1)
    assert kinds(stage) == {"Delivered": 2}
    assert len(stage.servers) == 1


def test_who_refuses_the_session_by_a_blocklist_has_the_source_rest(stage):
    listed = rule("suspend-source", name="world.listed", cause="blocklist", text=("blocklist",))
    stage.knows(Provider(id=WORLD, name="World", rules=(listed,)))
    stage.site(replies={"GREETING": b"554 you are on a blocklist"})
    stage.deliver(stage.pending(), stage.pending(), connections_per_path=1)
    assert [outcome.rule for outcome in stage.outcomes.values()] == ["world.listed"] * 2
    assert len(stage.servers) == 1


def test_another_host_is_not_asked_when_the_provider_has_had_enough(stage):
    stage.knows(big(rule("suspend-source")))
    at_big(stage, "a.test", "198.51.100.1", replies={"MAIL": b"554 enough"})
    at_big(stage, "b.test", "198.51.100.2")
    hosts = stage.names.exchangers["a.test"] + (MailExchanger(20, "mx.b.test.big.test"),)
    stage.names.exchangers["a.test"] = hosts
    stage.deliver(stage.pending("u@a.test"))
    assert len(stage.servers) == 1
    assert stage.outcomes[1].pause_s == 600.0


@pytest.mark.parametrize(("action", "kind"), [("bounce", Refused), ("retry", Deferred)])
def test_a_rule_decides_over_the_code(stage, action, kind):
    code = "421" if action == "bounce" else "550"
    stage.knows(big(rule(action, for_s=0.0 if action == "bounce" else 900.0, codes=(code,))))
    at_big(stage, "a.test", "198.51.100.1", replies={"RCPT": code.encode() + b" so it is"})
    stage.deliver(stage.pending("u@a.test"))
    assert isinstance(stage.outcomes[1], kind)
    assert stage.outcomes[1].rule == "big.r"


def test_no_rule_is_looked_for_when_all_is_delivered(stage, monkeypatch):
    stage.knows(big(rule("slow")))
    at_big(stage, "a.test", "198.51.100.1")
    monkeypatch.setattr(stage.book, "rule_for", None)
    stage.deliver(*[stage.pending("u@a.test") for _ in range(5)])
    assert kinds(stage) == {"Delivered": 5}


def test_nothing_is_remembered_of_those_with_whom_all_is_well(stage):
    stage.knows(big(rule("suspend-source", for_s=60.0)))
    at_big(stage, "a.test", "198.51.100.1", replies={"MAIL": b"421 enough"})
    stage.site("c.test", "198.51.100.3")
    counts = []

    async def story(dispatcher):
        dispatcher.dispatch(stage.pending("u@a.test"))
        dispatcher.dispatch(stage.pending("u@c.test"))
        for seconds in (30, 100):
            await asyncio.sleep(seconds)
            counts.append(len(dispatcher._standings._all))

    play(stage, story)
    assert counts == [1, 0]
