"""Leases that hold over all workers and nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Coordinator", "Lease"]


class Lease(msgspec.Struct, frozen=True):
    """An exclusive, expiring right.

    Args:
        name: What is leased.
        owner: Who holds it.
        epoch: Rises each time the lease is newly taken: the fencing token.
        expires_at: Seconds since the Unix epoch.
    """

    name: str
    owner: str
    epoch: int
    expires_at: float


class Coordinator(Protocol):
    """Leases with fencing. A lease survives its owner's crash until it expires, and no longer.

    tests/conformance/test_coordinator.py holds every implementation to this.
    """

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, ended: Callable[[str], Awaitable[bool]] | None = None
    ) -> Lease | None:
        """Take a lease that is free or expired, with a higher epoch than any before; None when it is held.

        The owner that holds it already gets it renewed, with the same epoch.

        Args:
            ended: Asked of another owner who holds it: whether he has ended for good, so that it is free.
        """
        ...

    async def renew(self, lease: Lease, *, ttl_s: float) -> Lease | None:
        """Extend a lease; None when it expired and was taken by another, or was released."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give a lease back. Nothing happens when it is another's by now."""
        ...
