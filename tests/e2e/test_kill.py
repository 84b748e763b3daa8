"""The durability drill in its short form: real processes, real sockets, kill -9 at random instants."""

from __future__ import annotations

import os
from pathlib import Path

from pigeonry.drills.durability import Plan, durability
from pigeonry.drills.report import Report
from pigeonry.net.environment import SystemClock
from pigeonry.testing.dice import SeededDice


async def test_nothing_acknowledged_is_lost_when_workers_and_supervisor_are_killed(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed={seed}")
    report = Report("durability", SystemClock(), print)
    plan = Plan(messages=20_000, kills=30, power_cuts=0)
    await durability(plan, tmp_path, clock=SystemClock(), dice=SeededDice(str(seed)), report=report)
    assert report.met, f"seed={seed}\n{report.text()}"
