"""Which node of a drill has which egress addresses."""

from __future__ import annotations

import tomllib

from pigeonry.drills.addresses import Addresses

TWO = Addresses("127.1.2", {"dc1": ["node1", "node2"], "dc2": ["node3", "node4"]})


def test_every_node_has_an_address_of_the_shared_pool_and_one_place_has_some_of_its_own() -> None:
    assert list(TWO.of("shared")) == ["node1", "node2", "node3", "node4"]
    assert list(TWO.of("waits")) == ["node1", "node2"]
    assert list(TWO.of("reserve")) == ["node3", "node4"]


def test_no_address_is_in_two_pools() -> None:
    sources = tomllib.loads(TWO.toml())["egress"]["sources"]
    addresses = [each["address"] for each in sources]
    assert len(set(addresses)) == len(addresses)


def test_what_is_permitted_is_what_the_pools_say() -> None:
    pools = {each["id"]: each for each in tomllib.loads(TWO.toml())["egress"]["pools"]}
    permitted = TWO.dedicated()
    assert pools["waits"]["on_site_loss"] == "queue"
    assert permitted["waits"] == set(TWO.of("waits").values())
    assert pools["named"]["on_site_loss"] == "pool:reserve"
    assert permitted["named"] == {*TWO.of("named").values(), *TWO.of("reserve").values()}
    assert pools["anyhow"]["on_site_loss"] == "shared"
    assert permitted["anyhow"] == {*TWO.of("anyhow").values(), *TWO.of("shared").values()}
