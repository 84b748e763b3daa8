"""Lanes of threads: blocking work beside the loop, one piece at a time, one wake-up of the loop for each piece.

A lane is one thread with a queue of its own. ``concurrent.futures`` would do the same with two locks and a
condition for each piece; a group commit passes here thousands of times a second.
"""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.ports.disk import Lane

__all__ = ["ThreadLane", "ThreadLanes"]

P = ParamSpec("P")
T = TypeVar("T")


class ThreadLane:
    """One thread. See ``ports.disk.Lane`` for the contract."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._turn, name=name, daemon=True)
        self._closed = False
        self._thread.start()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it on the thread; a caller that is cancelled leaves the work to run to its end."""
        if self._closed:
            raise RuntimeError("the lane is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def piece() -> None:
            try:
                result = work(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # it is the caller's, whatever it is
                _hand_back(loop, _fail, future, error)
            else:
                _hand_back(loop, _fulfil, future, result)

        self._work.put(piece)
        return await future

    def close(self) -> None:
        """Finish what was handed over, then stop the thread and wait for it."""
        if not self._closed:
            self._closed = True
            self._work.put(None)
            self._thread.join()

    def _turn(self) -> None:
        while (piece := self._work.get()) is not None:
            piece()


class ThreadLanes:
    """Makes a thread for each lane. See ``ports.disk.Lanes`` for the contract."""

    def lane(self, name: str) -> Lane:
        """A new thread, named for those who look at a stack dump."""
        return ThreadLane(name)


def _hand_back(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(how, *args)
    except RuntimeError:  # The loop was closed meanwhile: nobody is left to hear of it.
        return


def _fulfil(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
