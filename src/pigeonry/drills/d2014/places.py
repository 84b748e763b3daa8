"""Steps of a place: one of its balancers is killed, and all of it at one instant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.drills.d2014.stage import AFTER_S, all_failed, last_failure
from pigeonry.drills.load import CUT
from pigeonry.drills.site import IN_DOUBT_S

if TYPE_CHECKING:
    from pigeonry.drills.d2014.stage import Stage

__all__ = ["balancer_killed", "location_killed"]

FAILOVER_S: Final = 4.0  # bar; from the death of a balancer until all is taken again
ACCEPTS_S: Final = 30.0  # bar; from the death of a location until the other takes all that comes
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
    for each in stores:
        await each.start()
    await site.cluster.formed()
    for name in names:
        await site.nodes[name].start()
    for balancer in site.balancers[location]:
        await balancer.start()
    report.happened(f"{location} is back")
    await clock.sleep(IN_DOUBT_S)
