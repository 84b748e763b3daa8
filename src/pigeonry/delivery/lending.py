"""What other nodes may use of this one: its egress sources while it owns them, towards where its own mail may go.

Trust: who asks is a node of the cluster, and may be one that has gone wrong. It gets no connection that this node would
not make for mail of its own: not from an address whose lease it does not hold, not to an address inside, to no other
port than that of mail. It may not have the system's choice of an address either, as that has no lease.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from pigeonry.delivery.borrowing import Offer
from pigeonry.delivery.egress import Outlet
from pigeonry.domain.errors import NotAllowed, NotOwner
from pigeonry.ports.environment import Clock
from pigeonry.ports.network import DnsFailure, NoSuchDomain, Resolver

__all__ = ["Lending", "MayReach", "to_exchangers", "to_smarthost"]

MayReach = Callable[[str, int], Awaitable[bool]]
"""Whether mail of this node may be taken to that IP address and port."""
SMTP: Final = 25


class Lending:
    """What may be used.

    Args:
        outlets: This node's sources by address.
        hostname: Whose they are.
    """

    def __init__(self, outlets: Mapping[str, Outlet], *, hostname: str, may_reach: MayReach, clock: Clock) -> None:
        self._outlets = outlets
        self._hostname = hostname
        self._may_reach = may_reach
        self._clock = clock

    def offers(self) -> dict[str, Offer]:
        """What is lent now, by address."""
        now = self._clock.monotonic()
        return {
            address: Offer(outlet.until - now, outlet.source.hostname or self._hostname)
            for address, outlet in self._outlets.items()
            if address and outlet.until > now
        }

    async def lend(self, source: str, address: str, port: int) -> Callable[[], bool]:
        """Let a connection be made from one of our addresses; the result says whether it may still be used.

        Raises:
            NotOwner: The address is not ours to use.
            NotAllowed: Mail of ours would not go there.
        """
        outlet = self._outlets.get(source) if source else None
        if outlet is None or outlet.until <= self._clock.monotonic():
            raise NotOwner("That address is not this node's to use.")
        if not await self._may_reach(address, port):
            raise NotAllowed("Mail of this node does not go there.")
        return lambda: outlet.until > self._clock.monotonic()


def to_exchangers(reach: Callable[[str], bool], port: int = SMTP) -> MayReach:
    """Where mail goes that DNS routes: to public addresses, and those that ``reach`` allows beside them."""

    async def may_reach(address: str, asked: int) -> bool:
        return asked == port and reach(address)

    return may_reach


def to_smarthost(host: str, port: int, resolver: Resolver) -> MayReach:
    """Where mail goes when all of it goes to one host."""

    async def may_reach(address: str, asked: int) -> bool:
        try:
            return asked == port and address in await resolver.addresses(host)
        except (NoSuchDomain, DnsFailure):
            return False

    return may_reach
