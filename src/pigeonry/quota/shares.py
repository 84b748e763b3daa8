"""A worker's side of quotas: what it may use now, asked for when its work grows, given back when it has no use for it.

Nothing here is done per message. A part that needs units has a ``Share``: it takes and gives units by plain additions,
and says ``more`` when it lacks some. ``Shares`` gathers what they need and negotiates all of it at once, four times a
second at most when nothing changes, and not at all while it holds nothing.

A session that could not be renewed in time is over: each share shrinks to its safe part, and goes on from there under
a new session as soon as the store answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Fault
from pigeonry.ports.quota import FORGOTTEN_S, TTL_S, Ask, Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.ports.quota import Quota
    from pigeonry.telemetry.log import Logger

__all__ = ["Share", "Shares"]

ROUND_S: Final = 0.25  # so that what others wait for is given back within a second: two rounds and a half, and the way
RETRY_S: Final = 1.0  # between two asks for what was not granted; whoever gives back calls, so this is for the dead
LINGER_S: Final = 5.0  # units without need are kept for so long, as idle connections are, if nobody lacks any
WINDOW_S: Final = 1.0  # the most that was needed in this or the last one counts: work comes and goes by the group
TURN_S: Final = 5.0  # with fewer units than members: long enough for a connection to be worth its opening
REFRESH_S: Final = 3_600.0  # what is held is asked for anew after so long: a store may forget what is a day old
LEAVE_S: Final = 1.0  # for giving everything back at the end; others find out by themselves in ``TTL_S``
_UNREACHABLE: Final = "shares of limits shrink to what is safe until the coordinator answers"


def _nothing() -> int:
    return 0


def _one() -> float:
    return 1.0


def _ignore() -> None:
    return None


class Share:
    """What one limit leaves to this process.

    Args:
        name: Of the limit.
        limit: Its units.
        shares: Who negotiates; None for a process that is alone and has all of the limit.
    """

    __slots__ = (
        "_before",
        "_lacked",
        "_negotiator",
        "_recent",
        "_window_at",
        "allowed",
        "asked",
        "changed",
        "limit",
        "name",
        "needed",
        "retry_at",
        "safe",
        "scarce",
        "slack_since",
        "turn_since",
        "turns",
        "units",
        "used",
        "wanted",
        "weight",
        "yields",
    )

    def __init__(self, name: str, limit: int, shares: Shares | None = None) -> None:
        self._negotiator = shares
        self.name = name
        self.limit = limit
        self.allowed = limit if shares is None else 0
        """Units that may be in use now. Who finds more in use gives some back as soon as it can."""
        self.used = 0
        self.needed: Callable[[], int] = _nothing
        """How many units the work at hand could use, those in use for it included; asked when the share negotiates."""
        self.weight: Callable[[], float] = _one
        """Its part when there is not enough for all workers; asked then, too."""
        self.changed: Callable[[], None] = _ignore
        """Called when ``allowed`` changed by what others do."""

        # notes of ``Shares``
        self._lacked = False  # whether work had to wait since the last look
        self._recent = self._before = 0  # the most that was needed in this window, and in the one before
        self._window_at = 0.0
        self.units = 0  # what the store counts as ours, as far as we know
        self.safe = 0
        self.asked = False  # whether work waits for more than there is
        self.wanted = 0
        self.retry_at = 0.0
        self.scarce = False
        self.turns = False
        self.turn_since = 0.0
        self.yields = False
        self.slack_since: float | None = None

    def take(self) -> bool:
        """Take one unit into use; False when none is left, and then more are asked for."""
        if self._negotiator is not None:
            self._negotiator.check()
        if self.used >= self.allowed:
            self.more()
            return False
        self.used += 1
        return True

    def give(self) -> None:
        """One unit is no longer in use."""
        self.used -= 1
        if self._negotiator is not None and self.units > self.allowed:
            self._negotiator.ask(self)

    def more(self) -> None:
        """Work waits for which there is no unit. Cheap: it may be said for each piece of work."""
        self._lacked = True
        if not self.asked and self._negotiator is not None and self.allowed < self.limit:
            self.asked = True
            self._negotiator.ask(self)

    def demand(self, now: float) -> int:
        """The most units that were needed lately, at a monotonic time."""
        if now >= self._window_at + WINDOW_S:
            self._before = self._recent if now < self._window_at + 2 * WINDOW_S else 0
            self._recent, self._window_at = 0, now
        lacked = self.allowed + 1 if self._lacked else 0
        self._lacked = False
        self._recent = max(self._recent, lacked, self.needed())
        return max(self._recent, self._before)

    def to_ask(self, now: float) -> Ask:
        """What to ask at a monotonic time. What it leaves out is not used from here on."""
        want = self.demand(now)
        if self.asked:
            want = max(want, self.allowed * 2, 1)  # what grows goes on growing: few asks on the way
        self.wanted = want = min(want, self.limit)
        self.allowed = min(self.allowed, max(want, self.used))
        keep = max(self.allowed, self.used)
        self.safe = min(self.safe, keep)
        return Ask(self.name, self.limit, keep, want, self.safe, self.weight(), self.yields)

    def granted(self, grant: Grant, now: float) -> None:
        """Take in the answer, at a monotonic time."""
        if (not self.units and grant.units) or self.yields:
            self.turn_since = now
        self.units, self.safe, self.yields = grant.units, grant.safe, False
        self.scarce, self.turns = grant.scarce, grant.turns
        allowed = min(grant.units, grant.target)
        self.asked = self.asked and allowed < self.wanted
        self.retry_at = now + RETRY_S
        self.allow(allowed)

    def allow(self, units: int) -> None:
        """From now on so many may be in use."""
        if units != self.allowed:
            self.allowed = units
            self.changed()

    def due(self, now: float) -> bool:
        """Whether to negotiate at a monotonic time: it lacks some, has too many, or had its turn."""
        demand = self.demand(now)
        self.asked = self.asked and demand > self.allowed
        if self.turns and self.units and now >= self.turn_since + TURN_S:
            self.yields = True
            return True
        if self.asked:
            return now >= self.retry_at
        if self.units > self.allowed >= self.used or (self.units and now >= self.retry_at + REFRESH_S):
            return True
        if demand >= self.units:
            self.slack_since = None
        elif self.slack_since is None:
            self.slack_since = now
        elif self.scarce or now >= self.slack_since + LINGER_S:
            self.slack_since = None
            return True
        return False


class Shares:
    """All shares of a worker, and its session with the store.

    Args:
        name: Of the worker; its sessions are called after it.
    """

    def __init__(self, quota: Quota, *, name: str, clock: Clock, ids: IdSource, log: Logger) -> None:
        self._quota = quota
        self._name = name
        self._clock = clock
        self._ids = ids
        self._log = log
        self._shares: dict[str, Share] = {}
        self._due: dict[str, Share] = {}
        self._wake = asyncio.Event()
        self._session = ""
        self._former: list[str] = []  # sessions that are over and whose shares have not come over to this one
        self._attended = 0.0  # when the last one that succeeded began
        self._forgotten_at = inf  # when the safe shares of former sessions may be another's
        self.failing = False
        """Whether the store did not answer when it was last asked."""

    @property
    def shrunk(self) -> bool:
        """Whether safe shares at most may be used now, since the store does not answer."""
        return self.failing and not self._session

    @property
    def units(self) -> int:
        """Units that this worker may use now, over all limits."""
        return sum(share.allowed for share in self._shares.values())

    @property
    def used(self) -> int:
        """Units in use."""
        return sum(share.used for share in self._shares.values())

    def share(self, name: str, limit: int) -> Share:
        """This worker's share of a limit, the same one each time while it has any part in it."""
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = Share(name, limit, self)
        share.limit = limit
        return share

    def ask(self, share: Share) -> None:
        """Have a share negotiate in the next round, which begins at once."""
        self._due[share.name] = share
        self._shares[share.name] = share
        self._wake.set()

    def check(self) -> None:
        """See that a session that is over is not relied on: a process may have stood still."""
        now = self._clock.monotonic()
        if self._session and now >= self._attended + TTL_S:
            self._former.append(self._session)
            self._session = ""
            self._forgotten_at = min(self._forgotten_at, self._attended + FORGOTTEN_S)
            self._shrink(lambda share: min(share.allowed, share.safe))
        if now >= self._forgotten_at:
            self._shrink(lambda _share: 0)

    async def run(self) -> None:
        """Negotiate until cancelled."""
        while True:
            await self._rest()
            self.check()
            try:
                left_s = self._attended + TTL_S - self._clock.monotonic() if self._session else TTL_S
                async with asyncio.timeout(left_s):
                    await self._round()
            except (Fault, TimeoutError) as error:
                if not self.failing:
                    reason = str(error) or "no answer in time"
                    self._log.warning("quota_unreachable", reason=reason, meaning=_UNREACHABLE)
                self.failing = True
                self.check()
                await self._clock.sleep(ROUND_S)
            else:
                if self.failing:
                    self._log.info("quota_reachable")
                self.failing = False

    async def close(self) -> None:
        """Give everything back. Nothing may be in use any more."""
        session, self._session = self._session, ""
        former, self._former = self._former, []
        asks = [Ask(share.name, share.limit, 0, 0) for share in self._shares.values()]
        self._shares.clear()
        try:
            async with asyncio.timeout(LEAVE_S):
                if session and asks:
                    await self._quota.negotiate(session, asks, former=former)
                for one in filter(None, (session, *former)):
                    await self._quota.leave(one)
        except (Fault, TimeoutError):
            return  # the others find out by themselves

    async def _rest(self) -> None:
        """Until there is something to do."""
        if self._session or self._former:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._wake.wait()
        elif not self._due:
            await self._wake.wait()
        self._wake.clear()

    async def _round(self) -> None:
        now = self._clock.monotonic()
        if not self._session:
            await self._join(now)
        elif now >= self._attended + ROUND_S:
            called = await self._quota.attend(self._session)
            self._due.update((name, self._shares[name]) for name in called if name in self._shares)
            self._prolong(now)
        for name, share in tuple(self._shares.items()):
            if share.due(now):  # asked of all, also of those that were called: it may be the end of their turn
                self._due[name] = share
        if self._due and self._session:
            await self._negotiate(self._session)
        self._forget()
        if self._session and not self._shares:
            session, self._session = self._session, ""
            await self._quota.leave(session)

    async def _join(self, now: float) -> None:
        session = f"{self._name}#{self._ids.octets(8).hex()}"
        await self._quota.join(session)
        self._session, self._attended = session, now
        self.check()
        if self._former:
            self._due.update(self._shares)

    def _prolong(self, began: float) -> None:
        """The session lives on, unless it was over when that was heard: nobody knows who has its shares then."""
        self.check()
        if self._session:
            self._attended = began

    async def _negotiate(self, session: str) -> None:
        former, now = tuple(self._former), self._clock.monotonic()
        due, self._due = self._due, {}
        grants: Sequence[Grant] | None = None
        try:
            grants = await self._quota.negotiate(session, [share.to_ask(now) for share in due.values()], former=former)
            self.check()
        finally:
            if grants is None or session != self._session:  # over before the answer came: it says nothing any more
                self._due = due | self._due
        if session != self._session:
            return
        now = self._clock.monotonic()
        for share, grant in zip(due.values(), grants, strict=True):
            share.granted(grant, now)
        self._former.clear()
        self._forgotten_at = inf
        for one in former:
            await self._quota.leave(one)

    def _forget(self) -> None:
        """Shares of which nothing is left."""
        for name, share in tuple(self._shares.items()):
            if not (share.units or share.used or share.asked or name in self._due):
                del self._shares[name]

    def _shrink(self, to: Callable[[Share], int]) -> None:
        for share in tuple(self._shares.values()):
            share.allow(to(share))
