"""How one of our sources stands with one provider: the connections that all its sites share there, and what rests.

A provider is known by its MX hosts (``delivery.rulebook``); a site that belongs to none of them is one of its own. A
rule that a reply fired may have the source or a tenant rest for some time, or halve the connections; that holds for all
sites of the provider, for this worker, and ends by itself: nothing rests for longer than a rule may say. After a rest
the source comes back with one connection.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.delivery.rulebook.rules import Action, Rule
from pigeonry.quota.shares import Share

if TYPE_CHECKING:
    from pigeonry.delivery.lane import Lane
    from pigeonry.delivery.limits import DeliveryLimits
    from pigeonry.delivery.rulebook.book import RuleBook
    from pigeonry.domain.route import Route

__all__ = ["Rest", "Standing", "Standings"]

PROBE_S: Final = 60.0  # seconds with one connection after a rest: time for a reply that says no again
STEP_S: Final = 10.0  # seconds between two halvings: replies to what was sent before the first say nothing new
REMEMBERED_MAX: Final = 10_000  # standings kept for what they remember alone, some 500 octets each
TENANTS_MAX: Final = 1_000  # tenants that rest at one provider; more are a sign that the source should


class Rest(msgspec.Struct, frozen=True):
    """Why something rests, and until when (monotonic time).

    Args:
        whose: The provider, or the site where it has none, for people.
    """

    rule: Rule
    whose: str
    until: float


class Standing:
    """One source at one provider.

    Args:
        key: The source's address, and the provider's or the site's name.
        name: The provider's name or the site, for people.
        share: Of the connections that all workers together may have from that source to the provider.
        messages_per_connection: Then a connection is closed.
        ended: Called when something that rested does not any more.
    """

    __slots__ = (
        "_cap",
        "_ended",
        "_slow",
        "_slowed_at",
        "_timers",
        "hungry",
        "key",
        "lanes",
        "messages_per_connection",
        "name",
        "rest",
        "share",
        "tenants",
    )

    def __init__(
        self,
        key: tuple[str, str],
        name: str,
        share: Share,
        messages_per_connection: int,
        ended: Callable[[Standing], None],
    ) -> None:
        self.key = key
        self.messages_per_connection = messages_per_connection
        self.name = name
        self.share = share
        self.lanes: dict[Lane, None] = {}
        """Those of its sites for which there is something to do."""
        self.hungry: dict[Lane, None] = {}
        """Lanes that want a connection when all are taken, in order."""
        self.rest: Rest | None = None
        """Why nothing goes from this source."""
        self.tenants: dict[str, Rest] = {}
        """Why nothing of a tenant goes."""
        self._ended = ended
        self._cap = share.limit
        self._slow: asyncio.TimerHandle | None = None
        self._slowed_at = -math.inf
        self._timers: dict[str | None, asyncio.TimerHandle] = {}  # ends of rests: by tenant, None for the source

    @property
    def allowed(self) -> int:
        """Connections that may stand now."""
        return 0 if self.rest is not None else min(self.share.allowed, self._cap)

    @property
    def leaving(self) -> int:
        """Couriers that were too many and are about to end."""
        return sum(lane.leaving for lane in self.lanes)

    @property
    def over(self) -> bool:
        """Whether there are more connections than may be."""
        used, allowed = self.share.used, self.allowed
        return used > allowed and used - self.leaving > allowed

    @property
    def full(self) -> bool:
        """Whether no further connection may be opened now; asks for more where others may have some to spare."""
        if self.share.used >= self.share.allowed:
            self.share.more()
        return self.share.used >= self.allowed

    @property
    def forgettable(self) -> bool:
        """Whether nothing is to be remembered of it."""
        return not (self.lanes or self._timers or self._slow)

    def take_measure(self, rule: Rule, tenant: str, now: float) -> bool:
        """Do what a rule says that a reply to that tenant's mail fired; whether something rests that did not.

        Args:
            now: Monotonic.
        """
        if rule.action is Action.SLOW:
            self._slow_down(rule.for_s, now)
            return False
        if rule.action is Action.SUSPEND_SOURCE:
            before, self.rest = self.rest, self._rested(None, self.rest, rule, now)
        else:
            before = self.tenants.get(tenant)
            if before is None and len(self.tenants) >= TENANTS_MAX:
                return False
            self.tenants[tenant] = self._rested(tenant, before, rule, now)
        return before is None

    def dismiss_idle(self) -> None:
        """End couriers without work, as many as there are too many of."""
        too_many = self.share.used - self.leaving - self.allowed
        for lane in self.lanes:
            while too_many > 0 and lane.dismiss_one():
                too_many -= 1

    def make_room(self, lane: Lane) -> None:
        """Let a lane wait for a connection; one that another lane has no work for ends for it."""
        if lane in self.hungry or len(self.lanes) == 1:
            return
        self.hungry[lane] = None
        for other in self.lanes:
            if other is not lane and other.dismiss_one():
                return

    def next_hungry(self) -> Iterator[Lane]:
        """The lane that has waited longest for a connection, if one does."""
        if self.hungry:
            lane = next(iter(self.hungry))
            del self.hungry[lane]
            yield lane

    def stop(self) -> None:
        """No timer fires any more."""
        for timer in (*self._timers.values(), self._slow):
            if timer is not None:
                timer.cancel()
        self._timers.clear()
        self._slow = None

    def _rested(self, who: str | None, before: Rest | None, rule: Rule, now: float) -> Rest:
        until = now + rule.for_s
        if before is not None and before.until >= until:
            return before
        if who in self._timers:
            self._timers[who].cancel()
        self._timers[who] = asyncio.get_running_loop().call_later(rule.for_s, self._back, who)
        return Rest(rule, self.name, until)

    def _back(self, who: str | None) -> None:
        del self._timers[who]
        if who is None:
            self.rest = None
            self._limit(1, PROBE_S)
        else:
            del self.tenants[who]
        self._ended(self)

    def _slow_down(self, seconds: float, now: float) -> None:
        if now < self._slowed_at + STEP_S:
            return
        self._slowed_at = now
        self._limit(max(1, min(self._cap, self.share.used) // 2), seconds)
        self.dismiss_idle()

    def _limit(self, cap: int, seconds: float) -> None:
        if self._slow is not None:
            self._slow.cancel()
        self._cap = cap
        self._slow = asyncio.get_running_loop().call_later(seconds, self._at_full)

    def _at_full(self) -> None:
        self._slow = None
        self._cap = self.share.limit
        self._ended(self)


class Standings:
    """All of a worker's.

    Args:
        book: Knows providers.
        limits: Ours; a provider may allow less.
        shares: This worker's share of a limit, by the limit's name and units.
        node: Whose address it is where the system chooses one.
        ended: Called when something that rested at one does not any more, or it may have more connections.
    """

    def __init__(
        self,
        book: RuleBook,
        *,
        limits: DeliveryLimits,
        shares: Callable[[str, int], Share],
        node: str,
        ended: Callable[[Standing], None],
    ) -> None:
        self._book = book
        self._limits = limits
        self._shares = shares
        self._node = node
        self._ended = ended
        self._all: dict[tuple[str, str], Standing] = {}  # by source, and provider or site
        self._remembered: dict[tuple[str, str], None] = {}  # those without lanes, in order

    def of(self, source: str, route: Route) -> Standing:
        """How a source stands with whose site it is."""
        whose = _whose(route)
        key = (source, whose)
        self._remembered.pop(key, None)
        standing = self._all.get(key)
        if standing is None:
            limits = self._book.limited(self._limits, route.provider)
            name = self._book.providers[route.provider].name if route.provider else route.site
            share = self._shares(f"connections:{source or self._node}:{whose}", limits.connections_per_path)
            standing = self._all[key] = Standing(key, name, share, limits.messages_per_connection, self._over)
        return standing

    def known(self, source: str, route: Route) -> Standing | None:
        """The same, where there is one."""
        return self._all.get((source, _whose(route)))

    def left(self, lane: Lane) -> None:
        """A lane is done: what is to be remembered of its standing is, up to a bound, and no more than that."""
        standing = lane.standing
        standing.lanes.pop(lane, None)
        standing.hungry.pop(lane, None)
        self._forget(standing)

    def stop(self) -> None:
        """No timer fires any more."""
        for standing in self._all.values():
            standing.stop()

    def _over(self, standing: Standing) -> None:
        self._ended(standing)
        self._forget(standing)

    def _forget(self, standing: Standing) -> None:
        key = standing.key
        self._remembered.pop(key, None)
        if standing.forgettable:
            self._all.pop(key, None)
        elif not standing.lanes:
            self._remembered[key] = None
            while len(self._remembered) > REMEMBERED_MAX:
                oldest = next(iter(self._remembered))
                del self._remembered[oldest]
                self._all.pop(oldest).stop()


def _whose(route: Route) -> str:
    return f"provider:{route.provider}" if route.provider else route.site
