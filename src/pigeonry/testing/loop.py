"""An event loop on virtual time: one seed replays a whole run, and a day passes in milliseconds (invariant I8).

When nothing is ready the loop jumps to its next timer. It has no sockets, no threads and no signals; whoever asks for
one is told so. Nothing scheduled and nothing ready means that everybody waits for somebody: that is an error here,
where a real loop would sleep for ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Stuck", "VirtualLoop"]


class Stuck(Exception):
    """All tasks wait and no timer is set: nothing can ever happen again."""


class _Selector:
    """Stands where the loop waits for the outside world: here only time passes."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise Stuck("Nothing is ready and no timer is set.")
        self._loop.pass_time(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time passes only when everybody waits."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0
        self._selector = _Selector(self)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual

    def pass_time(self, seconds: float) -> None:
        """Let time pass; called by the loop itself when nothing is ready."""
        self._virtual += seconds

    def play(self, main: Coroutine[Any, Any, object]) -> None:
        """Run until ``main`` ends, then cancel in order of their making all tasks that are left."""
        asyncio.set_event_loop(None)
        try:
            self.run_until_complete(main)
        finally:
            self._cancel_the_rest()
            self.close()

    def _cancel_the_rest(self) -> None:
        left = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def _process_events(self, event_list: list[object]) -> None:
        assert not event_list, "the selector of virtual time reports nothing"

    def _write_to_self(self) -> None:
        """Nobody sleeps that would have to be woken."""

    def run_in_executor(self, executor: object, func: Callable[..., object], *args: object) -> NoReturn:
        """Refuse: a thread has a time of its own."""
        raise NotImplementedError("There are no threads on virtual time: take Lanes.")
