"""The drill from its beginning to its end: the site, the load, the steps in their order, and the judgement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.drills.balancer import BalancerFailed
from pigeonry.drills.cluster_audit import read_books
from pigeonry.drills.d2014.index import index_lost
from pigeonry.drills.d2014.nodes import hosts_rebooted, node_killed, rolling_restart
from pigeonry.drills.d2014.places import balancer_killed, location_killed
from pigeonry.drills.d2014.stage import SETTLED_S, WARM_S, Form, Stage
from pigeonry.drills.d2014.store import store_frozen
from pigeonry.drills.node import NodeDown
from pigeonry.drills.receiver import Misbehaviour
from pigeonry.drills.site import KEYSPACE, WITNESS, Plan, Site
from pigeonry.testing.cassandra import NodeFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from pigeonry.drills.audit import Books
    from pigeonry.drills.report import Report
    from pigeonry.ports.environment import Clock, Dice
    from pigeonry.testing.cassandra import Parts

__all__ = ["FULL", "SHORT", "STEPS", "d2014"]

STEPS: Final[Mapping[str, Callable[[Stage], Awaitable[None]]]] = {
    "rolling-restart": rolling_restart,
    "balancer": balancer_killed,
    "node": node_killed,
    "reboots": hosts_rebooted,
    "store": store_frozen,
    "index": index_lost,
    "location": location_killed,
}
"""All there are, in the order in which they are taken."""

_RECEIVER: Final = Misbehaviour(thinks_s=0.1)
SHORT: Final = Form(
    Plan({"dc1": 1}, misbehaviour=_RECEIVER),
    rate=20.0,
    steps=("rolling-restart", "node", "store", "index"),
    frozen_s=5.0,
    share=0.0,
)
FULL: Final = Form(
    Plan({"dc1": 1, "dc2": 1, WITNESS: 1}, misbehaviour=_RECEIVER),
    rate=30.0,
    steps=tuple(STEPS),
    frozen_s=60.0,
    share=0.8,
)


async def d2014(
    form: Form, folder: Path, parts: Parts, *, certificate: Path, clock: Clock, dice: Dice, report: Report
) -> None:
    """Run the drill in an empty folder and put its figures into the report.

    Args:
        certificate: PEM, chain and key, that the balancers show.
    """
    locations = form.plan.locations
    report.noted("Cassandra nodes", ", ".join(f"{name} {count}" for name, count in locations.items()))
    report.noted("Cassandra confirms when its log is synced (commitlog_sync)", "group")
    report.noted("not shown: a quorum that outlives a Cassandra node of its location", "1 replica")
    report.noted("not shown: an address that moves from one machine to another", "loopback")
    site = Site(form.plan, folder, parts, certificate=certificate, clock=clock, dice=dice)
    try:
        await site.start()
        await _run(Stage(site, form, clock=clock, report=report))
    except (NodeDown, NodeFailed, BalancerFailed) as error:
        report.broke_off(str(error).partition("\n")[0])
    finally:
        await site.stop()
    report.happened("done")


async def _run(stage: Stage) -> None:
    """All steps, and the judgement at their end."""
    report, rate = stage.report, stage.form.rate
    report.happened(f"load begins: {rate:.0f} messages a second, half of them by each door")
    stage.load.start(rate)
    try:
        await stage.clock.sleep(WARM_S)
        for name, step in STEPS.items():
            if name in stage.form.steps:
                await step(stage)
    finally:
        await stage.load.stop()
    report.happened("load ended; waiting until everything is settled")
    _judge(stage, await _settled(stage))


async def _settled(stage: Stage) -> Books:
    """Wait until every recipient has its end."""
    give_up = stage.clock.monotonic() + SETTLED_S
    while True:
        books = await read_books(stage.site.cluster.nodes[0], KEYSPACE)
        open_ones = sum(1 for path in books.accepted if not books.finals(path))
        if not open_ones or stage.clock.monotonic() > give_up:
            return books
        stage.report.happened(f"{open_ones} recipients without an end")
        await stage.clock.sleep(2.0)


def _judge(stage: Stage, books: Books) -> None:
    """Compare what was acknowledged, what arrived and what was recorded."""
    report, receiver, acknowledged = stage.report, stage.site.receiver, stage.ledger.acknowledged
    report.noted("messages acknowledged (each to one recipient)", str(len(acknowledged)))
    report.noted("messages without an answer", str(len(stage.ledger.unanswered)))
    report.none_of("acknowledged and lost", sum(1 for path in acknowledged if not receiver.copies(path)))
    report.none_of("acknowledged without an accepted event", sum(1 for p in acknowledged if not books.accepted[p]))
    report.none_of("acknowledged without exactly one final event", sum(1 for p in acknowledged if books.finals(p) != 1))
    report.none_of(
        "accepted in the log without exactly one final event",
        sum(1 for path in books.accepted if books.finals(path) != 1 or books.accepted[path] != 1),
    )
    refused = sum(1 for path in stage.ledger.refused if receiver.copies(path))
    report.none_of("refused and delivered all the same", refused)
    twice = [path for path in receiver.taken if receiver.copies(path) > 1]
    report.none_of("duplicates without a possible-duplicate flag", sum(1 for p in twice if not books.flagged[p]))
    report.none_of("gaps in the sequence of a shard's events", books.gaps)
    report.noted("duplicates, all of them in doubt and flagged", str(len(twice)))
    report.noted("recipients flagged as possible duplicates", str(len(books.flagged)))
