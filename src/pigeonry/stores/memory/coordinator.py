"""Leases in memory: for tests, simulation and a node of one worker.

Several ``MemoryCoordinator`` over one ``Board`` are what several workers over one file are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.ports.coordinator import Lease

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pigeonry.ports.environment import Clock

__all__ = ["Board", "MemoryCoordinator"]


class Board:
    """What several instances share: the leases by name, and the highest epoch that was ever given."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.epoch = 0


class MemoryCoordinator:
    """See ``ports.coordinator.Coordinator`` for the contract.

    Args:
        board: Shared with other instances; an own one when not given.
    """

    def __init__(self, clock: Clock, board: Board | None = None) -> None:
        self._clock = clock
        self._board = board or Board()

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, ended: Callable[[str], Awaitable[bool]] | None = None
    ) -> Lease | None:
        """Take a lease that is free or expired; None when it is held by another."""
        now = self._clock.now()
        held = self._board.leases.get(name)
        if held is not None and held.expires_at > now and held.owner != owner and ended is not None:
            if await ended(held.owner):
                await self.release(held)
            held = self._board.leases.get(name)
        if held is not None and held.expires_at > now:
            if held.owner != owner:
                return None
            epoch = held.epoch
        else:
            epoch = self._board.epoch = self._board.epoch + 1
        lease = self._board.leases[name] = Lease(name, owner, epoch, now + ttl_s)
        return lease

    async def renew(self, lease: Lease, *, ttl_s: float) -> Lease | None:
        """Extend a lease; None when it is another's by now, or was released."""
        if not self._stands(lease):
            return None
        renewed = Lease(lease.name, lease.owner, lease.epoch, self._clock.now() + ttl_s)
        self._board.leases[lease.name] = renewed
        return renewed

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        if self._stands(lease):
            del self._board.leases[lease.name]

    def _stands(self, lease: Lease) -> bool:
        held = self._board.leases.get(lease.name)
        return held is not None and (held.owner, held.epoch) == (lease.owner, lease.epoch)
