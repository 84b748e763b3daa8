"""Which egress sources are this node's to send from: those that it has, and holds the lease of.

An IP address is owned by one node at a time, by the lease ``egress:ADDRESS``. Its owner is the node, so that all
workers of a node share it and each keeps it alive for all. Only a node that has the address on an interface asks for
it. What another node holds is not used, and that is said: two nodes that claim one address are a mistake, or a machine
that was given another's address before its lease was over.

No receiver knows of leases, so nothing but time fences a node that was stopped: it may use the address until shortly
before the lease that it last got can be over, by its own monotonic clock counted from before it asked. Who sends looks
at that time before each message. The assumption: the coordinator ends no lease earlier than the margin before its time,
and a monotonic clock does not stand still. (That of a virtual machine may, while it is moved or saved; then it has to
be fenced from outside.)
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from pigeonry.delivery.egress import Outlet
from pigeonry.domain.errors import Fault
from pigeonry.ports.coordinator import Coordinator, Lease
from pigeonry.ports.environment import Clock, Dice
from pigeonry.telemetry.log import Logger

__all__ = ["STATES", "LeaseTerms", "Ownership", "State"]

LOOK_S: Final = 1.0  # seconds between looks whether an address is there: one look costs some 20 us

State = Literal["owned", "elsewhere", "absent", "unanswered"]
STATES: Final[tuple[State, ...]] = ("owned", "elsewhere", "absent", "unanswered")


class LeaseTerms(msgspec.Struct, frozen=True):
    """How long an address is leased for.

    Args:
        lease_s: Seconds after which another node may take it when its owner does not renew it.
    """

    lease_s: float = 30.0

    @property
    def renew_s(self) -> float:
        """Seconds after which a lease is renewed, or asked for again: it may fail twice."""
        return self.lease_s / 4.0

    @property
    def margin_s(self) -> float:
        """Seconds before the end of a lease at which its owner stops: by which the coordinator may err."""
        return self.lease_s / 6.0


class Ownership:
    """Keeps the leases of a node's addresses.

    Args:
        outlets: The sources that this node may use if it has them.
        coordinator: Where leases are had from.
        clock, dice: Time, and chance that keeps workers from asking at the same moment.
        node: The node's name: the owner.
        has_address: Whether this machine has an address.
        changed: Called after any change, and every second, since time changes what may be used as well.
    """

    def __init__(
        self,
        outlets: Iterable[Outlet],
        *,
        coordinator: Coordinator,
        clock: Clock,
        dice: Dice,
        node: str,
        has_address: Callable[[str], bool],
        changed: Callable[[], None],
        log: Logger,
        terms: LeaseTerms | None = None,
    ) -> None:
        self._outlets = tuple(outlets)
        self._coordinator = coordinator
        self._clock = clock
        self._dice = dice
        self._node = node
        self._has_address = has_address
        self._changed = changed
        self._log = log
        self._terms = terms or LeaseTerms()
        self._states: dict[Outlet, State] = dict.fromkeys(self._outlets, "absent")
        self._leases: dict[Outlet, Lease] = {}

    def states(self) -> Iterable[tuple[str, State]]:
        """The sources by id, and how this node stands with each."""
        return [(outlet.source.id, state) for outlet, state in self._states.items()]

    async def run(self) -> None:
        """Keep the leases until cancelled. They are not given back then: other workers of the node use them."""
        async with asyncio.TaskGroup() as tasks:
            for outlet in self._outlets:
                tasks.create_task(self._keep(outlet))
            while True:
                self._changed()
                await self._clock.sleep(LOOK_S)

    async def give_back(self) -> None:
        """Let other nodes have the leases at once; ``run`` has ended, and no worker of the node sends any more."""
        leases = list(self._leases.values())
        self._leases.clear()
        for outlet in self._outlets:
            outlet.until = -math.inf
        await asyncio.gather(*map(self._give_back, leases))

    async def _keep(self, outlet: Outlet) -> None:
        """Keep one lease for as long as the address is there."""
        lease: Lease | None = None
        ask_at = -math.inf
        refused = 0  # in a row
        while True:
            now = self._clock.monotonic()
            if not self._has_address(outlet.source.address):
                outlet.until = -math.inf
                self._stands(outlet, "absent")
                if lease is not None:
                    del self._leases[outlet]
                    await self._give_back(lease)
                lease, ask_at = None, -math.inf
            elif now >= ask_at or (lease is not None and outlet.until == -math.inf):
                lease, answered = await self._ask(outlet, lease)
                if lease is not None:
                    self._leases[outlet] = lease
                refused = 0 if lease is not None or not answered else refused + 1
                if refused == 1:  # perhaps other workers of this node asked at the same moment
                    ask_at = now + LOOK_S
                else:
                    ask_at = now + self._terms.renew_s * (1.0 - 0.25 * self._dice.random())
                if refused > 1 and outlet.until <= self._clock.monotonic():
                    self._stands(outlet, "elsewhere")
            await self._clock.sleep(LOOK_S)

    async def _ask(self, outlet: Outlet, held: Lease | None) -> tuple[Lease | None, bool]:
        """Take or renew the lease; the lease, or the one held if nobody answered, and whether somebody did.

        What a refusal says of now takes nothing from what was granted before: until then no other node can have it.
        """
        asked_at = self._clock.monotonic()
        name = f"egress:{outlet.source.address}"
        try:
            async with asyncio.timeout(self._terms.renew_s):
                lease = await self._coordinator.acquire(name, owner=self._node, ttl_s=self._terms.lease_s)
        except (Fault, TimeoutError):
            if outlet.until <= self._clock.monotonic():
                self._stands(outlet, "unanswered")
            return held, False
        if lease is not None:
            outlet.until = asked_at + self._terms.lease_s - self._terms.margin_s
            self._stands(outlet, "owned", epoch=lease.epoch)
        return lease, True

    async def _give_back(self, lease: Lease) -> None:
        """Let another node have it at once: nothing can be sent from an address that is not there."""
        try:
            async with asyncio.timeout(self._terms.renew_s):
                await self._coordinator.release(lease)
        except (Fault, TimeoutError):
            self._log.info("egress_lease_not_given_back", lease=lease.name, consequence="it expires")

    def _stands(self, outlet: Outlet, state: State, **facts: int) -> None:
        """Note how this node stands with a source, and say so when it is news."""
        was, self._states[outlet] = self._states[outlet], state
        if was == state:
            return
        self._changed()
        say = self._log.warning if state in {"elsewhere", "unanswered"} or was == "owned" else self._log.info
        source = outlet.source
        say(f"egress_source_{state}", source=source.id, address=source.address, meaning=_MEANINGS[state], **facts)


_MEANINGS: Final[dict[State, str]] = {
    "owned": "mail may leave from it",
    "elsewhere": "another node holds its lease although this one has the address; it is not used here",
    "absent": "this machine does not have the address; it is not used here",
    "unanswered": "its lease could not be renewed in time; it is not used until it is",
}
