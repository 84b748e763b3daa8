"""Delivery's face to the queue: takes what is due, finds its path, and owns the connections.

``dispatch`` is called by the scheduler for each recipient that is due and does no I/O: with a route at hand it puts
the recipient into the ready queue of its path and wakes a courier or starts one; else it is looked up first, with one
look-up for all recipients of the domain that wait. ``run`` owns all tasks. ``drain`` lets what is under way end.

A path to which no session can be had rests, for longer each time; when it has failed repeatedly, what waits for it is
deferred together (*swept*), so that its recipients keep to the retry schedule instead of queueing for a dead host.

Where a source is lost, what waits for its paths is dispatched anew: it leaves by another source of its pool, or waits
in the store (``delivery.egress``).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from pigeonry.delivery.classify import held_back, timed
from pigeonry.delivery.courier import Content, Courier, Parts, Settling
from pigeonry.delivery.egress import Egress, Outlet
from pigeonry.delivery.explaining import Explaining
from pigeonry.delivery.interventions import Interventions
from pigeonry.delivery.lane import Lane
from pigeonry.delivery.limits import DeliveryLimits
from pigeonry.delivery.opening import Opener, OtherFamily
from pigeonry.delivery.policies import NO_POLICIES, Policies
from pigeonry.delivery.preparing import Preparing, Render
from pigeonry.delivery.routing import NoRoute, Router
from pigeonry.delivery.rulebook.book import EMPTY, RuleBook
from pigeonry.delivery.rulebook.rules import Action, Rule
from pigeonry.delivery.standing import Rest, Standing, Standings
from pigeonry.delivery.turnstile import Turnstile
from pigeonry.delivery.unattempted import Unattempted
from pigeonry.domain.intervention import Intervention
from pigeonry.domain.message import Message, Pending, Settle
from pigeonry.domain.outcome import Deferred, Outcome, Withdrawn
from pigeonry.domain.route import Route
from pigeonry.domain.tenant import SendingDomain
from pigeonry.ports.environment import Clock, Dice
from pigeonry.ports.network import SourceGone
from pigeonry.ports.queue_store import QueueStore
from pigeonry.protocol.dkim.signer import DkimSigner
from pigeonry.queue.ready import ReadyQueues
from pigeonry.quota.shares import Share
from pigeonry.telemetry.log import Logger

__all__ = ["Dispatcher"]

ANEW_PAUSE_S: Final = 0.001  # seconds between hundreds that are dispatched anew, so that others get their turn


class Dispatcher:
    """All of a worker's delivery.

    Args:
        ready: The ready queues, shared with nobody else who pops.
        content: Messages and their octets.
        scheduler: Takes outcomes; its ``dispatch`` is this object's ``dispatch``.
        store: For ``dot-sent`` and recipients' variables.
        router: Finds routes.
        opener: Makes connections.
        settlement: What to write for an outcome: ``queue.settlement.settle`` with its parameters filled in.
        signers: A sending domain's DKIM signers.
        domain: A sending domain with its settings.
        render: For batch messages.
        shares: This worker's share of a limit, by the limit's name and units; alone it has all of it.
        egress: Chooses where to send from; the system does when not given.
        interventions: The operator's; none when not given.
        node: Whose address the system chooses: what receivers allow is for each address.
        policies: What recipients' domains want of TLS.
        book: What providers allow, and what their replies mean.
    """

    def __init__(
        self,
        *,
        ready: ReadyQueues,
        content: Content,
        scheduler: Settling,
        store: QueueStore,
        router: Router,
        opener: Opener,
        settlement: Callable[[Pending, Message, Outcome, float], Settle],
        signers: Callable[[str], Sequence[DkimSigner]],
        domain: Callable[[str], SendingDomain | None],
        render: Render,
        clock: Clock,
        dice: Dice,
        log: Logger,
        limits: DeliveryLimits | None = None,
        shares: Callable[[str, int], Share] = Share,
        egress: Egress | None = None,
        interventions: Interventions | None = None,
        node: str = "",
        policies: Policies = NO_POLICIES,
        book: RuleBook = EMPTY,
    ) -> None:
        self._ready = ready
        self._router = router
        self._dice = dice
        self._limits = limits or DeliveryLimits()
        self._egress = egress or Egress(domain=domain, clock=clock)
        self._interventions = interventions or Interventions(clock)
        self._parts = Parts(
            content=content,
            settling=scheduler,
            store=store,
            opener=opener,
            preparing=Preparing(store=store, clock=clock, signers=signers, domain=domain, render=render),
            policies=policies,
            clock=clock,
            limits=self._limits,
            pop=self._pop,
            settlement=settlement,
            ending=lambda: self._ending,
            failed=self._failed,
            astray=self._astray,
            interventions=self._interventions,
            book=book,
            ruled=self._ruled,
            turnstile=Turnstile(clock, self._limits.beginning_s),
            log=log,
        )
        self._lanes: dict[tuple[str, str], Lane] = {}  # by source and site
        self._standings = Standings(book, limits=self._limits, shares=shares, node=node, ended=self._adapt)
        self.explaining = Explaining(
            self._lanes,
            standings=self._standings,
            interventions=self._interventions,
            egress=self._egress,
            router=router,
            ready=ready,
            clock=clock,
        )
        """Why what is due is not attempted."""
        self._couriers = 0
        self._hungry: dict[Lane, None] = {}  # lanes that want a connection when all are taken, in order
        self._unattempted = Unattempted(self._parts, self._check_quiet)
        self._looking: dict[str, list[Pending]] = {}  # recipients whose domain's route is being looked up
        self._to_look: deque[str] = deque()
        self._look_ups = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._ending = False
        self._quiet = asyncio.Event()

    @property
    def connections(self) -> int:
        """Connections that stand or are being opened."""
        return self._couriers

    def dispatch(self, pending: Pending) -> None:
        """Take a recipient that is due. Does no I/O and does not raise."""
        told = self._interventions.of(pending)
        if told is not None:
            self._intervene(told, pending)
            return
        outlet = self._egress.choose(pending)
        if outlet is None:
            self._wait(pending)
            return
        address = pending.address
        domain = address[address.rindex("@") + 1 :]
        route = self._router.known(domain)
        if route is not None:
            self._enqueue(route, pending, outlet)
            return
        waiting = self._looking.get(domain)
        if waiting is not None:
            waiting.append(pending)
            return
        self._looking[domain] = [pending]
        self._to_look.append(domain)
        self._look()

    async def run(self) -> None:
        """Deliver until cancelled, which cuts every connection at once; ``drain`` first to let them end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._look()
                for lane in tuple(self._lanes.values()):
                    self._stir(lane)
                try:
                    await asyncio.Event().wait()
                finally:
                    self._tasks = None
        finally:
            self._standings.stop()
            for lane in self._lanes.values():
                lane.stop()

    async def drain(self) -> None:
        """Take no more work; return when all conversations have ended and their outcomes are durable.

        What waits stays in the store. The caller bounds the wait and cancels ``run`` afterwards.
        """
        self._ending = True
        for lane in self._lanes.values():
            lane.stop()
            while lane.wake_one():
                pass
        self._check_quiet()
        await self._quiet.wait()

    # Routes

    def _look(self) -> None:
        while self._tasks is not None and self._to_look and self._look_ups < self._limits.look_ups_max:
            self._look_ups += 1
            self._tasks.create_task(self._look_up(self._to_look.popleft()))

    async def _look_up(self, domain: str) -> None:
        started = self._parts.clock.monotonic()
        try:
            route = await self._router.route(domain)
            await self._parts.policies.learn(domain)
        except NoRoute as none:
            outcome = timed(none.outcome, self._parts.clock.monotonic() - started)
            await self._unattempted.conclude_all(self._claimed(self._looking.pop(domain)), outcome)
        except Exception:  # a look-up that meets a bug of ours must harm no other
            self._parts.log.exception("look_up_failed", domain=domain)
            for pending in self._claimed(self._looking.pop(domain, [])):
                self._parts.settling.postpone(pending, seconds=self._limits.retry_content_s)
        else:
            for pending in self._looking.pop(domain):
                outlet = self._egress.choose(pending)
                if outlet is None:
                    self._wait(pending)
                else:
                    self._enqueue(route, pending, outlet)
        finally:
            self._look_ups -= 1
            self._check_quiet()
            self._look()

    def _claimed(self, pendings: Sequence[Pending]) -> deque[Pending]:
        """Those that are still as they were dispatched, now ours: a command may have changed some meanwhile."""
        return deque([pending for pending in pendings if self._parts.settling.claim(pending)])

    # Paths

    def _enqueue(self, route: Route, pending: Pending, outlet: Outlet) -> None:
        outlet = self._egress.fitting(outlet, pending, route.site)
        told = self._interventions.on_path(pending, source=outlet.source.address, site=route.site)
        if told is not None:
            self._intervene(told, pending)
            return
        key = (outlet.key, route.site)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = self._lane(outlet, route)
        else:
            lane.route = route
        if lane.standing.tenants and (rest := lane.standing.tenants.get(pending.tenant)) is not None:
            if self._parts.settling.claim(pending):
                self._put_off(pending, rest)
            self._drop_if_done(lane)
            return
        self._ready.push(lane.path, pending)
        self._stir(lane)

    def _lane(self, outlet: Outlet, route: Route) -> Lane:
        standing = self._standings.of(outlet.source.address, route)
        lane = Lane(outlet, route, standing)
        share, ready = standing.share, self._ready
        share.needed = lambda: sum(self._needed(each) for each in standing.lanes)
        share.weight = lambda: max(1.0, sum(ready.tenants(each.path) for each in standing.lanes))
        share.changed = lambda: self._adapt(standing)
        standing.lanes[lane] = None
        return lane

    def _needed(self, lane: Lane) -> int:
        """How many connections its work could use."""
        if self._ending or lane.failures:
            return lane.serving
        return lane.serving - len(lane.idle) + self._ready.backlog(lane.path)

    def _adapt(self, standing: Standing) -> None:
        """Other workers leave more connections to this one, or are to have some of its; or a rest is over."""
        standing.dismiss_idle()
        for lane in tuple(standing.lanes):
            for _ in range(min(standing.allowed - standing.share.used, self._ready.backlog(lane.path))):
                self._stir(lane)

    def _pop(self, lane: Lane) -> Pending | None:
        """The next recipient for a courier."""
        while (pending := self._ready.pop(lane.path)) is not None:
            tenants = lane.standing.tenants
            if not tenants or (rest := tenants.get(pending.tenant)) is None:
                lane.pace.taken += 1
                return pending
            self._put_off(pending, rest)
        return None

    def _stir(self, lane: Lane) -> None:
        """See to it that somebody serves a lane for which something waits, soon if not now."""
        waiting = self._ready.backlog(lane.path)
        if lane.pace.suffices(lane.busy, waiting) and not self._ending:
            lane.watch(waiting, self._late)
        else:
            self._add(lane)

    def _late(self, lane: Lane, late: int) -> None:
        """So many have waited too long for a busy connection: they get others."""
        waiting = self._ready.backlog(lane.path)
        for _ in range(min(late, waiting)):
            self._add(lane)
        if waiting > late:
            self._stir(lane)

    def _add(self, lane: Lane) -> None:
        """Have one more connection serve a lane."""
        if self._ending or self._tasks is None:
            return
        if lane.standing.rest is not None:
            self._sweep(lane)
            return
        if lane.wake_one() or lane.resting or (lane.failures and lane.serving):
            return
        if lane.standing.full:
            lane.standing.make_room(lane)
            return
        if self._couriers >= self._limits.connections_max:
            self._hungry[lane] = None
            return
        if lane.outlet.until <= self._parts.clock.monotonic():
            self.review_egress()
            self._leave(lane)
            return
        if lane.standing.share.take():
            lane.serving += 1
            self._couriers += 1
            self._tasks.create_task(self._serve(lane))

    async def _serve(self, lane: Lane) -> None:
        courier = Courier(self._parts, lane)
        try:
            await courier.run()
        except Exception:  # one courier's bug must not stop the others
            self._parts.log.exception("courier_failed", site=lane.path.site)
        finally:
            lane.leaving -= courier.leaving
            lane.serving -= 1
            lane.standing.share.give()
            self._couriers -= 1
            self._check_quiet()
            self._hand_on(lane)

    def _hand_on(self, lane: Lane) -> None:
        """A connection ended: whoever waited for one comes first, then this lane if it still has work."""
        if self._hungry:
            hungry = next(iter(self._hungry))
            del self._hungry[hungry]
            self._stir(hungry)
        for hungry in lane.standing.next_hungry():
            self._stir(hungry)
        if self._ready.backlog(lane.path):
            if lane.failures >= self._limits.failures_before_sweep and not lane.serving:
                self._sweep(lane)
            self._stir(lane)
        else:
            self._drop_if_done(lane)

    def _drop_if_done(self, lane: Lane) -> None:
        if not (lane.serving or lane.resting or lane.sweeping or self._ready.backlog(lane.path)):
            lane.stop()
            if self._lanes.pop((lane.path.source, lane.path.site), None) is not None:
                self._standings.left(lane)

    def _failed(self, lane: Lane, failure: Deferred) -> None:
        lane.failed(failure, limits=self._limits, dice=self._dice, wake=lambda: self._hand_on(lane))

    # The operator

    def intervene(self, interventions: Sequence[Intervention]) -> None:
        """These stand from now on, also for what waits in ready queues. Does no I/O."""
        if self._interventions.stand(interventions):
            for lane in tuple(self._lanes.values()):
                self._begin_anew(lane)
        self._parts.settling.look_again()

    def _intervene(self, told: Intervention, pending: Pending) -> None:
        self._leave_to_store(pending, self._interventions.outcome(told, pending))

    # Providers

    def _ruled(self, lane: Lane, pending: Pending, rule: Rule) -> None:
        """A reply to a recipient fired a rule that is about more than that recipient."""
        standing = lane.standing
        if not standing.take_measure(rule, pending.tenant, self._parts.clock.monotonic()):
            return
        who = {"tenant": pending.tenant} if rule.action is Action.SUSPEND_TENANT else {}
        self._parts.log.warning(
            "provider_rest", rule=rule.id, provider=standing.name, source=lane.path.source, seconds=rule.for_s, **who
        )
        if standing.rest is not None:
            standing.dismiss_idle()
            for each in tuple(standing.lanes):
                self._sweep(each)

    def _put_off(self, pending: Pending, rest: Rest) -> None:
        """Defer a recipient of ours whose tenant rests."""
        if self._tasks is not None:
            self._unattempted.tell(pending, held_back(rest, self._parts.clock.monotonic()), self._tasks, claimed=True)

    # Sources

    def review_egress(self) -> None:
        """What may be sent from has changed, or time has passed: act on it. Does no I/O."""
        closed, look = self._egress.review()
        for lane in tuple(self._lanes.values()) if closed else ():
            if lane.outlet in closed:
                self._leave(lane)
        if look:
            self._parts.settling.look_again()

    def _astray(self, lane: Lane, pending: Pending, error: Exception) -> bool:
        if isinstance(error, OtherFamily):
            if not self._egress.is_other_family(lane.outlet, lane.path.site, pending):
                return False
            self._leave(lane)
            return True
        if isinstance(error, SourceGone):
            lane.outlet.until = -math.inf  # until its ownership was looked at again
        self.review_egress()
        return True

    def _leave(self, lane: Lane) -> None:
        """Dispatch anew what waits for a lane that cannot be used."""
        while lane.wake_one():
            pass
        self._begin_anew(lane)

    def _begin_anew(self, lane: Lane) -> None:
        if self._tasks is not None and not lane.sweeping and not self._ending:
            lane.sweeping = True
            self._tasks.create_task(self._dispatch_anew(lane))

    async def _dispatch_anew(self, lane: Lane) -> None:
        parts, taken = self._parts, 0
        try:
            while not self._ending and (pending := self._ready.pop(lane.path)) is not None:
                parts.settling.postpone(pending, seconds=0.0)
                taken += 1
                if taken % self._limits.swept_at_once == 0:
                    await parts.clock.sleep(ANEW_PAUSE_S)
        finally:
            lane.sweeping = False
            self._check_quiet()
            self._hand_on(lane)

    def _wait(self, pending: Pending) -> None:
        """Leave a recipient to the store for which there is no source, and say so once."""
        self._leave_to_store(pending, self._egress.verdict(pending))

    def _leave_to_store(self, pending: Pending, outcome: Deferred | Withdrawn | None) -> None:
        if outcome is None or self._tasks is None or self._ending:
            self._parts.settling.set_aside(pending)
            return
        self._unattempted.tell(pending, outcome, self._tasks, claimed=False)

    # Ends without a connection

    def _sweep(self, lane: Lane) -> None:
        if self._tasks is not None and not lane.sweeping and not self._ending:
            lane.sweeping = True
            self._tasks.create_task(self._sweep_out(lane))

    async def _sweep_out(self, lane: Lane) -> None:
        """Defer all that waits for a path that keeps failing, or whose source rests."""
        try:
            while (outcome := self._why_not(lane)) is not None and not self._ending:
                swept: deque[Pending] = deque()
                while len(swept) < self._limits.swept_at_once and (pending := self._ready.pop(lane.path)) is not None:
                    swept.append(pending)
                if not swept:
                    return
                await self._unattempted.conclude_all(swept, outcome)
        finally:
            lane.sweeping = False
            self._check_quiet()
            self._drop_if_done(lane)

    def _why_not(self, lane: Lane) -> Deferred | None:
        rest = lane.standing.rest
        return lane.failure if rest is None else held_back(rest, self._parts.clock.monotonic())

    def _check_quiet(self) -> None:
        sweeping = any(lane.sweeping for lane in self._lanes.values()) if self._ending else False
        if self._ending and not (self._couriers or self._look_ups or self._unattempted.telling or sweeping):
            self._quiet.set()
