"""The step of a store that is frozen: every node of Cassandra stops in the middle, and goes on later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.drills.clients import is_taken
from pigeonry.drills.d2014.stage import AFTER_S, last_failure, p99

if TYPE_CHECKING:
    from pigeonry.drills.d2014.stage import Stage

__all__ = ["store_frozen"]

REFUSAL_S: Final = 1.0  # bar; for an answer while the store is frozen, at the 99th percentile
NORMAL_S: Final = 5.0  # bar; from the thaw until all is taken again
GROWTH_MIB: Final = 64.0  # bar; of a worker while the store is frozen: the bound of what may wait for it
ANSWERS_OF_ABSENCE: Final = (421, 451, 503)


async def store_frozen(stage: Stage) -> None:
    """Refused at once while it is silent, and all taken again soon after."""
    site, report, clock = stage.site, stage.report, stage.clock
    before = max(node.resident_mib() for node in site.nodes.values())
    stage.load.patient = False
    for each in site.cluster.nodes:
        each.pause()
    report.happened("the store is frozen")
    froze, most = clock.monotonic(), before
    while clock.monotonic() < froze + stage.form.frozen_s:
        await clock.sleep(1.0)
        most = max(most, *(node.resident_mib() for node in site.nodes.values()))
    for each in site.cluster.nodes:
        each.resume()
    thawed = clock.monotonic()
    report.happened("the store is thawed")
    await clock.sleep(AFTER_S)
    stage.load.patient = True
    sent = stage.load.since(froze, thawed)
    stage.tell(sent)
    odd = [each for each in sent if each.code not in ANSWERS_OF_ABSENCE and not is_taken(each.code)]
    report.none_of("store frozen: answers other than 421, 451 and 503", len(odd))
    report.at_most("store frozen: time to an answer at p99, s", p99(each.took_s for each in sent), REFUSAL_S)
    report.at_most("store frozen: growth of a worker, MiB", most - before, GROWTH_MIB)
    after = stage.load.since(thawed)
    stage.tell(after)
    report.at_most("store thawed: all is taken again, s", last_failure(after, thawed), NORMAL_S)
