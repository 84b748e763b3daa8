"""Follows the change feed of a document store, so that a view of it in memory stays level.

Everything hot (keys, domains) is asked from memory; this keeps the memory right. When the store cannot be reached the
view stays as it was: what was known goes on working, and ``stale_s`` says for how long that has been so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.ports.documents import Change, Documents
    from pigeonry.ports.environment import Clock

__all__ = ["KNOWN_S", "POLL_S", "Follower"]

POLL_S: Final = 0.25  # a look costs 0.1 ms; a revocation is to be known within 5 s, a new domain almost at once
KNOWN_S: Final = 2 * POLL_S
"""Seconds after which every worker of a healthy node has taken in a change. Who makes a thing and answers after them
spares its user a first refusal by a worker that has not heard of it."""
_PAGE: Final = 500  # changes fetched at once: 500 domains with two keys each are 2 MB


class Follower:
    """Calls ``apply`` with every change of a store, in order, each once.

    Args:
        apply: Takes one change into the view; must not raise.
        poll_s: Seconds between two looks.
    """

    def __init__(
        self, documents: Documents, clock: Clock, apply: Callable[[Change], None], *, poll_s: float = POLL_S
    ) -> None:
        self._documents = documents
        self._clock = clock
        self._apply = apply
        self._poll_s = poll_s
        self._position = 0
        self._level_at: float | None = None
        self.failing = False
        """Whether the last look failed."""

    def stale_s(self) -> float | None:
        """Seconds since the view was last known to be level; None before the first time."""
        return None if self._level_at is None else self._clock.monotonic() - self._level_at

    async def refresh(self) -> None:
        """Take in every change there is now.

        Raises:
            Fault: The store cannot be reached; what was taken in until then stays.
        """
        began = self._clock.monotonic()
        try:
            while changes := await self._documents.changes(after=self._position, limit=_PAGE):
                for change in changes:
                    # two of these may run at once: what the other one took in is never put back to an older state
                    if change.position > self._position:
                        self._apply(change)
                        self._position = change.position
                if len(changes) < _PAGE:
                    break
        except Fault:
            self.failing = True
            raise
        self.failing = False
        self._level_at = began

    async def run(self, tell: Callable[[bool], None]) -> None:
        """Look every ``poll_s`` until cancelled.

        Args:
            tell: Called with False when the store stops answering and with True when it answers again.
        """
        failing = False
        while True:
            try:
                await self.refresh()
            except Fault:
                if not failing:
                    tell(False)
                failing = True
            else:
                if failing:
                    tell(True)
                failing = False
            await self._clock.sleep(self._poll_s)
