"""What comes in, counted for each door."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.domain.message import Accept, MessageKey
    from pigeonry.domain.submission import Submission
    from pigeonry.ports.queue_store import Commit
    from pigeonry.queue.intake import Intake, Taken
    from pigeonry.telemetry.metrics import Tally

__all__ = ["Counted"]


class Counted:
    """``Intake`` for one door, counted."""

    def __init__(self, intake: Intake, tally: Tally, door: str) -> None:
        self._intake = intake
        self._tally = tally
        self._door = door
        self.reject = intake.reject

    def begin(self, make: Callable[[], Submission], *, octets: int, deadline: float, told: Taken) -> Commit:
        """See ``Intake.begin``."""

        def counted(taken: Accept | None, error: Exception | None) -> None:
            if taken is not None:
                self._tally.accepted(self._door, len(taken.recipients))
            else:
                self._tally.refused[self._door] += 1
            told(taken, error)

        return self._intake.begin(make, octets=octets, deadline=deadline, told=counted)

    async def accept(self, submission: Submission, *, deadline: float) -> MessageKey:
        """See ``Intake.accept``."""
        try:
            key = await self._intake.accept(submission, deadline=deadline)
        except BaseException:
            self._tally.refused[self._door] += 1
            raise
        self._tally.accepted(self._door, len(submission.recipients))
        return key
