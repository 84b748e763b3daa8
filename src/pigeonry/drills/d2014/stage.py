"""What every step of the drill works with: the site, the load on it, and ways to wait and to tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.drills.clients import is_taken
from pigeonry.drills.load import Load
from pigeonry.drills.senders import Ledger
from pigeonry.drills.site import RECEIVER_DOMAIN, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pigeonry.drills.load import Attempt
    from pigeonry.drills.report import Report
    from pigeonry.drills.site import Site
    from pigeonry.ports.environment import Clock

__all__ = [
    "AFTER_S",
    "GIVE_UP_S",
    "LOOK_S",
    "SETTLED_S",
    "WARM_S",
    "Form",
    "Stage",
    "all_failed",
    "last_failure",
    "p99",
]

GIVE_UP_S: Final = 120.0  # after which what was waited for counts as never
SETTLED_S: Final = 60.0  # for the queue to empty after the load
LOOK_S: Final = 0.05  # between two looks at who owns what
WARM_S: Final = 3.0  # of load before anything happens
AFTER_S: Final = 8.0  # of load after something happened: over the bar of the thaw


class Form(msgspec.Struct, frozen=True):
    """How long and on what.

    Args:
        rate: Messages a second, half of them by each door.
        steps: By name, in their order.
        frozen_s: How long the store is frozen.
        share: Of the measured capacity, at which the nodes restart; 0: the rate, and nothing is measured.
    """

    plan: Plan
    rate: float
    steps: Sequence[str]
    frozen_s: float
    share: float


class Stage:
    """A site under load."""

    def __init__(self, site: Site, form: Form, *, clock: Clock, report: Report) -> None:
        self.site = site
        self.form = form
        self.clock = clock
        self.report = report
        self.ledger = Ledger(0, RECEIVER_DOMAIN)
        self.load = Load(self.ledger, clock, site.doors())

    async def until_served_without(self, *names: str) -> float:
        """Wait until every shard is served, and by none of these nodes; seconds that it took."""
        begun = self.clock.monotonic()
        while (took := self.clock.monotonic() - begun) < GIVE_UP_S:
            owners = await self.site.owners()
            if all(owner and owner not in names for owner in owners.values()):
                return took
            await self.clock.sleep(LOOK_S)
        return GIVE_UP_S

    async def until_taken(self, paths: Sequence[str]) -> None:
        """Wait until the receiver has all these, or so long that it counts as never."""
        give_up = self.clock.monotonic() + SETTLED_S
        while self.clock.monotonic() < give_up and not all(map(self.site.receiver.copies, paths)):
            await self.clock.sleep(LOOK_S)

    def tell(self, attempts: Sequence[Attempt]) -> None:
        """Add to the timeline what the answers were."""
        codes = sorted({(each.kind, each.code) for each in attempts})
        counts = {code: sum(1 for each in attempts if (each.kind, each.code) == code) for code in codes}
        told = ", ".join(f"{kind} {code}: {counts[kind, code]}" for kind, code in codes)
        self.report.happened(f"answers: {told}; p99 {p99(each.took_s for each in attempts):.2f} s")


def all_failed(attempts: Iterable[Attempt], kind: str = "") -> list[Attempt]:
    """Those that were not taken, by one door or by any."""
    return [each for each in attempts if not is_taken(each.code) and kind in ("", each.kind)]


def last_failure(attempts: Iterable[Attempt], begun: float) -> float:
    """When the last message that was not taken was due, in seconds from then."""
    return max((each.due - begun for each in all_failed(attempts)), default=0.0)


def p99(values: Iterable[float]) -> float:
    """The 99th percentile; 0 of nothing."""
    found = sorted(values)
    return found[math.ceil(0.99 * len(found)) - 1] if found else 0.0
