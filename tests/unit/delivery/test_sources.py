"""Delivery from several of our addresses: who is seen at the other end, and what happens when one is lost."""

from __future__ import annotations

import asyncio
import math

import pytest

from pigeonry.delivery.classify import UNRESOLVED
from pigeonry.delivery.egress import NO_SOURCE, Egress
from pigeonry.domain.outcome import Deferred, Delivered
from pigeonry.domain.route import EgressPool, EgressSource
from pigeonry.domain.tenant import SendingDomain
from pigeonry.ports.network import MailExchanger

A, B = EgressSource("a", "192.0.2.1", "a.me.test"), EgressSource("b", "192.0.2.2")
SIX = EgressSource("six", "2001:db8::1", "six.me.test")
BOTH = EgressPool("shared", ((A, 1), (B, 1)))


def place(stage, *pools, own=(A, B, SIX)):
    """Pools, the first of them the default one, and the sources of them that this machine has and may use."""
    stage.egress = Egress(pools, default=pools[0].id, domain=stage.domains.get, clock=stage.clock)
    for outlet in stage.egress.outlets.values():
        if outlet.source in own:
            stage.addresses.add(outlet.source.address)
            outlet.until = math.inf
    stage.egress.review()


def outlet(stage, source):
    return stage.egress.outlets[source.address]


def test_the_receiver_sees_the_source_and_its_name_and_so_does_the_event(stage):
    place(stage, BOTH)
    stage.site()
    stage.deliver(*[stage.pending() for _ in range(20)])
    seen = {(server.peer, server.commands[0].decode()) for server in stage.servers}
    assert seen == {("192.0.2.1", "EHLO a.me.test"), ("192.0.2.2", "EHLO me.test")}
    told = {(outcome.attempt.sending_ip, outcome.attempt.sending_host) for outcome in stage.outcomes.values()}
    assert told == {("192.0.2.1", "a.me.test"), ("192.0.2.2", "me.test")}


def test_a_refused_session_tells_the_source_too(stage):
    place(stage, EgressPool("shared", ((A, 1),)))
    stage.site(replies={"GREETING": b"421 busy"})
    stage.deliver(stage.pending(), seconds=1.0)
    attempt = stage.outcomes[1].attempt
    assert (attempt.sending_ip, attempt.sending_host) == ("192.0.2.1", "a.me.test")


def test_each_source_has_its_own_connections_to_a_site(stage):
    place(stage, BOTH)
    stage.site()
    stage.deliver(*[stage.pending() for _ in range(40)], connections_per_path=1)
    assert sorted(server.peer for server in stage.servers) == ["192.0.2.1", "192.0.2.2"]
    assert len(stage.arrived) == 40


def test_what_waits_for_a_lost_source_leaves_by_another_and_its_connections_end(stage, run_dispatcher):
    place(stage, BOTH)
    stage.site()

    async def main():
        async with run_dispatcher(stage.dispatcher(connections_per_path=1)) as dispatcher:
            for _ in range(40):
                dispatcher.dispatch(stage.pending())
            await stage.until("dot")
            outlet(stage, A).until = -math.inf
            dispatcher.review_egress()
            before = {server for server in stage.servers if server.peer == A.address}
            await asyncio.sleep(30.0)
            return before

    before = stage.loop.run_until_complete(main())
    assert {server for server in stage.servers if server.peer == A.address} == before
    assert all(server.lost for server in before)
    waited = set(stage.postponed)
    assert waited
    assert not waited & set(stage.outcomes), "who is given back is not settled as well"
    assert len(waited) + len(stage.outcomes) == 40
    assert len(stage.arrived) == len(stage.outcomes)


def test_nothing_begins_on_a_standing_connection_once_the_time_of_its_source_is_over(stage, run_dispatcher):
    """As after a SIGSTOP: nobody has had the time to say that the lease is over."""
    place(stage, EgressPool("shared", ((A, 1),)))
    stage.site()

    async def main():
        async with run_dispatcher(stage.dispatcher(connections_per_path=1)) as dispatcher:
            for _ in range(20):
                dispatcher.dispatch(stage.pending())
            await stage.until("dot-sent")
            outlet(stage, A).until = stage.clock.monotonic()
            taken = len(stage.arrived)
            await asyncio.sleep(30.0)
            assert not outlet(stage, A).open
            return taken

    taken = stage.loop.run_until_complete(main())
    assert len(stage.arrived) - taken <= 1, "the one whose dot was about to leave"
    assert len(stage.postponed) + len(stage.aside) >= 19


def test_an_address_that_is_gone_costs_nobody_an_attempt(stage):
    place(stage, BOTH)
    stage.site()
    stage.addresses.remove(A.address)
    stage.deliver(*[stage.pending() for _ in range(20)])
    assert not outlet(stage, A).open
    assert all(isinstance(outcome, Delivered) for outcome in stage.outcomes.values())
    assert stage.postponed
    assert set(stage.postponed).isdisjoint(stage.outcomes)
    assert {server.peer for server in stage.servers} == {B.address}


@pytest.mark.parametrize(("address", "seen"), [("198.51.100.1", A.address), ("2001:db8::25", SIX.address)])
def test_a_site_of_one_family_is_reached_from_the_source_of_that_family(stage, run_dispatcher, address, seen):
    place(stage, EgressPool("shared", ((A, 1), (SIX, 1))))
    stage.site("to.test", address)

    async def main():
        async with run_dispatcher(stage.dispatcher()) as dispatcher:
            waiting = {pending.serial: pending for pending in [stage.pending() for _ in range(20)]}
            for pending in waiting.values():
                dispatcher.dispatch(pending)
            for _ in range(20):  # the scheduler would do it
                await asyncio.sleep(1.0)
                for serial in stage.postponed:
                    dispatcher.dispatch(waiting[serial])
                stage.postponed.clear()

    stage.play(main())
    assert len(stage.outcomes) == 20
    assert all(isinstance(outcome, Delivered) for outcome in stage.outcomes.values())
    assert {server.peer for server in stage.servers} == {seen}


