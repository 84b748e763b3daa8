"""A transition on its way through a store: what ``QueueStore.commit`` gives back.

It ends once: stored, refused, or given up. Whoever follows it is told in the turn in which that is known, without a
future, a task or another turn of the loop: three of these go with each message.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pigeonry.domain.errors import StoreInDoubt
from pigeonry.domain.message import Accept, Note
from pigeonry.ports.queue_store import Later

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pigeonry.domain.message import Transition

__all__ = ["Handed"]


class Handed:
    """See ``ports.queue_store.Commit`` for the contract.

    Args:
        given: What is to be stored, or what makes it.
        deadline: Monotonic time by which its end must be told.

    Attributes:
        ended: Whether its end is known; from then on nobody waits for it.
        brings: Whether it brings something new, which is refused where there is no room.
        octets: Of the body that it holds in memory.
    """

    __slots__ = ("_error", "_given", "_told", "brings", "deadline", "ended", "octets")

    def __init__(self, given: Transition | Later, *, deadline: float) -> None:
        self._given = given
        self.deadline = deadline
        self.ended = False
        self._error: Exception | None = None
        self._told: Callable[[Exception | None], None] | None = None
        kind = type(given)
        self.octets = 0
        if kind is Later:
            self.brings = given.accepts  # type: ignore[union-attr]
            self.octets = given.octets  # type: ignore[union-attr]
        else:
            self.brings = kind is Accept or kind is Note
            if kind is Accept and type(given.body) is bytes:  # type: ignore[union-attr]
                self.octets = len(given.body)  # type: ignore[union-attr]

    @property
    def transition(self) -> Transition:
        """What is to be stored, once it was made."""
        assert type(self._given) is not Later, "it was not made yet"
        return self._given  # type: ignore[return-value]

    def make(self) -> bool:
        """Make it if that was left for later; False when it has ended, or ends because it cannot be made."""
        if self.ended:
            return False
        given = self._given
        if type(given) is Later:
            try:
                self._given = given.make()
            except Exception as error:  # noqa: BLE001  # whoever waits for it judges it
                self.end(error)
                return False
        return True

    def then(self, told: Callable[[Exception | None], None]) -> None:
        """Call back with how it ended; in a turn of its own when that is known already."""
        if self.ended:
            asyncio.get_running_loop().call_soon(told, self._error)
        else:
            self._told = told

    def withdraw(self) -> None:
        """Nobody waits for it any more."""
        self.end(StoreInDoubt("Nobody waits for it any more."))

    def end(self, error: Exception | None = None) -> None:
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

            def wake(_error: Exception | None) -> None:
                if not waiter.done():
                    waiter.set_result(None)

            self._told = wake
            try:
                yield from waiter
            except BaseException:
                self._told = None  # who waited is on the way out, and must not be woken any more
                self.withdraw()
                raise
        if self._error is not None:
            raise self._error
