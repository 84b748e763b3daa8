"""Who owns which shard: what a command needs in order to reach the one process that may write a message.

An answer is a hint and never a right: the owner may change at any moment, and only a commit that the store takes
proves that somebody owned a shard. Who is asked for a shard that is not its own says so (``errors.NotOwner``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

__all__ = ["Member", "Ownership"]


class Member(msgspec.Struct, frozen=True, order=True):
    """A worker that takes part in the cluster.

    Args:
        node: Name of its node, unique in the cluster; the node's certificate carries it.
        slot: Which of the node's workers it is, from 0.
        address: ``host:port`` where other nodes reach the commands of its node; empty: nobody outside can. Within a
            node a worker is reached by its Unix socket, whose path follows from the slot.
        location: Where the node stands, such as a data centre; empty where that was not said.
        state: A member that drains keeps its shards until another has taken them, and gets no new ones.
    """

    node: str
    slot: int
    address: str = ""
    location: str = ""
    state: Literal["serving", "draining"] = "serving"


class Ownership(Protocol):
    """The members and their shards, as this process last heard of them.

    tests/conformance/test_ownership.py holds every implementation to this.
    """

    async def owner_of(self, shard: int, *, fresh: bool = False) -> Member | None:
        """The owner of a shard; None when nobody owns it now, or there is no such shard.

        Args:
            fresh: Look where it is decided. Otherwise the answer may be some seconds old, and mostly costs no I/O.

        Raises:
            StoreBusy: It cannot be found out in time.
        """
        ...

    async def owners(self, *, fresh: bool = True) -> Mapping[int, Member | None]:
        """Every shard and its owner, None where nobody owns it now.

        Args:
            fresh: As it is where it is decided. Otherwise the answer may be some seconds old and costs no I/O.

        Raises:
            StoreBusy: As above.
        """
        ...

    async def members(self, *, fresh: bool = False) -> Sequence[Member]:
        """All members that are not known to be gone, in order.

        Raises:
            StoreBusy: As above.
        """
        ...
