"""One connection's life: take a recipient, converse, settle, take the next.

Settling an outcome runs beside the next conversation on the same connection, up to a bound. That costs a little:
after a crash up to so many outcomes per connection are not stored although the server's reply was seen, and show as
in doubt. It is what makes a connection's rate depend on the network and ``dot-sent`` alone and not on two syncs in a
row.

Where PIPELINING is offered and more is waiting, the next recipient is taken when the final dot is about to leave, so
that its envelope leaves with the dot. It is then the next to be attempted, whatever becomes of the one before.

A connection that a server closed between two messages is replaced without a word: the message was not offered yet.
That holds also for one whose envelope left and was not answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

import msgspec

from pigeonry.delivery import classify
from pigeonry.delivery.connection import Withheld
from pigeonry.delivery.demand import TlsDemand, combined
from pigeonry.delivery.downgrade import NotConvertible
from pigeonry.delivery.interventions import Interventions
from pigeonry.delivery.lane import Lane
from pigeonry.delivery.limits import DeliveryLimits
from pigeonry.delivery.opening import Opened, Opener, OtherFamily
from pigeonry.delivery.policies import Policies
from pigeonry.delivery.preparing import Prepared, Preparing
from pigeonry.delivery.rulebook.book import RuleBook, phase_of
from pigeonry.delivery.rulebook.rules import Phase, Rule
from pigeonry.delivery.turnstile import Turnstile
from pigeonry.domain.errors import Fault, NotFound
from pigeonry.domain.intervention import Intervention
from pigeonry.domain.message import BodyKind, DotSent, Message, MessageKey, Pending, Settle
from pigeonry.domain.outcome import Attempt, Deferred, Delivered, InDoubt, Outcome, Refused
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.ports.environment import Clock
from pigeonry.ports.network import SourceGone
from pigeonry.ports.queue_store import QueueStore
from pigeonry.protocol.smtp.client import Finished, LocalProtocolError, Lost, Stage, Transaction
from pigeonry.queue.settlement import TEST_MODE
from pigeonry.telemetry.log import Logger

__all__ = ["Content", "Courier", "Parts", "Settling"]

_UNREADABLE: Final = "The message could not be read from storage."
SUSPENDED_S: Final = 30.0  # seconds between two looks at a message whose tag is suspended: each reads it
PAUSE_S: Final = 0.25  # seconds between looks whether outcomes can be settled again


class Content(Protocol):
    """Where a message's octets are had from: ``queue.content``."""

    async def get(self, key: MessageKey) -> tuple[Message, bytes]:
        """The message and its octets."""
        ...

    def kept(self, key: MessageKey) -> tuple[Message, bytes] | None:
        """The same if it can be had without waiting."""
        ...


class Settling(Protocol):
    """Who takes outcomes: ``queue.scheduler``."""

    @property
    def paused(self) -> bool:
        """Whether outcomes cannot be settled just now."""
        ...

    def claim(self, pending: Pending) -> bool:
        """Whether a dispatched recipient may be attempted or ended; ``ReadyQueues.pop`` asks for those it gives out."""
        ...

    def settle(self, make: Callable[[], Settle], *, deadline: float, then: Callable[[], None]) -> None:
        """Make an outcome durable; ``then`` is called when it is, however often that takes."""
        ...

    async def settled(self, settle: Settle, *, deadline: float) -> None:
        """The same for those who wait."""
        ...

    def postpone(self, pending: Pending, *, seconds: float) -> None:
        """Take back a recipient that could not be attempted."""
        ...

    def forget(self, key: MessageKey, serial: int) -> None:
        """Give back a recipient whose message is gone."""
        ...

    def set_aside(self, pending: Pending) -> None:
        """Leave a recipient to the store that cannot be attempted until ``look_again``."""
        ...

    def look_again(self) -> None:
        """What was set aside can perhaps be attempted now."""
        ...


class Parts(msgspec.Struct, frozen=True):
    """What all couriers of a worker share.

    Args:
        pop: The next recipient for a lane, None when none waits.
        settlement: What to write for an outcome, and when it came (seconds since the Unix epoch).
        ending: Whether no more work is to be taken.
        astray: Told that a lane cannot be used for a recipient, since its source is not ours or reaches none of the
            hosts; whether another one may do.
        interventions: The operator's.
        book: What replies mean.
        ruled: Told that a reply to a recipient of a lane fired a rule that is about more than that recipient.
        turnstile: Who may begin in this turn of the loop.
        log: For what should not happen.
    """

    content: Content
    settling: Settling
    store: QueueStore
    opener: Opener
    preparing: Preparing
    policies: Policies
    clock: Clock
    limits: DeliveryLimits
    pop: Callable[[Lane], Pending | None]
    settlement: Callable[[Pending, Message, Outcome, float], Settle]
    ending: Callable[[], bool]
    failed: Callable[[Lane, Deferred], None]
    astray: Callable[[Lane, Pending, Exception], bool]
    interventions: Interventions
    book: RuleBook
    ruled: Callable[[Lane, Pending, Rule], None]
    turnstile: Turnstile
    log: Logger


