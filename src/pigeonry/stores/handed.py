"""A transition on its way through a store: what ``QueueStore.commit`` gives back.

It ends once: stored, refused, or given up. Whoever follows it is told in the turn in which that is known, without a
future, a task or another turn of the loop: three of these go with each message.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pigeonry.domain.errors import StoreInDoubt
from pigeonry.domain.message import Accept

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pigeonry.domain.errors import Fault
    from pigeonry.domain.message import Transition

__all__ = ["Handed"]


class Handed:
    """See ``ports.queue_store.Commit`` for the contract.

    Args:
        transition: What is to be stored.
        deadline: Monotonic time by which its end must be told.

    Attributes:
        ended: Whether its end is known; from then on nobody waits for it.
        octets: Of the body that it holds in memory.
    """

    __slots__ = ("_error", "_told", "deadline", "ended", "octets", "transition")

    def __init__(self, transition: Transition, *, deadline: float) -> None:
        self.transition = transition
        self.deadline = deadline
        self.ended = False
        self.octets = len(transition.body) if type(transition) is Accept and type(transition.body) is bytes else 0
        self._error: Fault | None = None
        self._told: Callable[[Fault | None], None] | None = None

    def then(self, told: Callable[[Fault | None], None]) -> None:
        """Call back with how it ended; in a turn of its own when that is known already."""
        if self.ended:
            asyncio.get_running_loop().call_soon(told, self._error)
        else:
            self._told = told

    def withdraw(self) -> None:
        """Nobody waits for it any more."""
        self.end(StoreInDoubt("Nobody waits for it any more."))

    def end(self, error: Fault | None = None) -> None:
        """It is stored, or it is not; only the first end counts."""
        if self.ended:
            return
        self.ended = True
        self._error = error
        told, self._told = self._told, None
        if told is not None:
            try:
                told(error)
            except Exception as bug:  # noqa: BLE001  # the caller's bug must not take the group's other members along
                context = {"message": "who waited for a commit failed when told of it", "exception": bug}
                asyncio.get_running_loop().call_exception_handler(context)

    def __await__(self) -> Generator[Any, None, None]:
        """Wait for its end; a caller that is cancelled withdraws it."""
        if not self.ended:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(_error: Fault | None) -> None:
                if not waiter.done():
                    waiter.set_result(None)

            self._told = wake
            try:
                yield from waiter
            except BaseException:
                self.withdraw()
                raise
        if self._error is not None:
            raise self._error
