"""Transitions that wait for their group: what may come in, who is late, and what goes together.

Bounded by number and by octets; what brings nothing new is never refused for want of room, or a full queue could not
empty.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.domain.message import Accept
from pigeonry.stores.handed import Handed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.domain.message import Transition
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.queue_store import Later

__all__ = ["Backlog", "Bounds"]

GATHER_S: Final = 0.004  # What the first in a group waits longer, so that many share its syncs or its round trips.
GATHER_FROM: Final = 8  # Transitions in the last group: fewer come from so few clients that waiting only costs them.
GRAIN_S: Final = 0.02  # Deadlines are looked at this often; an answer may be early by as much, and is never late.


def _never() -> None:
    return None


def _is_over(item: Handed, limit: float, *, silent: bool) -> bool:
    """Whether nobody is to wait for it any longer."""
    return item.deadline < limit or (silent and item.brings and not item.ended)


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait, and go together.

    Args:
        group_transitions_max: Transitions in one group.
        group_recipients_max: Recipients after which a group takes no further message.
        backlog_transitions_max: Waiting transitions above which new messages are refused.
        backlog_octets_max: The same, in octets of the bodies that wait.
        full_retry_s: When who finds no room should come again.
    """

    group_transitions_max: int
    group_recipients_max: int
    backlog_transitions_max: int
    backlog_octets_max: int
    full_retry_s: float = 1.0


class Backlog:
    """What was handed over and is not written yet.

    Args:
        closed: Why nothing is taken any more, or None.
        full: Why nothing new is taken just now, or None.
        silent: Why who brings something new is told at once, and not at his deadline, that it is not stored or is in
            doubt; or None. The store behind answers nothing.
        behind: What they wait for, in the words of who sheds.
        doubt_retry_s: When who is told that it is in doubt should come again; None leaves that to the door.

    Attributes:
        flying: The group that is being written.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        bounds: Bounds,
        closed: Callable[[], str | None],
        full: Callable[[], str | None],
        silent: Callable[[], str | None] = _never,
        behind: str = "store",
        doubt_retry_s: float | None = None,
    ) -> None:
        self._clock = clock
        self._bounds = bounds
        self._closed = closed
        self._full = full
        self._silent = silent
        self._behind = behind
        self._doubt_retry_s = doubt_retry_s
        self._waiting: deque[Handed] = deque()
        self._octets = 0
        self._wake = asyncio.Event()
        self._last_group = 0
        self.flying: list[Handed] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def commit(self, transition: Transition | Later, *, deadline: float) -> Handed:
        """See ``ports.queue_store.QueueStore.commit``."""
        item = Handed(transition, deadline=deadline)
        refusal = self._refusal(item)
        if refusal is not None:
            item.end(refusal)
            return item
        self._waiting.append(item)
        self._octets += item.octets
        self._wake.set()
        return item

    def first(self, item: Handed) -> None:
        """One of the store's own, before all who wait."""
        self._waiting.appendleft(item)
        self._wake.set()

    def last(self, item: Handed) -> None:
        """One of the store's own, behind all who wait."""
        self._waiting.append(item)
        self._wake.set()

    def reason_to_shed(self) -> str | None:
        """Why doors should refuse just now, or None."""
        reason = self._closed() or self._full() or self._silent()
        if reason is not None:
            return reason
        if len(self._waiting) > self._bounds.backlog_transitions_max // 2:
            return f"too many transitions wait for the {self._behind}"
        if self._octets > self._bounds.backlog_octets_max // 2:
            return f"too many octets wait for the {self._behind}"
        return None

    async def some(self) -> None:
        """Return when something waits; a little later while many are on their way, so that the group grows.

        What each group costs is shared by all in it. Whoever is alone waits for nobody: only after a group of some
        size, so from many at once, is there a pause, and none when the next one is full already.
        """
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        if self._last_group >= GATHER_FROM and len(self._waiting) < self._bounds.group_transitions_max:
            await self._clock.sleep(GATHER_S)

    def gather(self) -> list[Handed]:
        """The next group, made."""
        batch: list[Handed] = []
        waiting, most = self._waiting, self._bounds.group_transitions_max
        room = self._bounds.group_recipients_max
        while waiting and len(batch) < most and room > 0:
            item = waiting.popleft()
            self._octets -= item.octets
            if item.make():  # Else it was withdrawn, or told that it is late.
                batch.append(item)
                if type(item.transition) is Accept:
                    room -= len(item.transition.recipients)
        self._last_group = len(batch)
        self.flying = batch
        return batch

    def refuse_all(self, text: str) -> None:
        """Nothing of what waits will be written."""
        waiting, self._waiting = self._waiting, deque()
        self._octets = 0
        for item in waiting:
            item.end(StoreBusy(text, retry_after_s=1.0))

    def abandon(self) -> None:
        """Nobody writes any more: who waits is told so, and of what is being written that it is in doubt."""
        for item in self.flying:
            item.withdraw()
        self.refuse_all("The queue is closing.")

    async def watch_deadlines(self) -> None:
        """Answer those whose time is over, until cancelled."""
        while True:
            await self._wake.wait()
            while self._waiting or self.flying:
                limit = self._clock.monotonic() + GRAIN_S
                silent = self._silent() is not None
                for item in [each for each in self._waiting if _is_over(each, limit, silent=silent)]:
                    item.end(StoreBusy("The queue could not take it in time.", retry_after_s=1.0))
                for item in [each for each in self.flying if _is_over(each, limit, silent=silent)]:
                    item.end(StoreInDoubt("The queue did not confirm in time.", retry_after_s=self._doubt_retry_s))
                await self._clock.sleep(GRAIN_S)
            self._wake.clear()

    def _refusal(self, item: Handed) -> StoreBusy | None:
        if self._closed() is not None:
            return StoreBusy("The queue is closing.", retry_after_s=1.0)
        if item.deadline <= self._clock.monotonic():
            return StoreBusy("The queue could not take it in time.", retry_after_s=1.0)
        if not item.brings:
            return None
        bounds = self._bounds
        if (
            self._full() is not None
            or self._silent() is not None
            or len(self._waiting) >= bounds.backlog_transitions_max
            or self._octets >= bounds.backlog_octets_max
        ):
            return StoreBusy("The queue has no room just now.", retry_after_s=bounds.full_retry_s)
        return None
