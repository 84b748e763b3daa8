"""Who owns which shard of a cluster, from the rows of its leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.ports.ownership import Member

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pigeonry.ports.environment import Clock
    from pigeonry.stores.cassandra.membership import MemberRow, Membership
    from pigeonry.stores.cassandra.shares import ShardRow, Shares

__all__ = ["CassandraOwnership"]


class CassandraOwnership:
    """See ``ports.ownership.Ownership`` for the contract.

    Args:
        fresh_s: How old an answer may be.
    """

    def __init__(self, membership: Membership, shares: Shares, *, clock: Clock, fresh_s: float) -> None:
        self._membership = membership
        self._shares = shares
        self._clock = clock
        self._fresh_s = fresh_s
        self._rows: dict[int, ShardRow] = {}
        self._at = float("-inf")

    async def owner_of(self, shard: int, *, fresh: bool = False) -> Member | None:
        """The owner of a shard."""
        await self._look(fresh=fresh)
        row = self._rows.get(shard)
        return None if row is None else self._owner(row)

    async def owners(self, *, fresh: bool = True) -> Mapping[int, Member | None]:
        """Every shard and its owner."""
        await self._look(fresh=fresh)
        return {number: self._owner(row) for number, row in self._rows.items()}

    async def members(self, *, fresh: bool = False) -> Sequence[Member]:
        """All members that are not known to be gone."""
        if fresh:
            await self._membership.look()
        return sorted(_told(each) for each in self._membership.alive())

    async def _look(self, *, fresh: bool) -> None:
        if fresh or self._clock.monotonic() >= self._at + self._fresh_s:
            at = self._clock.monotonic()
            if fresh:
                await self._membership.look()
            self._rows = {row.number: row for row in await self._shares.read()}
            self._at = at

    def _owner(self, row: ShardRow) -> Member | None:
        for each in self._membership.alive():
            if each.name == row.owner:
                return _told(each)
        return None


def _told(member: MemberRow) -> Member:
    node, slot, _ = member.name.rsplit("/", 2)
    draining = member.state == "draining"
    return Member(node, int(slot), member.address, member.location, "draining" if draining else "serving")
