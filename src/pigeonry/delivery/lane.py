"""One egress path as delivery sees it: its route, its connections, and whether it rests after failing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from pigeonry.delivery.egress import Outlet
from pigeonry.delivery.limits import DeliveryLimits
from pigeonry.delivery.pace import PATIENCE_S, Pace
from pigeonry.delivery.standing import Standing
from pigeonry.domain.outcome import Deferred
from pigeonry.domain.route import EgressPath, Route
from pigeonry.ports.environment import Dice

__all__ = ["Lane"]

_DOUBLINGS_MAX: Final = 16  # beyond which the longest rest is certainly reached


class Lane:
    """The state of one path.

    Args:
        outlet: Where it leaves from.
        route: The hosts, as they were last found.
        standing: Of its source with the provider whose site it is, which the lanes of all its sites share.
    """

    __slots__ = (
        "_resting",
        "_watch",
        "failure",
        "failures",
        "idle",
        "leaving",
        "outlet",
        "pace",
        "path",
        "route",
        "serving",
        "standing",
        "sweeping",
    )

    def __init__(self, outlet: Outlet, route: Route, standing: Standing) -> None:
        self.outlet = outlet
        self.path = EgressPath(outlet.key, route.site)
        """Its key in the ready queues."""
        self.route = route
        self.standing = standing
        self.serving = 0
        """Couriers: connections that stand or are being opened."""
        self.leaving = 0
        """Couriers that were too many and are about to end."""
        self.idle: list[asyncio.Future[bool]] = []
        """Couriers without work, the last one to become idle at the end: it is woken first, so that others can end."""
        self.failures = 0
        """Openings that failed in a row."""
        self.failure: Deferred | None = None
        self.sweeping = False
        self.pace = Pace()
        self._resting: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> int:
        """Connections that will take more when they are done with what they have."""
        return self.serving - self.leaving - len(self.idle)

    @property
    def over(self) -> bool:
        """Whether one of its connections is to end: others are to have it, or there are to be fewer, or none."""
        return self.standing.over

    @property
    def resting(self) -> bool:
        """Whether no connection may be opened now."""
        return self._resting is not None

    @property
    def rests_s(self) -> float:
        """Seconds until a connection may be opened; 0.0 for now."""
        if self._resting is None:
            return 0.0
        return max(0.0, self._resting.when() - asyncio.get_running_loop().time())

    def wake_one(self) -> bool:
        """Give work to a courier that waits for it; False when none does."""
        while self.idle:
            waiter = self.idle.pop()
            if not waiter.done():
                waiter.set_result(True)
                return True
        return False

    def dismiss_one(self) -> bool:
        """End a courier that waits for work; False when none does."""
        while self.idle:
            waiter = self.idle.pop(0)
            if not waiter.done():
                waiter.set_result(False)
                return True
        return False

    def worked(self) -> None:
        """A server took part in a conversation: what failed before is over."""
        self.failures = 0
        self.failure = None

    def failed(self, failure: Deferred, *, limits: DeliveryLimits, dice: Dice, wake: Callable[[], None]) -> None:
        """No session could be had: rest, for longer each time, then ``wake``.

        What fails while the path rests was begun before: it is the same failure, and counts once.
        """
        self.failure = failure
        if self._resting is not None:
            return
        self.failures += 1
        rest_s = min(limits.rest_s * 2.0 ** min(self.failures - 1, _DOUBLINGS_MAX), limits.rest_s_max)
        loop = asyncio.get_running_loop()
        self._resting = loop.call_later(rest_s * (1.0 + 0.25 * dice.random()), self._rested, wake)

    def watch(self, waiting: int, late: Callable[[Lane, int], None]) -> None:
        """Call back with how many of those that wait now nobody has taken in time; only one watch at a time."""
        if self._watch is None:
            due = self.pace.taken + waiting
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(2.0 * PATIENCE_S, self._watched, due, late)

    def stop(self) -> None:
        """No timer of this lane fires any more."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _watched(self, due: int, late: Callable[[Lane, int], None]) -> None:
        self._watch = None
        late(self, max(0, due - self.pace.taken))

    def _rested(self, wake: Callable[[], None]) -> None:
        self._resting = None
        wake()
