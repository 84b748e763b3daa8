"""Why a message is where it is: of each recipient, what holds it, whose that is, and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import NotFound
from pigeonry.domain.holding import Holding
from pigeonry.domain.message import RecipientState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.domain.message import MessageKey, Pending, RecipientView
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.queue_store import QueueStore
    from pigeonry.queue.scheduler import Scheduler

__all__ = ["Standing", "Why"]

RECIPIENTS_MAX: Final = 1_000  # of one answer: as many as a message has
_ENDS: Final = {
    RecipientState.DELIVERED: "It was delivered.",
    RecipientState.FAILED: "It failed for good.",
    RecipientState.VOID: "It was never accepted.",
}


class Standing(msgspec.Struct, frozen=True):
    """One recipient. Times in seconds since the Unix epoch.

    Args:
        state: ``pending``, ``delivered``, ``failed`` or ``void``.
        attempts: How many were made.
        due: When it falls, or fell, due; 0.0 for one that has ended.
        expires_at: When it is given up.
        holding: What keeps it.
    """

    recipient: str
    state: str
    attempts: int
    due: float
    expires_at: float
    in_doubt: bool
    holding: Holding


class Why:
    """Answers for the messages of this worker's shards.

    Args:
        waiting: What keeps a recipient that is due and in memory (``Dispatcher.holding``).
    """

    def __init__(
        self, store: QueueStore, scheduler: Scheduler, clock: Clock, *, waiting: Callable[[Pending], Holding]
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._waiting = waiting

    async def of(self, key: MessageKey) -> Sequence[Standing]:
        """How its recipients stand.

        Raises:
            NotFound: There is no such message.
        """
        views = await self._store.recipients(key)
        if not views:
            raise NotFound("Message not found")
        return [self._standing(view) for view in views[:RECIPIENTS_MAX]]

    def _standing(self, view: RecipientView) -> Standing:
        pending = view.pending
        ended = view.state is not RecipientState.PENDING
        return Standing(
            recipient=pending.address,
            state=view.state.name.lower(),
            attempts=pending.attempts,
            due=0.0 if ended else pending.due,
            expires_at=pending.expires_at,
            in_doubt=pending.in_doubt,
            holding=Holding("ended", "message", _ENDS[view.state]) if ended else self._holding(pending),
        )

    def _holding(self, pending: Pending) -> Holding:
        if self._scheduler.is_claimed(pending):
            return Holding("attempt", "receiver", "It is being attempted, or a command sees to it.")
        if pending.due <= self._clock.now():
            if self._scheduler.paused:
                return Holding("store", "server", "The store does not take outcomes just now: nothing is begun.")
            return self._waiting(pending)
        if pending.in_doubt:
            text = "It may have been delivered: it waits until the receiver is surely done with it."
            return Holding("doubt", "receiver", text, pending.due)
        if pending.attempts:
            return Holding("retry", "receiver", f"Attempt {pending.attempts} failed: it is tried again.", pending.due)
        return Holding("schedule", "message", "It was asked to be sent later.", pending.due)
