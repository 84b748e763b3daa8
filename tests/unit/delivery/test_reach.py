"""Where DNS may send us."""

from __future__ import annotations

import pytest

from pigeonry.delivery.reach import Reach
from pigeonry.domain.outcome import Deferred, Delivered

INSIDE = [
    "127.0.0.1",
    "127.25.1.25",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "not an address",
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_is_not_public_is_out_of_reach(address):
    assert not Reach()(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2a00:1450:4001:80b::200e", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_within_reach(address):
    assert Reach()(address)


def test_networks_may_be_allowed():
    reach = Reach(["10.0.0.0/8", "fd00::/8"])
    assert reach("10.1.2.3")
    assert reach("::ffff:10.1.2.3")
    assert reach("fd00::1")
    assert not reach("127.0.0.1")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254"])
def test_a_domain_whose_mail_host_is_inside_gets_no_connection(stage, address):
    stage.reach = Reach()
    stage.site("to.test", address)
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Deferred)
    assert stage.outcomes[1].description == "The host has no public address."
    assert not stage.servers


def test_an_address_literal_of_a_host_inside_gets_no_connection(stage):
    stage.reach = Reach()
    stage.site("else.test", "127.0.0.1")
    stage.deliver(stage.pending("a@[127.0.0.1]"))
    assert isinstance(stage.outcomes[1], Deferred)
    assert not stage.servers


def test_of_a_hosts_addresses_only_the_public_are_tried(stage):
    stage.reach = Reach(["198.51.100.0/24"])
    stage.site("to.test", "198.51.100.1")
    stage.names.hosts["mx.to.test"] = ("127.0.0.1", "198.51.100.1")
    stage.deliver(stage.pending())
    assert isinstance(stage.outcomes[1], Delivered)
    assert len(stage.servers) == 1
