"""What a test's own coroutine does in the place of a store's commit, as something that can be followed or awaited."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from pigeonry.domain.errors import StoreInDoubt
from pigeonry.ports.queue_store import Later

__all__ = ["Running", "followed"]


class Running:
    """A ``ports.queue_store.Commit`` whose end is that of a coroutine; ``result`` is what it returned."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._task = asyncio.ensure_future(work)

    @property
    def result(self) -> Any:
        return self._task.result()

    def then(self, told: Callable[[Any], None]) -> None:
        self._task.add_done_callback(lambda task: told(_error(task)))

    def withdraw(self) -> None:
        self._task.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._task.__await__()


def followed(commit: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Running]:
    """Make a method that is a coroutine one that gives back a ``Commit``."""

    @functools.wraps(commit)
    def handed_over(*args: Any, **named: Any) -> Running:
        async def work() -> None:
            *before, given = args
            await commit(*before, given.make() if isinstance(given, Later) else given, **named)

        return Running(work())

    return handed_over


def _error(task: asyncio.Task[Any]) -> BaseException | None:
    return StoreInDoubt("Nobody waits for it any more.") if task.cancelled() else task.exception()
