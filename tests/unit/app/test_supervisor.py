from __future__ import annotations

from pigeonry.app.supervisor import PAUSE_S_MAX, drain_s_max, pause_s


def test_the_first_start_waits_for_nothing() -> None:
    assert pause_s(0) == 0.0


def test_each_failure_doubles_the_pause_up_to_a_bound() -> None:
    assert [pause_s(failures) for failures in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert pause_s(9) < PAUSE_S_MAX
    assert pause_s(10) == pause_s(10_000) == PAUSE_S_MAX


def test_a_worker_gets_the_time_that_its_transactions_and_then_its_deliveries_may_take() -> None:
    assert drain_s_max(30.0) > 60.0
