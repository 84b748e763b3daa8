"""Restarts the nodes of a cluster one after the other, and stops at the first that does not come back.

Before each node, and after it, the whole must be sound: every member answers and every shard has an owner. So no two
nodes are away at a time, and a release that does not start takes one node with it and not the cluster.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pigeonry.domain.errors import Fault

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock

__all__ = ["Node", "NotBack", "NotSound", "Standing", "Step", "in_order", "restart_all"]

LOOK_S: Final = 1.0  # between two looks at a cluster of which a part is away

Restart = Callable[["Node", float], Awaitable[None]]


class NotSound(Fault):
    """The cluster is not whole: nothing is restarted."""


class NotBack(Fault):
    """A node did not come back; those after it were not touched."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node as its members say it stands.

    Args:
        since: By slot, when each worker began, in seconds since the Unix epoch: a later one is another process.
        shards: How many its members own.
    """

    name: str
    location: str = ""
    since: Mapping[int, float] = {}
    shards: int = 0


class Standing(msgspec.Struct, frozen=True):
    """How the cluster stands.

    Args:
        nodes: By name.
        problem: What keeps it from being sound; empty when it is.
    """

    nodes: Mapping[str, Node]
    problem: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is told on the way.

    Args:
        seconds: How long the node was away.
    """

    step: Literal["restarting", "back", "done"]
    node: str = ""
    number: int = 0
    of: int = 0
    seconds: float = 0.0


def in_order(nodes: Mapping[str, Node], *, last: str) -> Sequence[str]:
    """Names by location and then by name: one location after the other, and the node that watches at the end."""
    return sorted(nodes, key=lambda name: (name == last, nodes[name].location, name))


async def restart_all(
    names: Sequence[str],
    *,
    standing: Callable[[], Awaitable[Standing]],
    restart: Restart,
    within_s: float,
    clock: Clock,
    tell: Callable[[Step], None],
) -> None:
    """Restart these nodes in this order.

    Args:
        standing: Looks at the cluster; never raises.
        restart: Restarts a node within so many seconds; returning means no more than that it was asked to.
        within_s: Seconds in which a node must be back, from its restart on.

    Raises:
        NotSound: The cluster is not whole before a restart, or a node is not in it.
        NotBack: A node did not come back.
        PigeonryError: What ``restart`` raises.
    """
    for number, name in enumerate(names, 1):
        before = await standing()
        if before.problem or name not in before.nodes:
            raise NotSound(f"Nothing was done to {name}: {before.problem or 'it is no member of the cluster'}")
        tell(Step(step="restarting", node=name, number=number, of=len(names)))
        began = clock.monotonic()
        await restart(before.nodes[name], within_s)
        while (problem := _away(before.nodes[name], await standing())) is not None:
            if clock.monotonic() - began > within_s:
                raise NotBack(f"{name} is not back within {within_s:.0f} seconds: {problem}")
            await clock.sleep(LOOK_S)
        tell(Step(step="back", node=name, number=number, of=len(names), seconds=clock.monotonic() - began))
    tell(Step(step="done", of=len(names)))


def _away(before: Node, now: Standing) -> str | None:
    """What of a node is still missing; None when it is back, with every worker begun anew, and the whole is sound."""
    node = now.nodes.get(before.name)
    if node is None:
        return now.problem or "none of its workers answers"
    old = [slot for slot, since in node.since.items() if since <= before.since.get(slot, 0.0)]
    if old:
        return f"worker {old[0]} is still the one of before"
    if before.shards and not node.shards:
        return "it owns no shard yet"
    return now.problem or None
