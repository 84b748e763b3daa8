"""``pigeonry cluster rolling-restart``: node after node, by whatever restarts a node where it runs."""

from __future__ import annotations

import asyncio
import shlex
import sys
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from pigeonry.app.cluster_status import Status
from pigeonry.app.config import node_name
from pigeonry.app.local import cluster_status, node_data
from pigeonry.app.output import ConfigFile, print_json
from pigeonry.app.rolling import Node, NotSound, Standing, Step, in_order, restart_all
from pigeonry.domain.errors import BadRequest, Fault, PigeonryError
from pigeonry.net.environment import SystemClock

__all__ = ["rolling_restart"]

NODE: Final = "{node}"  # stands for the node's name in the command


def rolling_restart(
    *,
    command: Annotated[
        str,
        Parameter(
            help="Restarts a node; `{node}` stands for its name. Run without a shell. With systemd: "
            "'ssh {node} systemctl restart pigeonry'."
        ),
    ],
    node: Annotated[list[str] | None, Parameter(help="Only this node; may be repeated.", negative="")] = None,
    within: Annotated[float, Parameter(help="Seconds in which a node must be back, its drain included.")] = 300.0,
    config: ConfigFile = None,
    json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print each step as a JSON value on a line of its own.")
    ] = False,
) -> None:
    """Restart the nodes one after the other, location by location, and stop at the first that stays away.

    Before and after each one every member must answer and every shard have an owner. A node is back when all its
    workers are new and it owns shards again. The node on which this runs is restarted last.
    """
    words = shlex.split(command)
    if not words:
        raise BadRequest("--command: is empty")
    asyncio.run(_roll(words, node, within_s=within, config=config, json=json))


async def _roll(words: list[str], only: list[str] | None, *, within_s: float, config: str | None, json: bool) -> None:
    settings, _ = node_data(config)

    async def standing() -> Standing:
        try:
            return _standing(await cluster_status(config))
        except PigeonryError as error:
            return Standing({}, error.text)

    now = await standing()
    if now.problem:
        raise NotSound(f"Nothing was done: {now.problem}")
    await restart_all(
        only or in_order(now.nodes, last=node_name(settings)),
        standing=standing,
        restart=lambda one, seconds: _run([word.replace(NODE, one.name) for word in words], seconds),
        within_s=within_s,
        clock=SystemClock(),
        tell=print_json if json else _say,
    )


def _standing(status: Status) -> Standing:
    """The members of a node as one."""
    nodes: dict[str, Node] = {}
    problem = "" if not status.unowned else f"{len(status.unowned)} shards are nobody's, {status.unowned[0]} is one"
    for member in status.members:
        if member.problem:
            problem = problem or f"{member.member}: {member.problem}"
            continue
        name, _, slot = member.member.rpartition("/")
        node = nodes.get(name, Node(name=name, location=member.location))
        nodes[name] = msgspec.structs.replace(
            node, since={**node.since, int(slot): member.since}, shards=node.shards + member.shards
        )
    return Standing(nodes, problem)


async def _run(words: list[str], within_s: float) -> None:
    """Run the command that restarts a node; what it prints goes to standard error.

    Raises:
        Fault: It cannot be run, fails, or takes too long.
    """
    shown = shlex.join(words)
    try:
        process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr)
    except OSError as error:
        raise Fault(f"{shown}: cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(within_s):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Fault(f"{shown}: did not end within {within_s:.0f} seconds") from None
    if status:
        raise Fault(f"{shown}: ended with status {status}")


def _say(step: Step) -> None:
    sentences = {
        "restarting": f"{step.node}: restarting ({step.number} of {step.of})",
        "back": f"{step.node}: back after {step.seconds:.1f} s",
        "done": f"All {step.of} nodes were restarted.",
    }
    sys.stdout.write(sentences[step.step] + "\n")
    sys.stdout.flush()
