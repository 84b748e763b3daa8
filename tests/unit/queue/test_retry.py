"""The retry schedule: doubling, capped, spread upwards, ending at the expiry."""

from __future__ import annotations

from pigeonry.queue.retry import RetrySchedule, next_attempt
from pigeonry.testing.dice import SeededDice


class Fixed:
    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


SCHEDULE = RetrySchedule()


def pause(attempts: int, *, dice: float = 0.0, expires_at: float = 1e9, in_doubt: bool = False) -> float | None:
    at = next_attempt(
        now=1000.0, attempts=attempts, expires_at=expires_at, schedule=SCHEDULE, dice=Fixed(dice), in_doubt=in_doubt
    )
    return None if at is None else at - 1000.0


def test_pauses_double_from_five_minutes_to_four_hours() -> None:
    assert [pause(n) for n in range(1, 9)] == [300, 600, 1200, 2400, 4800, 9600, 14400, 14400]
    assert pause(10_000) == 14400


def test_the_spread_only_lengthens_and_by_a_quarter_at_most() -> None:
    assert pause(1, dice=0.999999) is not None
    assert 300 < pause(1, dice=0.5) < pause(1, dice=0.999999) < 375


def test_the_last_attempt_is_made_at_the_expiry() -> None:
    assert pause(5, expires_at=1001.0) == 1.0
    assert pause(5, expires_at=1000.0) is None
    assert pause(5, expires_at=999.0) is None


def test_in_doubt_waits_its_delay_whatever_the_attempt_and_even_past_the_expiry() -> None:
    assert pause(1, in_doubt=True) == 600
    assert pause(9, in_doubt=True) == 600
    assert pause(1, in_doubt=True, expires_at=1001.0) == 600
    assert pause(1, in_doubt=True, expires_at=1000.0) is None


def test_seventy_two_hours_take_some_two_dozen_attempts() -> None:
    dice = SeededDice("schedule")
    now, attempts = 0.0, 1
    while due := next_attempt(now=now, attempts=attempts, expires_at=SCHEDULE.expiry_s, schedule=SCHEDULE, dice=dice):
        now, attempts = due, attempts + 1
    assert now == SCHEDULE.expiry_s
    assert 18 <= attempts <= 25


def test_a_pause_that_a_rule_asks_for_is_kept_within_the_longest_of_the_schedule() -> None:
    def asked(pause_s: float, attempts: int = 1) -> float | None:
        at = next_attempt(
            now=1000.0, attempts=attempts, expires_at=1e9, schedule=SCHEDULE, dice=Fixed(0.0), pause_s=pause_s
        )
        return None if at is None else at - 1000.0

    assert [asked(60.0), asked(3600.0), asked(60.0, 3), asked(1e6)] == [300, 3600, 1200, 14400]
