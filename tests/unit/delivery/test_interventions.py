"""What the operator has told delivery to do is done, to that mail and no other, for as long as it stands."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from pigeonry.delivery.egress import Egress
from pigeonry.delivery.interventions import Interventions
from pigeonry.domain.intervention import Intervention, Scope
from pigeonry.domain.outcome import Deferred, Delivered, Withdrawn
from pigeonry.domain.route import EgressPool, EgressSource

SITE = "mx.to.test"
EVER = 1e12


def told(action="suspend", *, until=EVER, name="i", made_at=0.0, pool="", **scope):
    return Intervention(name, action, Scope(**scope), "storm", made_at, until, pool)


@contextlib.asynccontextmanager
async def delivering(stage, *standing, **limits):
    """A dispatcher under which these stand."""
    dispatcher = stage.dispatcher(**limits)
    task = asyncio.ensure_future(dispatcher.run())
    await asyncio.sleep(0)
    if standing:
        dispatcher.intervene(standing)
    try:
        yield dispatcher
    finally:
        task.cancel()
        await asyncio.wait([task])


def send(stage, *standing, tags=(), **limits):
    """What becomes of one recipient while these stand."""
    stage.site()
    pending = stage.pending(tags=tags)

    async def main():
        async with delivering(stage, *standing, **limits) as dispatcher:
            dispatcher.dispatch(pending)
            await asyncio.sleep(10.0)

    stage.play(main())
    return stage.outcomes.get(pending.serial)


OURS = [
    {"account": "acct"},
    {"domain": "send.test"},
    {"to": "to.test"},
    {"account": "acct", "domain": "send.test", "to": "to.test"},
]
OTHERS = [
    {"account": "acct2"},
    {"domain": "other.test"},
    {"to": "o.test"},
    {"to": "sub.to.test"},
    {"account": "acct", "domain": "send.test", "to": "other.test"},
    {"site": "mx.other.test"},
    {"source": "192.0.2.1"},
    {"tag": "promo"},
]


@pytest.mark.parametrize("scope", OURS)
def test_suspended_mail_waits_in_the_store(stage, scope):
    assert send(stage, told(**scope)) is None
    assert stage.aside == [1]
    assert not stage.servers


@pytest.mark.parametrize("scope", OTHERS)
def test_mail_that_it_does_not_concern_is_delivered(stage, scope):
    assert isinstance(send(stage, told(**scope), tags=("news",)), Delivered)


@pytest.mark.parametrize("scope", OURS)
def test_dropped_mail_fails_with_the_operators_reason(stage, scope):
    assert send(stage, told("drop", **scope)) == Withdrawn("dropped", "Dropped by the operator: storm")
    assert not stage.servers


def test_what_is_over_is_over_to_the_second(stage):
    assert isinstance(send(stage, told(to="to.test", until=stage.clock.now() - 1.0)), Delivered)


def test_what_is_suspended_expires_as_it_would_have(stage):
    stage.site()
    pending = stage.pending(expires_at=stage.clock.now() - 1.0)

    async def main():
        async with delivering(stage, told(to="to.test")) as dispatcher:
            dispatcher.dispatch(pending)
            await asyncio.sleep(10.0)

    stage.play(main())
    outcome = stage.outcomes[1]
    assert isinstance(outcome, Deferred)
    assert outcome.held
    assert outcome.description == "Suspended by the operator: storm"


def test_a_drop_goes_before_a_suspension_of_the_same_mail(stage):
    assert isinstance(send(stage, told(to="to.test"), told("drop", name="j", account="acct", made_at=9.0)), Withdrawn)


def test_a_site_is_known_once_the_route_is(stage):
    stage.site()
    sites = []

    async def main():
        async with delivering(stage) as dispatcher:
            dispatcher.dispatch(stage.pending())
            await asyncio.sleep(1.0)
            sites.extend(path.site for path in [lane.path for lane in dispatcher._lanes.values()])
            dispatcher.intervene([told(site=sites[0])])
            dispatcher.dispatch(stage.pending())
            await asyncio.sleep(10.0)

    stage.play(main())
    assert isinstance(stage.outcomes[1], Delivered)
    assert 2 not in stage.outcomes
    assert stage.aside == [2]


def test_mail_with_a_suspended_tag_is_looked_at_again_later(stage):
    assert send(stage, told(tag="news"), tags=("news",)) is None
    assert stage.postponed == [1]


def test_mail_with_a_dropped_tag_fails(stage):
    assert isinstance(send(stage, told("drop", tag="news"), tags=("news",)), Withdrawn)
    assert not any(b"DATA" in server.commands for server in stage.servers)


def test_what_waits_in_ready_queues_is_suspended_too_and_goes_on_when_it_is_lifted(stage):
    stage.site()
    pendings = [stage.pending() for _ in range(6)]

    def postpone(pending, *, seconds):
        stage.postponed.append(pending.serial)
        stage.loop.call_later(seconds, stage.dispatcher_now.dispatch, pending)

    stage.postpone = postpone

    async def main():
        async with delivering(stage, connections_per_path=1) as dispatcher:
            stage.dispatcher_now = dispatcher
            for pending in pendings:
                dispatcher.dispatch(pending)
            await stage.until("dot")
            dispatcher.intervene([told(account="acct")])
            await asyncio.sleep(10.0)
            assert sorted(stage.outcomes) == [1, 2]  # the second one's envelope had left with the dot
            assert sorted(stage.aside) == [3, 4, 5, 6]
            looks = stage.looks
            dispatcher.intervene([])
            assert stage.looks == looks + 1
            for serial in stage.aside:
                dispatcher.dispatch(pendings[serial - 1])
            await asyncio.sleep(10.0)

    stage.play(main())
    assert sorted(stage.outcomes) == [1, 2, 3, 4, 5, 6]


def test_rebound_mail_leaves_by_the_pool_named(stage):
    stage.addresses |= {"127.0.0.2", "127.0.0.3"}
    interventions = Interventions(stage.clock)
    pools = [
        EgressPool(name, ((EgressSource(id=name, address=address, hostname=f"{name}.me.test"), 1),))
        for name, address in (("one", "127.0.0.2"), ("two", "127.0.0.3"))
    ]
    stage.egress = Egress(
        pools, default="one", domain=stage.domains.get, clock=stage.clock, rebound=interventions.rebound
    )
    for outlet in stage.egress.outlets.values():
        outlet.until = EVER
    stage.egress.review()
    interventions.stand([told("rebind", to="to.test", pool="two")])
    stage.site()
    stage.site("else.test", "198.51.100.2")
    stage.deliver(stage.pending(), stage.pending("u@else.test"))
    assert [stage.outcomes[n].attempt.sending_ip for n in (1, 2)] == ["127.0.0.3", "127.0.0.2"]


def test_a_look_at_what_stands_disturbs_nothing_that_waits_for_a_connection(stage):
    stage.site(replies={"MAIL": None})
    standing = [told(to="other.test")]

    async def main():
        async with delivering(stage, *standing, connections_per_path=1) as dispatcher:
            for _ in range(3):
                dispatcher.dispatch(stage.pending())
            await asyncio.sleep(5.0)
            looks = stage.looks
            dispatcher.intervene(standing)
            await asyncio.sleep(1.0)
            assert stage.looks == looks + 1
            assert stage.ready.total() == 2
            assert stage.postponed == []
            dispatcher.intervene([])
            await asyncio.sleep(1.0)
            assert stage.postponed == [2, 3]  # dispatched anew: it may concern them

    stage.play(main())
