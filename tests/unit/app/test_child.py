from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pigeonry.app.child import Child
from pigeonry.app.control import SILENCE_S_MAX, START_S_MAX, Beat, Bye, FromSupervisor, FromWorker, Quiet
from pigeonry.net.environment import SystemClock


class Ticking(SystemClock):
    """Each look at it is a little later than the one before, as with a real clock."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        self.at += 1e-6
        return self.at


class Says:
    """A worker's end of the channel, and its process."""

    returncode = None

    def __init__(self, *messages: FromWorker) -> None:
        self._messages: Iterator[FromWorker] = iter(messages)
        self.heard: list[FromSupervisor] = []

    def send(self, message: FromSupervisor) -> None:
        self.heard.append(message)

    async def from_worker(self) -> FromWorker | None:
        return next(self._messages, None)

    async def wait(self) -> None: ...

    def close(self) -> None: ...


def child(*messages: FromWorker, says: Says | None = None) -> Child:
    end: Any = says or Says(*messages)
    return Child(end, end, slot=0, generation=1, clock=Ticking())


async def test_a_worker_has_time_to_start_before_its_first_beat() -> None:
    started = child()
    await started.attend()
    assert not started.is_stuck(started.started_at + START_S_MAX - 1.0)
    assert started.is_stuck(started.started_at + START_S_MAX + 1.0)


async def test_a_worker_that_has_beaten_once_must_go_on() -> None:
    beating = child(Beat(0.0))
    await beating.attend()
    assert not beating.is_stuck(beating.heard_at + SILENCE_S_MAX - 1.0)
    assert beating.is_stuck(beating.heard_at + SILENCE_S_MAX + 1.0)


async def test_who_is_quiet_is_told_whether_others_still_send() -> None:
    for last in (True, False):
        says = Says(Quiet())
        quiet = child(says=says)
        quiet.is_last = lambda last=last: last  # type: ignore[misc]
        await quiet.attend()
        assert quiet.quiet
        assert says.heard == [Bye(last)]
