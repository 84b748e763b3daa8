"""One node at a time, and none after one that stays away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from pigeonry.app.rolling import Node, NotBack, NotSound, Standing, Step, in_order, restart_all


class Cluster:
    """Three nodes, each away for some looks after its restart."""

    def __init__(self, **away: int) -> None:
        self.time = 1_000.0
        self.nodes = {name: Node(name=name, since={0: 1.0, 1: 2.0}, shards=4) for name in ("a", "b", "c")}
        self.away = away
        self.restarted: list[str] = []
        self.looks = 0
        self.problem = ""
        self.told: list[Step] = []

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)

    async def standing(self) -> Standing:
        if self.looks > 0:
            self.looks -= 1
            gone = self.restarted[-1]
            return Standing({name: node for name, node in self.nodes.items() if name != gone}, f"{gone}/0 is away")
        return Standing(self.nodes, self.problem)

    async def restart(self, node: Node, within_s: float) -> None:
        assert self.looks == 0, "another node is away"
        self.restarted.append(node.name)
        self.looks = self.away.get(node.name, 0)
        self._changed(node.name, since={0: self.time, 1: self.time})

    def _changed(self, name: str, **fields: Any) -> None:
        self.nodes = {**self.nodes, name: msgspec.structs.replace(self.nodes[name], **fields)}

    async def roll(self, *names: str) -> None:
        await restart_all(
            names,
            standing=self.standing,
            restart=self.restart,
            within_s=60.0,
            clock=self,
            tell=self.told.append,
        )


async def test_each_node_is_back_before_the_next_one_goes() -> None:
    cluster = Cluster(a=3, b=10, c=0)
    await cluster.roll("a", "b", "c")
    assert cluster.restarted == ["a", "b", "c"]
    assert [(step.step, step.node) for step in cluster.told] == [
        *((step, node) for node in "abc" for step in ("restarting", "back")),
        ("done", ""),
    ]
    assert [step.seconds for step in cluster.told if step.step == "back"] == [3.0, 10.0, 0.0]


async def test_none_goes_after_one_that_stays_away() -> None:
    cluster = Cluster(b=1_000)
    with pytest.raises(NotBack, match=r"^b is not back within 60 seconds: b/0 is away$"):
        await cluster.roll("a", "b", "c")
    assert cluster.restarted == ["a", "b"]


async def test_nothing_goes_while_something_else_is_wrong() -> None:
    cluster = Cluster()
    cluster.problem = "shard 7 is nobody's"
    with pytest.raises(NotSound, match=r"^Nothing was done to a: shard 7 is nobody's$"):
        await cluster.roll("a", "b", "c")
    assert cluster.restarted == []


async def test_who_is_no_member_is_not_restarted() -> None:
    cluster = Cluster()
    with pytest.raises(NotSound, match="it is no member"):
        await cluster.roll("d")


@pytest.mark.parametrize(
    ("left", "problem"),
    [
        ({"since": {0: 1.0, 1: 2.0}}, "worker 0 is still the one of before"),
        ({"since": {0: 2_000.0, 1: 2.0}}, "worker 1 is still the one of before"),
        ({"since": {0: 2_000.0, 1: 2_000.0}, "shards": 0}, "it owns no shard yet"),
    ],
)
async def test_a_node_is_back_only_when_all_of_it_is_new_and_takes_part(left: Mapping[str, Any], problem: str) -> None:
    class Lazy(Cluster):
        async def restart(self, node: Node, within_s: float) -> None:
            self._changed(node.name, **left)

    with pytest.raises(NotBack, match=problem):
        await Lazy().roll("a")


def test_locations_go_one_after_the_other_and_who_watches_goes_last() -> None:
    nodes = {
        name: Node(name=name, location=location)
        for name, location in (("n1", "west"), ("n2", "east"), ("n3", "west"), ("n4", "east"))
    }
    assert in_order(nodes, last="n2") == ["n4", "n1", "n3", "n2"]
