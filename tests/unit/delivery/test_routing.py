"""From a domain to its hosts."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.delivery.routing import MxRouter, NoRoute, SmarthostRouter
from pigeonry.domain.outcome import Deferred, Refused
from pigeonry.ports.network import DnsFailure, MailExchanger


def routed(stage, domain):
    found = []

    async def main():
        try:
            found.append(await stage.router.route(domain))
        except NoRoute as none:
            found.append(none.outcome)

    stage.play(main())
    return found[0]


def test_hosts_are_tried_by_preference(stage):
    stage.names.exchangers["to.test"] = tuple(MailExchanger(p, f"mx{p}.to.test") for p in (30, 10, 20))
    assert [host.name for host in routed(stage, "to.test").hosts] == ["mx10.to.test", "mx20.to.test", "mx30.to.test"]


def test_chance_decides_among_equals(stage):
    stage.names.exchangers["to.test"] = tuple(MailExchanger(10, f"mx{n}.to.test") for n in range(4))
    orders = set()

    async def main():
        for _ in range(20):
            router = MxRouter(stage.names, clock=stage.clock, dice=stage.dice)
            orders.add(tuple(host.name for host in (await router.route("to.test")).hosts))

    stage.play(main())
    assert len(orders) > 3


def test_domains_with_the_same_hosts_are_one_site(stage):
    stage.names.exchangers["a.test"] = (MailExchanger(5, "one.mx.test"), MailExchanger(7, "two.mx.test"))
    stage.names.exchangers["b.test"] = (MailExchanger(20, "two.mx.test"), MailExchanger(10, "ONE.mx.test"))
    stage.names.exchangers["c.test"] = (MailExchanger(10, "two.mx.test"), MailExchanger(20, "one.mx.test"))
    sites = []

    async def main():
        sites.extend([(await stage.router.route(name)).site for name in ("a.test", "b.test", "c.test")])

    stage.play(main())
    assert sites[0] == sites[1] != sites[2]


def test_domain_without_mx_is_its_own_host(stage):
    stage.names.exchangers["to.test"] = ()
    stage.names.hosts["to.test"] = ("198.51.100.1",)
    assert [host.name for host in routed(stage, "to.test").hosts] == ["to.test"]


def test_address_literal_is_its_own_host(stage):
    assert [host.name for host in routed(stage, "[198.51.100.7]").hosts] == ["198.51.100.7"]
    assert stage.names.asked == []


@pytest.mark.parametrize(
    ("exchangers", "hosts", "told"),
    [
        ((MailExchanger(0, ""),), {}, (Refused, 556, "5.1.10")),
        (None, {}, (Refused, 498, "5.1.2")),
        ((), {"to.test": ()}, (Refused, 498, "5.1.2")),
        (DnsFailure, {}, (Deferred, 498, "")),
        ((MailExchanger(10, "-bad-"),), {}, (Deferred, 499, "")),
    ],
)
def test_domain_without_a_host_is_said_to_have_none(stage, exchangers, hosts, told):
    if exchangers is not None:
        stage.names.exchangers["to.test"] = exchangers
    stage.names.hosts.update(hosts)
    outcome = routed(stage, "to.test")
    assert (type(outcome), outcome.code, outcome.reply.enhanced_code if outcome.reply else "") == told


def test_one_look_up_serves_all_who_ask_and_is_known_for_a_minute(stage):
    stage.site()

    async def main():
        assert stage.router.known("to.test") is None
        await asyncio.gather(*[stage.router.route("to.test") for _ in range(5)])
        assert stage.names.asked == ["to.test"]
        assert stage.router.known("to.test") is not None
        await asyncio.sleep(61)
        assert stage.router.known("to.test") is None

    stage.play(main())


def test_look_up_goes_on_when_the_first_who_asked_gives_up(stage):
    stage.site()

    async def main():
        first = asyncio.ensure_future(stage.router.route("to.test"))
        second = asyncio.ensure_future(stage.router.route("to.test"))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).hosts[0].name == "mx.to.test"

    stage.play(main())


def test_smarthost_takes_everything():
    router = SmarthostRouter("relay.test", 587)
    route = router.known("any.test")
    assert route.smarthost
    assert route is router.known("other.test")
    assert (route.hosts[0].name, route.hosts[0].port) == ("relay.test", 587)
