"""The real clock, dice and source of ids."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Final

__all__ = ["BootClock", "SystemClock", "SystemDice", "SystemIds"]

POOL_OCTETS: Final = 4_096  # one system call for some 200 ids; asking for 20 octets each time costs five times more


class SystemClock:
    """Time as the machine has it. Implements ``ports.environment.Clock``."""

    __slots__ = ()

    def now(self) -> float:
        """Wall time, seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back; the same scale as the event loop's."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after at least so many seconds."""
        await asyncio.sleep(max(0.0, seconds))


class BootClock(SystemClock):
    """The same, but that its monotonic time goes on while the machine is suspended: for leases.

    A machine that slept must know that its leases ran out meanwhile. Not on the scale of the event loop.
    """

    __slots__ = ()

    def monotonic(self) -> float:
        """Seconds since the machine was started, those with it that it was suspended."""
        return time.clock_gettime(_BOOT_TIME)


_BOOT_TIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux has it; others count on


class SystemDice:
    """Chance that need not be secret, seeded by the kernel. Implements ``ports.environment.Dice``."""

    __slots__ = ("_generator",)

    def __init__(self) -> None:
        self._generator = random.Random()  # noqa: S311  # jitter and shuffles, never secrets

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._generator.random()


class SystemIds:
    """Octets from the kernel's generator, drawn in pools. Implements ``ports.environment.IdSource``.

    A pool is never shared over a fork: it is thrown away when the process is another one.
    """

    __slots__ = ("_offset", "_pid", "_pool")

    def __init__(self) -> None:
        self._pool = b""
        self._offset = 0
        self._pid = os.getpid()

    def octets(self, count: int) -> bytes:
        """So many fresh random octets, each given out once."""
        end = self._offset + count
        if end > len(self._pool) or self._pid != os.getpid():
            if count > POOL_OCTETS:
                return os.urandom(count)
            self._pool = os.urandom(POOL_OCTETS)
            self._pid = os.getpid()
            self._offset = 0
            end = count
        octets = self._pool[self._offset : end]
        self._offset = end
        return octets