def test_a_site_that_no_source_of_the_pool_reaches_is_deferred(stage):
    place(stage, EgressPool("shared", ((SIX, 1),)))
    stage.site("to.test", "198.51.100.1")
    stage.deliver(stage.pending())
    outcome = stage.outcomes[1]
    assert isinstance(outcome, Deferred)
    assert outcome.code == UNRESOLVED
    assert stage.postponed == []


def test_one_host_in_reach_is_enough(stage):
    place(stage, EgressPool("shared", ((A, 1),)))
    stage.names.exchangers["to.test"] = (MailExchanger(10, "mx6.to.test"), MailExchanger(20, "mx.to.test"))
    stage.site("only.test", "198.51.100.1")
    stage.names.hosts["mx6.to.test"] = ("2001:db8::25",)
    stage.names.hosts["mx.to.test"] = ("198.51.100.1",)
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)


def test_mail_without_a_source_is_left_to_the_store_and_found_again(stage, run_dispatcher):
    place(stage, EgressPool("shared", ((A, 1),), on_site_loss_grace_s=60.0), own=())
    stage.site()

    async def main():
        async with run_dispatcher(stage.dispatcher()) as dispatcher:
            dispatcher.dispatch(stage.pending())
            await asyncio.sleep(1.0)
            assert (stage.aside, stage.outcomes, stage.names.asked) == ([1], {}, [])
            stage.addresses.add(A.address)
            outlet(stage, A).until = math.inf
            dispatcher.review_egress()
            assert stage.looks == 1
            dispatcher.dispatch(stage.pending())
            await asyncio.sleep(10.0)
            assert isinstance(stage.outcomes[2], Delivered)

    stage.play(main())


def test_after_the_grace_it_is_told_so_in_its_events(stage):
    place(stage, EgressPool("shared", ((A, 1),)), own=())
    stage.site()
    stage.deliver(*[stage.pending() for _ in range(250)])
    assert len(stage.settlements) == 250
    outcome = stage.outcomes[1]
    assert isinstance(outcome, Deferred)
    assert (outcome.code, outcome.description) == (
        NO_SOURCE,
        "No address of the egress pool shared can be used here.",
    )
    assert not stage.servers


def test_none_leaves_from_a_source_outside_its_pool(stage):
    place(stage, EgressPool("shared", ((A, 1),)), EgressPool("own", ((B, 1),)), own=(A,))
    stage.domains["send.test"] = SendingDomain("1", "send.test", "acct", 0.0, pool="own")
    stage.site()
    stage.deliver(*[stage.pending() for _ in range(10)])
    assert stage.servers == []
    assert all(isinstance(outcome, Deferred) for outcome in stage.outcomes.values())


def lend(stage, source, node, until=math.inf):
    """Another node has the address, and lends it."""
    addresses = {source.address}
    stage.elsewhere[node] = type(stage.dialer)(stage.loop, stage, stage.dice, addresses=addresses)
    lent = stage.egress.lent[source.address]
    lent.until, lent.through = until, node
    stage.egress.review()
    return addresses


def test_mail_leaves_through_the_node_that_lends_the_address(stage):
    place(stage, BOTH, EgressPool("own", ((SIX, 1),)), own=(A,))
    lend(stage, SIX, "other")
    stage.domains["send.test"] = SendingDomain("1", "send.test", "acct", 0.0, pool="own")
    stage.site(address="2001:db8::25", offers=("PIPELINING", "STARTTLS"))
    stage.deliver(*[stage.pending() for _ in range(3)])
    assert {(server.peer, server.commands[0]) for server in stage.servers} == {(SIX.address, b"EHLO six.me.test")}
    assert {(out.attempt.sending_ip, out.attempt.tls) for out in stage.outcomes.values()} == {(SIX.address, True)}
    assert len(stage.arrived) == 3


def test_a_connection_of_our_own_is_not_used_for_an_address_that_is_lent_to_us_now(stage, run_dispatcher):
    """The address moves: what we connected from is the other node's by then, and a connection keeps its way."""
    place(stage, EgressPool("shared", ((A, 1),)), own=(A,))
    stage.site()

    async def main():
        async with run_dispatcher(stage.dispatcher(connections_per_path=1)) as dispatcher:
            dispatcher.dispatch(stage.pending())
            await asyncio.sleep(1.0)
            outlet(stage, A).until = stage.clock.monotonic()
            stage.addresses.clear()
            lend(stage, A, "other")
            dispatcher.review_egress()
            for _ in range(3):
                dispatcher.dispatch(stage.pending())
            await asyncio.sleep(10.0)

    stage.play(main())
    assert [server.taken for server in stage.servers] == [1, 3]
    assert stage.dialer.sources == {1: A.address}
    assert stage.elsewhere["other"].sources == {1: A.address}


def test_a_lender_that_refuses_is_used_no_more_until_it_was_asked_again(stage, run_dispatcher):
    place(stage, EgressPool("shared", ((A, 1),)), own=())
    lend(stage, A, "other").clear()
    stage.site()

    async def main():
        async with run_dispatcher(stage.dispatcher()) as dispatcher:
            dispatcher.dispatch(stage.pending())
            await asyncio.sleep(1.0)
            assert stage.egress.lent[A.address].until == -math.inf
            assert stage.postponed == [1]
            assert stage.outcomes == {}

    stage.play(main())