class _NotOurs(Exception):
    """The source's address is another's by now, or may be."""


class Courier:
    """Serves one lane with one connection at a time."""

    __slots__ = ("_coming", "_lane", "_opened", "_parts", "_prepared", "_settling", "_unsettled", "leaving")

    def __init__(self, parts: Parts, lane: Lane) -> None:
        self._parts = parts
        self._lane = lane
        self._opened: Opened | None = None
        self._coming: Pending | None = None  # taken while the one before was being sent
        self._prepared: Prepared | None = None  # it, as it was made for the connection if it is begun there
        self._unsettled = 0  # outcomes on their way to the store
        self._settling: asyncio.Future[None] | None = None
        self.leaving = False
        """Whether it ends since other workers are to have its connection."""

    async def run(self) -> None:
        """Work until there is none, or no connection to do it with."""
        try:
            while (pending := await self._next()) is not None:
                await self._attempt(pending)
        except BaseException:
            if self._opened is not None:
                self._opened.connection.abort()
            raise
        finally:
            self._hang_up()
            if self._coming is not None:  # its envelope may have left, and no more of it
                self._parts.settling.postpone(self._coming, seconds=PAUSE_S)
        await self._settled_to(0)

    # Work

    async def _next(self) -> Pending | None:
        """The next recipient; None when this courier is to end."""
        parts, lane = self._parts, self._lane
        if self._coming is not None:
            coming, self._coming = self._coming, None
            return coming
        while True:
            if parts.ending() or lane.outlet.until <= parts.clock.monotonic():
                return None
            if lane.over:
                self.leaving = True
                lane.leaving += 1
                return None
            opened = self._opened
            if opened is not None and not opened.connection.usable:
                self._hang_up()
                opened = None
            if opened is not None and opened.connection.messages >= lane.standing.messages_per_connection:
                return None
            if parts.settling.paused:
                await parts.clock.sleep(PAUSE_S)
                continue
            if opened is None and lane.resting:
                return None
            pending = parts.pop(lane)
            if pending is not None:
                return pending
            if opened is None or not await self._idle(opened):
                return None

    async def _idle(self, opened: Opened) -> bool:
        """Wait for work; False when none came in time or the server closed the connection."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()

        def give_up() -> None:
            if not waiter.done():
                waiter.set_result(False)

        timer = loop.call_later(self._parts.limits.idle_s, give_up)
        opened.connection.when_ended(give_up)
        self._lane.idle.append(waiter)
        try:
            return await waiter
        finally:
            timer.cancel()
            opened.connection.when_ended(None)
            if waiter in self._lane.idle:
                self._lane.idle.remove(waiter)

    async def _attempt(self, pending: Pending) -> None:
        parts = self._parts
        begun = self._opened is not None and self._opened.connection.begun is not None
        if not begun:
            await parts.turnstile.pass_through()
        started = parts.clock.monotonic()
        try:
            message, stored = await parts.content.get(pending.message)
            if message.body_kind is BodyKind.TEMPLATE:
                message = await parts.preparing.told(pending, message)
            outcome: Outcome
            if parts.interventions.by_tag and not begun and (told := self._told(pending, message)) is not None:
                instead = parts.interventions.outcome(told, pending)
                if instead is None:
                    parts.settling.postpone(pending, seconds=SUSPENDED_S)
                    return
                outcome = instead
            else:
                outcome = await self._outcome(pending, message, stored, started)
        except NotFound:
            parts.settling.forget(pending.message, pending.serial)
            return
        except Fault:
            await self._unread(pending)
            return
        except (_NotOurs, SourceGone) as error:
            self._hang_up()
            parts.astray(self._lane, pending, error)
            parts.settling.postpone(pending, seconds=0.0)
            return
        except OtherFamily as error:
            if parts.astray(self._lane, pending, error):
                parts.settling.postpone(pending, seconds=0.0)
                return
            outcome = self._timed(error.outcome, started)
        ended = parts.clock.now()
        self._unsettled += 1
        parts.settling.settle(
            lambda: parts.settlement(pending, message, outcome, ended),
            deadline=parts.clock.monotonic() + parts.limits.settle_s,
            then=self._settled,
        )
        await self._settled_to(parts.limits.unsettled_per_connection - 1)

    def _told(self, pending: Pending, message: Message) -> Intervention | None:
        """What the operator has said of messages with its tags."""
        lane = self._lane
        source, site = lane.outlet.source.address, lane.path.site
        return self._parts.interventions.of_message(pending, message.tags, source=source, site=site)

    async def _unread(self, pending: Pending) -> None:
        """The content cannot be had now: later perhaps, but not for ever, since a body that is spoilt stays so."""
        parts = self._parts
        try:
            message = await parts.store.message(pending.message)
        except Fault:
            message = None
        if message is None or parts.clock.now() < message.expires_at:
            parts.settling.postpone(pending, seconds=parts.limits.retry_content_s)
            return
        settle = parts.settlement(
            pending, message, Deferred(Attempt(), 451, description=_UNREADABLE), parts.clock.now()
        )
        await parts.settling.settled(settle, deadline=parts.clock.monotonic() + parts.limits.settle_s)

    def _settled(self) -> None:
        self._unsettled -= 1
        if self._settling is not None and not self._settling.done():
            self._settling.set_result(None)

    async def _settled_to(self, left: int) -> None:
        """Wait until no more than so many outcomes are on their way to the store."""
        while self._unsettled > left:
            self._settling = asyncio.get_running_loop().create_future()
            await self._settling

    # One attempt

    async def _outcome(self, pending: Pending, message: Message, stored: bytes, started: float) -> Outcome:
        if message.options.testmode:
            return TEST_MODE
        try:
            octets = await self._parts.preparing.octets(pending, message, stored)
            return await self._deliver(pending, message, octets, started)
        except (NotFound, Fault, _NotOurs, SourceGone, OtherFamily):
            raise
        except Exception:  # a message that meets a bug of ours must harm no other
            self._parts.log.exception("attempt_failed", message=message.key.text())
            return self._after_a_bug(started)

    def _after_a_bug(self, started: float) -> Outcome:
        """What is known of an attempt that a bug of ours cut short: whether its final dot may have left."""
        opened, self._opened = self._opened, None
        attempt = Attempt(session_s=round(self._parts.clock.monotonic() - started, 6))
        if opened is not None:
            doubtful = opened.connection.stage is Stage.DOT
            opened.connection.abort()
            if doubtful:
                return InDoubt(attempt, "An internal error hid the server's reply.")
        return Deferred(attempt, 451, description="An internal error kept the message from being sent.")

    async def _deliver(self, pending: Pending, message: Message, octets: bytes, started: float) -> Outcome:
        """Attempt one recipient: on the connection at hand if it will do, else on a new one, host after host."""
        demand = self._parts.preparing.demand(message)
        policy = self._parts.policies.known(pending.address)
        if policy is None:
            policy = await self._parts.policies.learn(pending.address)
        demand = combined(demand, policy)
        first = 0
        while True:
            fresh = not self._at_hand(demand, first)
            if fresh:
                failure = await self._open(demand, first, pending)
                if failure is not None:
                    return self._timed(failure, started)
            opened = self._opened
            assert opened is not None, "a session was just opened"
            begun = self._parts.clock.monotonic()
            result, prepared = await self._converse(opened, pending, message, octets)
            self._lane.pace.took(self._parts.clock.monotonic() - begun)
            if not fresh and classify.stale(result):
                self._hang_up()
                continue
            if isinstance(result, Refused):
                return self._timed(result, started)
            attempt = self._circumstances(opened, message, prepared, started)
            outcome = classify.outcome_of(result, attempt)
            if isinstance(result, Finished):
                self._lane.worked()
                if isinstance(outcome, Delivered):
                    return outcome
                assert isinstance(outcome, Deferred | Refused), "a reply to the dot leaves no doubt"
                rule = self._rule(result.reply, phase_of(result.stage), pending)
                elsewhere = classify.speaks_of_the_session(result) and opened.index + 1 < len(self._lane.route.hosts)
                if elsewhere and not self._lane.over:
                    first = opened.index + 1
                    continue
                return classify.judged(outcome, rule)
            if isinstance(outcome, Deferred) and isinstance(result, Lost):
                self._parts.failed(self._lane, outcome)
            return outcome

    def _at_hand(self, demand: TlsDemand, first: int) -> bool:
        opened = self._opened
        return (
            opened is not None
            and (opened.connection.usable or opened.connection.begun is not None)
            and first <= opened.index
            and demand.met_by(opened)
        )

    def _rule(self, reply: Reply, phase: Phase | None, pending: Pending) -> Rule | None:
        """The rule that a reply fires, its measure taken."""
        parts, lane = self._parts, self._lane
        rule = parts.book.rule_for(reply, phase, lane.route.provider)
        if rule is not None and rule.action.lasts:
            parts.ruled(lane, pending, rule)
        return rule

    async def _open(self, demand: TlsDemand, first: int, pending: Pending) -> Deferred | None:
        """Get a session, in the place of the one at hand; what was wrong when there is none."""
        self._hang_up()
        parts, lane = self._parts, self._lane
        outlet = lane.outlet
        opened = await parts.opener.open(
            lane.route, source=outlet.source, through=outlet.through, demand=demand, first=first
        )
        if isinstance(opened, Deferred):
            if opened.reply is not None and not opened.description:  # theirs, not one of ours about them
                rule = self._rule(opened.reply, Phase.GREETING, pending)
                opened = cast("Deferred", classify.judged(opened, rule, session=True))
            if not demand.required and not demand.lenient:
                parts.failed(lane, opened)
            return opened
        self._opened = opened
        return None

    async def _converse(
        self, opened: Opened, pending: Pending, message: Message, octets: bytes
    ) -> tuple[Finished | Lost | Withheld | Refused, Prepared | None]:
        connection = opened.connection
        parts = self._parts
        prepared: Prepared | None = None
        try:
            if connection.begun is not None:
                prepared = self._prepared
                assert prepared is not None, "what was begun was prepared"
            else:
                prepared = await parts.preparing.ready(pending, message, octets, connection.capabilities)
                refused = classify.obstacle(
                    connection.capabilities, prepared.transaction, Attempt(mx_host=opened.host.name)
                )
                if refused is not None:
                    return refused, prepared
            if self._lane.outlet.until <= parts.clock.monotonic():
                raise _NotOurs
            dot_sent = DotSent(pending, pending.attempts + 1)
            deadline_s = parts.limits.commit_s

            result = await connection.send(
                prepared.transaction,
                prepared.parts,
                before_dot=lambda: parts.store.commit(dot_sent, deadline=parts.clock.monotonic() + deadline_s),
                following=lambda: self._follow(opened),
            )
        except NotConvertible as error:
            reply = Reply(554, str(error), EnhancedStatus(6, 3))
            return Refused(Attempt(mx_host=opened.host.name), 554, reply, description=str(error)), prepared
        except LocalProtocolError as error:
            reply = Reply(553, str(error), EnhancedStatus(1, 3))
            return Refused(Attempt(mx_host=opened.host.name), 553, reply, description=str(error)), prepared
        return result, prepared

    def _follow(self, opened: Opened) -> Transaction | None:
        """Take the recipient that comes next, if its envelope may leave with the dot of the one before.

        One that turns out to need more than what is at hand is attempted after it all the same, in the ordinary way.
        """
        parts, connection = self._parts, opened.connection
        if (
            not connection.capabilities.pipelining
            or connection.messages >= self._lane.standing.messages_per_connection
            or self._unsettled + 1 >= parts.limits.unsettled_per_connection  # nobody waits with an envelope out
            or parts.settling.paused
            or parts.interventions.by_tag
            or parts.ending()
            or self._lane.over
            or self._lane.outlet.until <= parts.clock.monotonic()
            or not parts.turnstile.free()
        ):
            return None
        self._coming = pending = parts.pop(self._lane)
        if pending is None:
            return None
        try:
            prepared = self._prepared = self._at_once(opened, pending)
        except Exception:  # noqa: BLE001  # it meets the same again in its own attempt, and harms no other here
            return None
        return None if prepared is None else prepared.transaction

    def _at_once(self, opened: Opened, pending: Pending) -> Prepared | None:
        """The message for the session at hand; None when it cannot go over it, or not without waiting."""
        parts, connection = self._parts, opened.connection
        found = parts.content.kept(pending.message)
        policy = parts.policies.known(pending.address)
        if found is None or found[0].options.testmode or policy is None:
            return None
        if not combined(parts.preparing.demand(found[0]), policy).met_by(opened):
            return None
        prepared = parts.preparing.at_once(pending, *found, connection.capabilities)
        if prepared is None or classify.obstacle(connection.capabilities, prepared.transaction, Attempt()) is not None:
            return None
        return prepared

    def _circumstances(self, opened: Opened, message: Message, prepared: Prepared | None, started: float) -> Attempt:
        tls = opened.connection.tls
        return Attempt(
            opened.host.name,
            opened.connection.local_address,
            tls is not None,
            tls is not None and tls.authentic,
            message.smtputf8,
            round(self._parts.clock.monotonic() - started, 6),
            "" if prepared is None else prepared.dkim,
            opened.connection.local_host,
        )

    def _timed(self, outcome: Deferred | Refused, started: float) -> Deferred | Refused:
        return classify.timed(outcome, self._parts.clock.monotonic() - started)

    def _hang_up(self) -> None:
        if self._opened is not None:
            self._opened.connection.close()
            self._opened = None
