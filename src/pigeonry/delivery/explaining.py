"""Why a recipient that is due is not attempted at this moment, in words. Does no I/O and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.holding import Holding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pigeonry.delivery.egress import Egress
    from pigeonry.delivery.interventions import Interventions
    from pigeonry.delivery.lane import Lane
    from pigeonry.delivery.routing import Router
    from pigeonry.delivery.standing import Standings
    from pigeonry.domain.intervention import Intervention
    from pigeonry.domain.message import Pending
    from pigeonry.ports.environment import Clock
    from pigeonry.queue.ready import ReadyQueues

__all__ = ["Explaining"]

_NOT_LOOKED_UP: Final = Holding("route", "receiver", "The mail servers of its domain are being looked up.")
_NEXT: Final = Holding("turn", "server", "It is about to be attempted.")
_WORDS: Final = {"suspend": "Suspended", "drop": "To be dropped", "rebind": "To leave by another pool"}


class Explaining:
    """Looks at what delivery looks at, in the same order.

    Args:
        lanes: By source and site.
    """

    def __init__(
        self,
        lanes: Mapping[tuple[str, str], Lane],
        *,
        standings: Standings,
        interventions: Interventions,
        egress: Egress,
        router: Router,
        ready: ReadyQueues,
        clock: Clock,
    ) -> None:
        self._lanes = lanes
        self._standings = standings
        self._interventions = interventions
        self._egress = egress
        self._router = router
        self._ready = ready
        self._clock = clock

    def holding(self, pending: Pending) -> Holding:
        """What keeps a recipient that is due from being attempted."""
        told = self._interventions.of(pending)
        if told is not None:
            return _intervened(told)
        outlet = self._egress.choose(pending)
        if outlet is None:
            pool = self._egress.pool_for(pending)
            return Holding("pool", "operator", f"No address of the egress pool {pool} can be used by this node.")
        address = pending.address
        route = self._router.known(address[address.rindex("@") + 1 :])
        if route is None:
            return _NOT_LOOKED_UP
        outlet = self._egress.fitting(outlet, pending, route.site)
        told = self._interventions.on_path(pending, source=outlet.source.address, site=route.site)
        if told is not None:
            return _intervened(told)
        standing = self._standings.known(outlet.source.address, route)
        rest = None if standing is None else standing.rest or standing.tenants.get(pending.tenant)
        if rest is not None:
            text = f"It rests after a reply of {rest.whose} (rule {rest.rule.id}): {rest.rule.means}"
            return Holding("rest", "receiver", text, self._clock.now() + rest.until - self._clock.monotonic())
        lane = self._lanes.get((outlet.key, route.site))
        return _NEXT if lane is None else self._on(lane)

    def _on(self, lane: Lane) -> Holding:
        site, waiting, standing = lane.path.site, self._ready.backlog(lane.path), lane.standing
        if lane.rests_s > 0.0:
            times = "once" if lane.failures == 1 else f"{lane.failures} times in a row"
            text = f"No session with {site} could be had {times}{_said(lane)}"
            return Holding("rest", "receiver", text, self._clock.now() + lane.rests_s)
        if standing.share.used >= standing.allowed:
            most = f"All {standing.allowed} connections to {standing.name} that this worker may have are taken"
            return Holding("connections", "receiver", f"{most}; {waiting} wait.")
        return Holding("turn", "server", f"It waits for its turn among {waiting} for {site}.")


def _intervened(told: Intervention) -> Holding:
    why = f": {told.reason}" if told.reason else ""
    text = f"{_WORDS[told.action]} by intervention {told.id} ({told.scope}){why}"
    return Holding("intervention", "operator", text, told.until)


def _said(lane: Lane) -> str:
    failure = lane.failure
    if failure is None:
        return "."
    return f": {failure.description}" if failure.reply is None else f": {failure.reply.code} {failure.reply.text}"
