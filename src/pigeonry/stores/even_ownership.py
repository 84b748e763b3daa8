"""Ownership by arithmetic: shard and number of members say who owns it, as the embedded store shares shards out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pigeonry.ports.ownership import Member

__all__ = ["EvenOwnership"]


class EvenOwnership:
    """See ``ports.ownership`` for the contract. A member owns the shards whose number leaves its place as remainder.

    Args:
        members: At least one, in the order in which shards are dealt to them.
        shards: How many shards there are by now; a store may be given more.
    """

    def __init__(self, members: Sequence[Member], *, shards: Callable[[], int]) -> None:
        assert members, "somebody owns the shards"
        self._members = tuple(members)
        self._shards = shards

    async def owner_of(self, shard: int, *, fresh: bool = False) -> Member | None:  # noqa: ARG002  # it never changes
        """The member that the remainder names."""
        return self._members[shard % len(self._members)] if 0 <= shard < self._shards() else None

    async def owners(self, *, fresh: bool = True) -> Mapping[int, Member | None]:  # noqa: ARG002  # it never changes
        """Every shard and its owner."""
        return {shard: self._members[shard % len(self._members)] for shard in range(self._shards())}

    async def members(self, *, fresh: bool = False) -> Sequence[Member]:  # noqa: ARG002  # they never change
        """All of them, in order."""
        return sorted(self._members)
