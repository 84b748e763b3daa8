"""Steps of a place: one of its balancers is killed, and all of it at one instant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pigeonry.drills.addresses import GRACE_S
from pigeonry.drills.clients import is_taken
from pigeonry.drills.d2014.stage import AFTER_S, all_failed, last_failure
from pigeonry.drills.load import CUT
from pigeonry.drills.site import IN_DOUBT_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pigeonry.drills.d2014.stage import Stage

__all__ = ["balancer_killed", "location_killed"]

FAILOVER_S: Final = 4.0  # bar; from the death of a balancer until all is taken again
ACCEPTS_S: Final = 30.0  # bar; from the death of a location until the other takes all that comes
DUE_S: Final = 12.0  # from then until mail for the dead one's addresses is due
DEDICATED: Final = 20  # messages for each of its pools
MOVES_S: Final = 90.0  # bar; from then until the dead one's shards are served


async def balancer_killed(stage: Stage) -> None:
    """Kill -9 of one of a pair: its connections end, and all others go on."""
    report, clock = stage.report, stage.clock
    dead = next(iter(stage.site.balancers.values()))[0]
    report.happened("kill -9 of a balancer")
    died = clock.monotonic()
    await dead.die()
    await clock.sleep(AFTER_S)
    sent = stage.load.since(died)
    stage.tell(sent)
    report.none_of("balancer killed: refused or unreached", sum(1 for each in all_failed(sent) if each.code != CUT))
    report.at_most("balancer killed: all is taken again, s", last_failure(sent, died), FAILOVER_S)
    await dead.start()


async def location_killed(stage: Stage) -> None:
    """All of a location ends at one instant, and comes back later."""
    site, report, clock = stage.site, stage.report, stage.clock
    location = next(iter(site.balancers))
    names = site.at(location)
    stores = [each for each in site.cluster.nodes if each.seat.location == location]
    sent_at = clock.now()
    dedicated = {pool: await _sent(stage, pool, due=sent_at + DUE_S) for pool in site.addresses.dedicated()}
    report.happened(f"kill -9 of all of {location}: {', '.join(names)}, their balancers and their Cassandra")
    died = clock.monotonic()
    for each in stores:
        each.kill()
    for balancer in site.balancers[location]:
        await balancer.die()
    for name in names:
        await site.nodes[name].die()
    took = await stage.until_served_without(*names)
    report.happened(f"all shards are served after {took:.1f} s")
    await clock.sleep(AFTER_S)
    sent = stage.load.since(died)
    stage.tell(sent)
    report.at_most(f"{location} killed: the other takes all that comes, s", last_failure(sent, died), ACCEPTS_S)
    report.at_most(f"{location} killed: its queue has moved, s", took, MOVES_S)
    await clock.sleep(sent_at + DUE_S + GRACE_S + AFTER_S - clock.now())
    report.none_of(f"{location} killed: not delivered by pool:ID", _not_taken(stage, dedicated["named"]))
    report.none_of(f"{location} killed: not delivered by shared", _not_taken(stage, dedicated["anyhow"]))
    waiting = _not_taken(stage, dedicated["waits"])
    report.exactly(f"{location} killed: held back by queue", waiting, len(dedicated["waits"]))
    await asyncio.gather(*(each.start() for each in stores))
    await site.cluster.formed()
    await asyncio.gather(*(site.nodes[name].start() for name in names))
    await asyncio.gather(*(balancer.start() for balancer in site.balancers[location]))
    report.happened(f"{location} is back")
    await clock.sleep(IN_DOUBT_S)
    await stage.until_taken(dedicated["waits"])
    report.none_of(f"{location} is back: not delivered of what queue held", _not_taken(stage, dedicated["waits"]))
    report.none_of("mail that left from an address that its pool does not permit", _strays(stage, dedicated))


async def _sent(stage: Stage, pool: str, *, due: float) -> list[str]:
    """Hand the first location messages that leave by a pool, and later; those that were taken."""
    door = stage.site.door(
        next(iter(stage.site.balancers)), {"o:sending-ip-pool": pool, "o:deliverytime": f"{due:.0f}"}
    )
    reader, writer = await asyncio.open_connection(*door.addresses[0], ssl=door.tls)
    taken = []
    try:
        for _ in range(DEDICATED):
            path = stage.ledger.fresh()
            code = await door.client.send(reader, writer, path)
            stage.ledger.answered(path, code)
            if is_taken(code):
                taken.append(path)
    finally:
        writer.transport.abort()
    stage.report.exactly(f"messages taken for the pool {pool}", len(taken), DEDICATED)
    return taken


def _not_taken(stage: Stage, paths: Sequence[str]) -> int:
    return sum(1 for path in paths if not stage.site.receiver.copies(path))


def _strays(stage: Stage, dedicated: Mapping[str, Sequence[str]]) -> int:
    """Messages of which a copy came from an address that was not theirs; the load's have the shared pool."""
    addresses = stage.site.addresses
    pools = {path: pool for pool, paths in dedicated.items() for path in paths}
    shared, permitted = set(addresses.of("shared").values()), addresses.dedicated()
    return sum(
        1
        for path, came_from in stage.site.receiver.came_from.items()
        if not came_from <= (permitted[pools[path]] if path in pools else shared)
    )
