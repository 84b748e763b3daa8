"""The durability drill in its short forms: real processes, real sockets, kill -9 and power cuts at random instants."""

from __future__ import annotations

import os
from pathlib import Path

from pigeonry.drills.durability import Plan, durability
from pigeonry.drills.report import Report
from pigeonry.net.environment import SystemClock
from pigeonry.testing.dice import SeededDice


async def _drill(folder: Path, plan: Plan) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed={seed}")
    report = Report("durability", SystemClock(), print)
    await durability(plan, folder, clock=SystemClock(), dice=SeededDice(str(seed)), report=report)
    assert report.met, f"seed={seed}\n{report.text()}"


async def test_nothing_acknowledged_is_lost_when_workers_and_supervisor_are_killed(tmp_path: Path) -> None:
    await _drill(tmp_path, Plan(messages=20_000, kills=30, power_cuts=0))


async def test_nothing_acknowledged_is_lost_when_the_power_is_cut(tmp_path: Path) -> None:
    await _drill(tmp_path, Plan(messages=5_000, kills=4, power_cuts=8))
