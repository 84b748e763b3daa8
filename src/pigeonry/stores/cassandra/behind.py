"""What follows the journal and nobody waits for: outcomes, marks of voided messages, records that go.

All of it can be said again from the journal, so a takeover does; what it tells is asked from here until it is written.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from pigeonry.ports.environment import Clock

__all__ = ["Behind"]

AT_ONCE: Final = 32  # requests under way
PAUSE_S: Final = 0.5  # before what could not be written is tried again


class Behind:
    """Writes by key, in the order in which they came; a key's newer write replaces one that waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[Hashable, tuple[object, Callable[[], Awaitable[None]]]] = {}
        self._flying: dict[Hashable, object] = {}
        self._wake = asyncio.Event()
        self._level = asyncio.Event()
        self._level.set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._flying)

    def put(self, key: Hashable, what: object, write: Callable[[], Awaitable[None]]) -> None:
        """Have something written.

        Args:
            what: What ``get`` answers until then.
            write: Raises ``Fault`` when it should be tried again; the same twice does no harm.
        """
        self._waiting.pop(key, None)
        self._waiting[key] = (what, write)
        self._level.clear()
        self._wake.set()

    def get(self, key: Hashable) -> object | None:
        """What is not written yet."""
        waiting = self._waiting.get(key)
        return waiting[0] if waiting is not None else self._flying.get(key)

    async def level(self) -> None:
        """Return when nothing waits."""
        await self._level.wait()

    async def level_within(self, seconds: float) -> bool:
        """Whether nothing waits any more, after so many seconds at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._level.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            while self._waiting:
                batch = [(key, *self._waiting.pop(key)) for key in list(self._waiting)[:AT_ONCE]]
                self._flying = {key: what for key, what, _ in batch}
                results = await asyncio.gather(*(write() for _, _, write in batch), return_exceptions=True)
                self._flying = {}
                failed = False
                for (key, what, write), result in zip(batch, results, strict=True):
                    if isinstance(result, Fault):
                        failed = True
                        self._waiting.setdefault(key, (what, write))
                    elif isinstance(result, BaseException):
                        raise result
                if failed:
                    await self._clock.sleep(PAUSE_S)
            self._level.set()
            self._wake.clear()
