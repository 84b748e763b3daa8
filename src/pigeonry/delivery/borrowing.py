"""Which egress sources other nodes lend to this one: those that they own, of pools of which this node owns none.

Mail waits at the node that accepted it, or took it over, and its pool's one address may be another node's. That node
then makes the connection and passes octets on (``doors.commands.relay``); all else, and STARTTLS with the receiver,
stays here.

What a node lends it is asked for, rather than looked up where leases are kept: an answer says that the node is there,
and for how long it may use the address. It is asked a few times within a lease, and at once when the last address of a
pool is lost. What is known here is a hint: the lender looks at its lease for as long as a connection stands.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from pigeonry.delivery.egress import Outlet
from pigeonry.domain.errors import Fault
from pigeonry.ports.environment import Clock, Dice
from pigeonry.telemetry.log import Logger

__all__ = ["Ask", "Borrowing", "Offer"]

LOOK_S: Final = 1.0  # seconds between looks whether a pool has lost its last address


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One address that a node lends.

    Args:
        for_s: Seconds for which the node may use it from when it answered, if its lease is not renewed.
        hostname: Who to be in EHLO where the source itself names nobody: the lender, to whom the address resolves.
    """

    for_s: float
    hostname: str = ""


Ask = Callable[[], Awaitable[Mapping[str, Mapping[str, Offer]]]]
"""What the other nodes lend: by node, by address. A node that does not answer is not there. Raises ``Fault``."""


class Borrowing:
    """Keeps in mind who lends what.

    Args:
        lent: The ways through other nodes, by address.
        wanted: Whether anything needs to be borrowed.
        ask: Asks all other nodes.
        changed: Called after any change.
        every_s: Seconds between questions.
    """

    def __init__(
        self,
        lent: Mapping[str, Outlet],
        *,
        wanted: Callable[[], bool],
        ask: Ask,
        clock: Clock,
        dice: Dice,
        changed: Callable[[], None],
        log: Logger,
        every_s: float,
    ) -> None:
        self._lent = lent
        self._names = {address: outlet.source.hostname for address, outlet in lent.items()}
        self._wanted = wanted
        self._ask = ask
        self._clock = clock
        self._dice = dice
        self._changed = changed
        self._log = log
        self._every_s = every_s

    async def run(self) -> None:
        """Ask for as long as something needs to be borrowed, until cancelled."""
        ask_at = -math.inf
        while True:
            now = self._clock.monotonic()
            if not self._wanted():
                ask_at = -math.inf
            elif now >= ask_at or any(outlet.through and outlet.until == -math.inf for outlet in self._lent.values()):
                ask_at = now + self._every_s * (1.0 - 0.25 * self._dice.random())
                await self._look(now)
            await self._clock.sleep(LOOK_S)

    async def _look(self, asked_at: float) -> None:
        try:
            answers = await self._ask()
        except Fault:  # who the others are is not known just now: what was lent is so until its time is over
            return
        offers = {address: (node, offer) for node, lent in answers.items() for address, offer in lent.items()}
        for address, outlet in self._lent.items():
            found = offers.get(address)
            if found is not None:
                node, offer = found
                if outlet.through != node:
                    self._tell("egress_source_lent", outlet, node, "mail that has to leave from it leaves there")
                name = self._names[address] or offer.hostname
                outlet.source = msgspec.structs.replace(outlet.source, hostname=name)
                outlet.through, outlet.until = node, asked_at + offer.for_s
            elif outlet.through and (outlet.through in answers or outlet.until <= asked_at):
                self._tell("egress_source_not_lent", outlet, outlet.through, "it owns it no more, or is silent")
                outlet.through, outlet.until = "", -math.inf
        self._changed()

    def _tell(self, event: str, outlet: Outlet, node: str, meaning: str) -> None:
        source = outlet.source
        self._log.info(event, source=source.id, address=source.address, node=node, meaning=meaning)
