"""Settles recipients for whom there was no conversation: no route, no source, no session, or a rest.

So many at once that they share commits. What a drain leaves over stays pending in the store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pigeonry.delivery.courier import Parts
from pigeonry.domain.errors import Fault
from pigeonry.domain.message import Pending
from pigeonry.domain.outcome import Deferred, Refused, Withdrawn
from pigeonry.queue.settlement import TEST_MODE

__all__ = ["Unattempted"]


class Unattempted:
    """For one worker.

    Args:
        parts: What couriers use to settle.
        done: Called when all that was to be told has been.
    """

    def __init__(self, parts: Parts, done: Callable[[], None]) -> None:
        self._parts = parts
        self._done = done
        self._to_tell: deque[tuple[Pending, Deferred | Withdrawn, bool]] = deque()
        self.telling = False
        """Whether some that were to be told are being settled."""

    def tell(self, pending: Pending, outcome: Deferred | Withdrawn, tasks: asyncio.TaskGroup, *, claimed: bool) -> None:
        """Settle one soon, among others.

        Args:
            claimed: Whether it was claimed already; else it is only if it is then still as it was dispatched.
        """
        self._to_tell.append((pending, outcome, claimed))
        if not self.telling:
            self.telling = True
            tasks.create_task(self._tell())

    async def conclude_all(self, pendings: deque[Pending], outcome: Deferred | Refused) -> None:
        """Settle claimed ones that all come to the same."""
        while pendings and not self._parts.ending():
            async with asyncio.TaskGroup() as settles:
                for _ in range(min(len(pendings), self._parts.limits.swept_at_once)):
                    settles.create_task(self._conclude(pendings.popleft(), outcome))

    async def _tell(self) -> None:
        parts = self._parts
        try:
            while self._to_tell and not parts.ending():
                async with asyncio.TaskGroup() as settles:
                    for _ in range(min(len(self._to_tell), parts.limits.swept_at_once)):
                        pending, outcome, claimed = self._to_tell.popleft()
                        if claimed or parts.settling.claim(pending):
                            settles.create_task(self._conclude(pending, outcome))
        finally:
            self.telling = False
            self._done()

    async def _conclude(self, pending: Pending, outcome: Deferred | Refused | Withdrawn) -> None:
        parts = self._parts
        kept = parts.content.kept(pending.message)
        try:
            message = await parts.store.message(pending.message) if kept is None else kept[0]
        except Fault:
            parts.settling.postpone(pending, seconds=parts.limits.retry_content_s)
            return
        if message is None:
            parts.settling.forget(pending.message, pending.serial)
        else:
            message = await parts.preparing.told(pending, message)
            settle = parts.settlement(
                pending, message, TEST_MODE if message.options.testmode else outcome, parts.clock.now()
            )
            await parts.settling.settled(settle, deadline=parts.clock.monotonic() + parts.limits.settle_s)
