"""When to try again, and when to stop.

A receiver that says "later" mostly means greylisting (five minutes are enough), a full mailbox or a host that is
down (hours). So the first retry comes after about five minutes, each pause is twice the one before, and none is
longer than four hours: 5, 10, 20, 40, 80, 160, 240, 240 ... minutes.

After 72 hours it is over. Mailgun stops after some 8 hours; a weekend's outage at the receiver then loses mail that
could have been delivered on Monday, and those who want the shorter promise can configure it. RFC 5321 asks for
four to five days, made for an age in which hosts were dialled up; three days cover a weekend.

Pauses are spread by up to a quarter, only ever upwards: what failed together does not come back together, and no
pause is shorter than promised (the in-doubt delay is a lower bound, invariant I4).

Standards: RFC 5321 section 4.5.4.1 (sending strategy); RFC 6647 (greylisting).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pigeonry.ports.environment import Dice

__all__ = ["RetrySchedule", "next_attempt"]

FIRST_PAUSE_S: Final = 300.0  # seconds; what greylisting servers commonly ask for
PAUSE_S_MAX: Final = 14_400.0  # seconds; a receiver that is back is found within four hours
EXPIRY_S: Final = 259_200.0  # seconds; 72 hours bridge a weekend
IN_DOUBT_S: Final = 600.0  # seconds; longer than a receiver takes to finish what it may have accepted
SPREAD: Final = 0.25  # of the pause


class RetrySchedule(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of trying again.

    Args:
        first_pause_s: Seconds from the first attempt to the second; doubled for each further one.
        pause_s_max: Seconds; no pause before its spread is longer.
        expiry_s: Seconds from the time a message was due until it is given up.
        in_doubt_s: Seconds, at least, after an attempt whose outcome is not known.
        spread: The share of a pause by which it may be longer.
    """

    first_pause_s: float = FIRST_PAUSE_S
    pause_s_max: float = PAUSE_S_MAX
    expiry_s: float = EXPIRY_S
    in_doubt_s: float = IN_DOUBT_S
    spread: float = SPREAD


def next_attempt(
    *,
    now: float,
    attempts: int,
    expires_at: float,
    schedule: RetrySchedule,
    dice: Dice,
    in_doubt: bool = False,
    pause_s: float = 0.0,
) -> float | None:
    """Time of the next attempt, seconds since the Unix epoch; None when the message has expired.

    The last attempt is made when the message expires and not before, so that no mail is given up early because
    its next regular turn would come too late.

    Args:
        now: Seconds since the Unix epoch.
        attempts: How many were made, this one included; at least 1.
        expires_at: Seconds since the Unix epoch.
        in_doubt: Whether the outcome of this attempt is not known: the pause is then at least the in-doubt delay.
        pause_s: Seconds that the pause is to last at least, when the receiver or a rule of ours asks for it; but never
            longer than the schedule's longest.
    """
    assert attempts >= 1, "a retry follows an attempt"
    if now >= expires_at:
        return None
    pause = min(schedule.first_pause_s * 2.0 ** min(attempts - 1, 32), schedule.pause_s_max)
    if in_doubt:
        # A recipient in doubt may be tried after its expiry, once: to give up earlier would not make it surer.
        return now + _spread(max(schedule.in_doubt_s, 0.0), schedule, dice)
    return min(now + _spread(max(pause, min(pause_s, schedule.pause_s_max)), schedule, dice), expires_at)


def _spread(pause: float, schedule: RetrySchedule, dice: Dice) -> float:
    return pause * (1.0 + schedule.spread * dice.random())
