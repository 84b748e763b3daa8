from __future__ import annotations

from pigeonry.app.supervisor import PAUSE_S_MAX, pause_s


def test_the_first_start_waits_for_nothing() -> None:
    assert pause_s(0) == 0.0


def test_each_failure_doubles_the_pause_up_to_a_bound() -> None:
    assert [pause_s(failures) for failures in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert pause_s(9) < PAUSE_S_MAX
    assert pause_s(10) == pause_s(10_000) == PAUSE_S_MAX
