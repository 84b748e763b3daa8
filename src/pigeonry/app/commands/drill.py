"""``pigeonry drill NAME``: build a situation that hurts, with real processes, and judge what came of it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pigeonry.app import exits
from pigeonry.app.output import Json, print_json

__all__ = ["durability"]


def durability(
    *,
    messages: Annotated[int, Parameter(help="Messages to send.")] = 20_000,
    kills: Annotated[int, Parameter(help="Times that a worker or the supervisor is killed.")] = 30,
    power_cuts: Annotated[int, Parameter(help="Times that what was not synced is lost as well.")] = 10,
    seed: Annotated[int | None, Parameter(help="Repeats the choices of an earlier run; left out: new ones.")] = None,
    json: Json = False,
) -> int:
    """Kill workers, supervisor and power under load; nothing acknowledged may be lost. Exit status 1 when one is."""
    import uvloop

    from pigeonry.drills.durability import Plan
    from pigeonry.drills.durability import durability as drill
    from pigeonry.drills.report import Report
    from pigeonry.net.environment import SystemClock
    from pigeonry.testing.dice import SeededDice

    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    clock = SystemClock()
    report = Report("durability", clock, _progress)
    report.noted("seed", str(seed))
    with tempfile.TemporaryDirectory(prefix="pigeonry-drill-") as folder:
        plan = Plan(messages=messages, kills=kills, power_cuts=power_cuts)
        uvloop.run(drill(plan, Path(folder), clock=clock, dice=SeededDice(str(seed)), report=report))
    if json:
        print_json({"met": report.met, "figures": report.figures})
    else:
        sys.stdout.write(report.text() + "\n")
    return exits.OK if report.met else exits.FAILED


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")
