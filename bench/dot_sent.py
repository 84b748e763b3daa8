"""What syncing ``dot-sent`` adds to a delivery: from its being handed over until the final dot may leave.

usage: dot_sent.py [--messages 2000] [--size 4096]

One session at a time, then as many as keep the worker busy. The figure is the wait itself: without the promise the dot
would leave at once. The largest share of it under load is the 4 ms in which a group gathers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable

import uvloop
from inprocess import Relay, relaying

from pigeonry.domain.message import DotSent, Transition
from pigeonry.ports.queue_store import Later
from pigeonry.stores.handed import Handed

SESSIONS = (1, 10, 50)


class Timed:
    """A ``dot-sent`` on its way, followed with a watch in hand."""

    def __init__(self, handed: Handed, waits: list[float]) -> None:
        self._handed = handed
        self._waits = waits
        self._begun = time.perf_counter()
        self.withdraw = handed.withdraw

    def then(self, told: Callable[[Exception | None], None]) -> None:
        def timely(error: Exception | None) -> None:
            self._waits.append(time.perf_counter() - self._begun)
            told(error)

        self._handed.then(timely)


def watched(relay: Relay, waits: list[float]) -> None:
    """Note the wait of each ``dot-sent`` from now on."""
    writer = relay.wiring._store._writer  # noqa: SLF001  # a figure that only shows from inside
    commit = writer.commit

    def timed(transition: Transition | Later, *, deadline: float) -> Handed | Timed:
        handed = commit(transition, deadline=deadline)
        return Timed(handed, waits) if type(transition) is DotSent else handed

    writer.commit = timed  # type: ignore[method-assign, assignment]


async def measure(options: argparse.Namespace, folder: str) -> None:
    """All loads, one after the other."""
    async with relaying(folder) as relay:
        waits: list[float] = []
        watched(relay, waits)
        for sessions in SESSIONS:
            waits.clear()
            await relay.send(options.messages, sessions=sessions, size=options.size)
            ordered = sorted(wait * 1000 for wait in waits)
            middle, late = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
            print(f"{sessions:3} sessions: dot-sent adds p50 {middle:6.2f} ms, p99 {late:6.2f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--size", type=int, default=4096)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pigeonry-dot-sent-") as folder:
        uvloop.run(measure(options, folder))


if __name__ == "__main__":
    main()
