"""The clock and the lanes of virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.testing.dice import SeededDice

__all__ = ["EPOCH", "VirtualClock", "VirtualLane", "VirtualLanes"]

EPOCH: Final = 1_767_225_600.0  # seconds; 2026-01-01 00:00 UTC, where virtual time begins
LANE_S: Final = 0.000_4  # seconds that a piece of work takes at the least, as a fast sync does
LANE_SPREAD_S: Final = 0.003  # seconds more that it may take

P = ParamSpec("P")
T = TypeVar("T")


class VirtualClock:
    """Time as a loop has it. A stored epoch plus the loop's seconds is wall time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, epoch: float = EPOCH) -> None:
        self._loop = loop
        self._epoch = epoch

    def now(self) -> float:
        """Seconds since the Unix epoch, in microseconds as the wall clock of events has them."""
        return round(self._epoch + self._loop.time(), 6)

    def set_back(self, seconds: float) -> None:
        """Wall time is set back, as an operator or a time server may do."""
        self._epoch -= seconds

    def monotonic(self) -> float:
        """The loop's own time."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait on virtual time."""
        if seconds > 0.0:
            await asyncio.sleep(seconds)  # noqa: TID251  # this is the Clock


class VirtualLane:
    """Runs work in order, each piece after a while of virtual time that the dice decide.

    Args:
        loop: Whose time passes.
        dice: Decide how long a piece takes.
        alive: Whether the machine is up: of work that is begun when it is not, nothing happens and nobody hears.
        slowness: Factor on the time that work takes now.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dice: SeededDice,
        *,
        alive: Callable[[], bool],
        slowness: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._dice = dice
        self._alive = alive
        self._slowness = slowness
        self._waiting: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._busy = False
        self._closed = False

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Hand work over; its result or exception."""
        assert not self._closed, "the lane is closed"
        done: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append((done, lambda: work(*args, **kwargs)))
        if not self._busy:
            self._begin()
        return await asyncio.shield(done)

    def close(self) -> None:
        """Finish at once what was handed over."""
        self._closed = True
        while self._waiting:
            self._turn()

    def _begin(self) -> None:
        self._busy = True
        seconds = (LANE_S + LANE_SPREAD_S * self._dice.random()) * self._slowness()
        self._loop.call_later(seconds, self._next)

    def _next(self) -> None:
        self._turn()
        if self._waiting:
            self._begin()
        else:
            self._busy = False

    def _turn(self) -> None:
        if not self._waiting:
            return
        done, work = self._waiting.popleft()
        if not self._alive():
            return
        try:
            result, error = work(), None
        except Exception as raised:  # noqa: BLE001  # it belongs to the one who asked
            result, error = None, raised
        if done.cancelled() or not self._alive():  # the machine may have gone down under the work
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)
            done.exception()  # perhaps the one who asked is gone


def _always() -> bool:
    return True


def _as_usual() -> float:
    return 1.0


class VirtualLanes:
    """Makes lanes on virtual time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dice: SeededDice,
        *,
        alive: Callable[[], bool] = _always,
        slowness: Callable[[], float] = _as_usual,
    ) -> None:
        self._loop = loop
        self._dice = dice
        self._alive = alive
        self._slowness = slowness

    def lane(self, name: str) -> VirtualLane:
        """A new lane, with dice of its own."""
        return VirtualLane(self._loop, self._dice.fork(name), alive=self._alive, slowness=self._slowness)
