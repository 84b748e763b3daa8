"""Whether the store answers at all: known within a second, by asking it and not by counting who failed.

A request that fails, or silence while requests are under way, makes a suspicion; a suspicion makes a probe; and only a
probe that fails while nothing else is answered opens the circuit. So neither one slow query nor a contended row can
open it. While it is open no request is sent, the store is probed several times a second, and the first probe
that succeeds closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pigeonry.ports.environment import Clock

__all__ = ["PROBE_S_MAX", "Circuit"]

TICK_S: Final = 0.15  # seconds between two looks whether anything was answered; a healthy store takes less
SILENT_TICKS: Final = 2  # ticks with requests under way and no answer; it is not one late answer that is suspicious
PROBE_S_MAX: Final = 0.4  # seconds for a probe's answer; with the silence before it, and a pause, under a second
PAUSE_S: Final = 0.15  # seconds between two probes of a store that does not answer, or of which some requests fail


class Circuit:
    """Counts requests, and says whether to send more.

    Args:
        probe: Asks the store what it must answer within ``PROBE_S_MAX``; whether it did.
    """

    def __init__(self, probe: Callable[[], Awaitable[bool]], clock: Clock) -> None:
        self._probe = probe
        self._clock = clock
        self._failed = asyncio.Event()
        self.is_open = False
        self.under_way = 0
        self.answers = 0
        self.openings = 0

    def began(self) -> None:
        """A request was sent."""
        self.under_way += 1

    def answered(self) -> None:
        """One that began was answered, well or with an error of its own."""
        self.under_way -= 1
        self.answers += 1

    def failed(self) -> None:
        """One that began came to nothing for reasons of the store's."""
        self.under_way -= 1
        self._failed.set()

    def abandoned(self) -> None:
        """One that began is waited for no more."""
        self.under_way -= 1

    async def watch(self) -> None:
        """Open and close as the store goes and comes; runs until it is cancelled."""
        while True:
            await self._suspicion()
            await self._look()

    async def _suspicion(self) -> None:
        """Return when a request failed, or when none is answered although some are under way."""
        silent = 0
        while silent < SILENT_TICKS:
            answers, waited_for = self.answers, self.under_way
            try:
                async with asyncio.timeout(TICK_S):
                    await self._failed.wait()
            except TimeoutError:
                heard = waited_for == 0 or self.under_way == 0 or self.answers != answers
                silent = 0 if heard else silent + 1
            else:
                return

    async def _look(self) -> None:
        """Probe until the store answers; between two probes and after the last one there is a pause."""
        while True:
            self._failed.clear()
            answers = self.answers
            alive = await self._probe() or self.answers != answers
            if self.is_open == alive:
                self.is_open = not alive
                self.openings += self.is_open
            await self._clock.sleep(PAUSE_S)
            if alive:
                return
