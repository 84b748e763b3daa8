"""What comes in, counted for each door, and for each account that has a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.domain.errors import StoreBusy

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.auth.allowances import Allowances
    from pigeonry.domain.message import Accept, MessageKey
    from pigeonry.domain.submission import Submission
    from pigeonry.ports.queue_store import Commit
    from pigeonry.queue.intake import Intake, Taken
    from pigeonry.telemetry.metrics import Tally

__all__ = ["Counted"]


class Counted:
    """``Intake`` for one door, counted. While ``waits`` says so only ``accept`` may be called."""

    def __init__(self, intake: Intake, tally: Tally, door: str, allowances: Allowances) -> None:
        self._intake = intake
        self._tally = tally
        self._door = door
        self._allowances = allowances
        self.waits = allowances.any
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
        """See ``Intake.accept``.

        Raises:
            TooManyRequests: The account is over its limit.
        """
        limited = self._allowances.any()
        if limited:
            await self._allowances.spend(submission.account, len(submission.recipients))
        try:
            key = await self._intake.accept(submission, deadline=deadline)
        except BaseException as error:
            self._tally.refused[self._door] += 1
            if limited and isinstance(error, StoreBusy):  # nothing was stored
                await self._allowances.spare(submission.account, len(submission.recipients))
            raise
        self._tally.accepted(self._door, len(submission.recipients))
        return key
