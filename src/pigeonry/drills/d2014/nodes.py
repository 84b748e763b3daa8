"""Steps of single nodes: all restart in order, one is killed, each reboots with its store."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from pigeonry.drills.d2014.stage import WARM_S, all_failed
from pigeonry.drills.senders import Sender
from pigeonry.drills.site import IN_DOUBT_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pigeonry.drills.d2014.stage import Stage

__all__ = ["hosts_rebooted", "node_killed", "rolling_restart"]

TAKEOVER_S: Final = 15.0  # bar; from the death of a node until its shards are served
MEASURED_S: Final = 10.0  # of load by as many clients as there are, for the capacity
CLIENTS: Final = 12  # by each door, for the capacity: more do not make it more on two cores


async def rolling_restart(stage: Stage) -> None:
    """Each node ends in order and comes back, one after the other, at a share of what all take at most."""
    site, report, clock = stage.site, stage.report, stage.clock
    rate = stage.form.rate
    if stage.form.share:
        await stage.load.stop()
        capacity = await _capacity(stage)
        report.noted("capacity, messages a second", f"{capacity:.0f}")
        rate = stage.form.share * capacity
        report.happened(f"load goes on with {rate:.0f} messages a second")
        stage.load.start(rate)
        await clock.sleep(WARM_S)
    begun, first = clock.monotonic(), len(stage.ledger.acknowledged)
    for name, node in site.nodes.items():
        report.happened(f"{name} restarts")
        await node.stop()
        await node.start()
        await clock.sleep(WARM_S)
    sent = stage.load.since(begun)
    stage.load.rate = stage.form.rate
    what = f"rolling restart at {rate:.0f}/s: "
    report.none_of(what + "HTTP requests failed", len(all_failed(sent, "HTTP")))
    report.none_of(what + "SMTP transactions cut or refused", len(all_failed(sent, "SMTP")))
    acknowledged = stage.ledger.acknowledged[first:]
    await stage.until_taken(acknowledged)
    copies = [site.receiver.copies(path) for path in acknowledged]
    report.none_of(what + "not delivered", sum(1 for count in copies if not count))
    report.none_of(what + "duplicates", sum(1 for count in copies if count > 1))
    stage.tell(sent)


async def _capacity(stage: Stage) -> float:
    """Messages a second that are taken from clients that wait for each answer."""
    stage.report.happened("measuring the capacity")
    ledger = stage.ledger
    ledger.total = 2**62
    first = len(ledger.acknowledged)
    senders = [
        asyncio.ensure_future(Sender(ledger, stage.clock, address, door.client, door.tls).run())
        for door in stage.site.doors()
        for number in range(CLIENTS)
        for address in [door.addresses[number % len(door.addresses)]]
    ]
    await stage.clock.sleep(MEASURED_S)
    taken = len(ledger.acknowledged) - first
    ledger.total = 0  # each comes to the end of what it sends
    await asyncio.gather(*senders)
    return taken / MEASURED_S


async def node_killed(stage: Stage) -> None:
    """Kill -9 of a node in full delivery."""
    site, report = stage.site, stage.report
    name = next(iter(site.nodes))
    owners = await site.owners()
    held = [number for number, owner in owners.items() if owner == name]
    report.happened(f"the shards are at {_counted(owners.values())}")
    report.happened(f"kill -9 of {name}, which has {len(held)} shards")
    await site.nodes[name].die()
    took = await stage.until_served_without(name)
    report.happened(f"all shards are served after {took:.1f} s")
    report.at_most("node killed: its shards are taken over, s", took, TAKEOVER_S)
    await site.nodes[name].start()
    report.happened(f"{name} is back")
    await stage.clock.sleep(IN_DOUBT_S)


async def hosts_rebooted(stage: Stage) -> None:
    """Each host loses its power and comes back, one after the other: a node and its Cassandra at one instant."""
    site, report = stage.site, stage.report
    begun, first = stage.clock.monotonic(), len(stage.ledger.acknowledged)
    for name, node in site.nodes.items():
        store = site.store_of(name)
        report.happened(f"the host of {name} reboots{', with its Cassandra' if store else ''}")
        await node.die()
        if store is not None:
            store.kill()
            await store.start()
            await site.cluster.formed()
        await node.start()
        await stage.until_served_without()
    sent = stage.load.since(begun)
    stage.tell(sent)
    acknowledged = stage.ledger.acknowledged[first:]
    await stage.until_taken(acknowledged)
    report.noted("hosts rebooted: of so many messages were refused or cut", f"{len(sent)}: {len(all_failed(sent))}")
    lost = sum(1 for path in acknowledged if not site.receiver.copies(path))
    report.none_of("hosts rebooted: acknowledged and not delivered", lost)


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name or 'nobody'}: {count}" for name, count in sorted(Counter(names).items()))
