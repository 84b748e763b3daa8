from __future__ import annotations

from typing import Any

import structlog

from pigeonry.app.control import FromSupervisor, Leaving
from pigeonry.app.settings import NodeSettings, Settings
from pigeonry.app.supervisor import PAUSE_S_MAX, Supervisor, drain_s_max, pause_s
from pigeonry.net.environment import SystemClock


def test_the_first_start_waits_for_nothing() -> None:
    assert pause_s(0) == 0.0


def test_each_failure_doubles_the_pause_up_to_a_bound() -> None:
    assert [pause_s(failures) for failures in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert pause_s(9) < PAUSE_S_MAX
    assert pause_s(10) == pause_s(10_000) == PAUSE_S_MAX


def test_a_worker_gets_the_time_that_its_transactions_and_then_its_deliveries_may_take() -> None:
    assert drain_s_max(30.0) > 60.0


class Worker:
    """As much of a child as a supervisor asks."""

    def __init__(self) -> None:
        self.quiet = False
        self.told: list[FromSupervisor] = []

    def send(self, message: FromSupervisor) -> None:
        self.told.append(message)


class Silent:
    """Tells systemd nothing."""

    def stopping(self) -> None:
        return


def test_workers_know_from_the_first_moment_that_the_node_leaves_and_who_is_its_last() -> None:
    silent: Any = Silent()
    settings = Settings(node=NodeSettings(workers=2))
    supervisor = Supervisor(
        settings,
        read=lambda: settings,
        data="",
        sealing_key="",
        clock=SystemClock(),
        notifier=silent,
        log=structlog.get_logger(),
    )
    one, two = Worker(), Worker()
    workers: Any = {one, two}
    supervisor._children = workers
    one.quiet = two.quiet = True
    assert not supervisor._is_last(one), "it is replaced"  # type: ignore[arg-type]
    one.quiet = two.quiet = False
    supervisor.leave(told_by="test")
    supervisor.leave(told_by="test")
    assert one.told == two.told == [Leaving()]
    one.quiet = True
    assert not supervisor._is_last(one)  # type: ignore[arg-type]
    two.quiet = True
    assert supervisor._is_last(two)  # type: ignore[arg-type]
