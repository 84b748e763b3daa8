"""``pigeonry drill NAME``: build a situation that hurts, with real processes, and judge what came of it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pigeonry import __version__
from pigeonry.app import exits
from pigeonry.app.output import Json, print_json

__all__ = ["durability"]


def durability(
    *,
    messages: Annotated[int, Parameter(help="Messages to send.")] = 20_000,
    kills: Annotated[int, Parameter(help="Times that a worker or the supervisor is killed.")] = 30,
    power_cuts: Annotated[int, Parameter(help="Times that what was not synced is lost as well.")] = 10,
    seed: Annotated[int | None, Parameter(help="Repeats the choices of an earlier run; left out: new ones.")] = None,
    record: Annotated[Path | None, Parameter(help="File for figures and timeline, written also on failure.")] = None,
    measured: Annotated[str, Parameter(help="What is measured, such as a commit.")] = __version__,
    json: Json = False,
) -> int:
    """Kill workers, supervisor and power under load; nothing acknowledged may be lost. Exit status 1 when one is.

    When a bar is missed the node's folder is kept, and its name printed.
    """
    import uvloop

    from pigeonry.drills.durability import Plan
    from pigeonry.drills.durability import durability as drill
    from pigeonry.drills.report import Report
    from pigeonry.net.environment import SystemClock
    from pigeonry.testing.dice import SeededDice

    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    clock = SystemClock()
    report = Report("durability", clock, _progress)
    report.noted("measured", measured)
    report.noted("seed", str(seed))
    plan = Plan(messages=messages, kills=kills, power_cuts=power_cuts)
    folder = Path(tempfile.mkdtemp(prefix="pigeonry-drill-"))
    keep = True
    try:
        uvloop.run(drill(plan, folder, clock=clock, dice=SeededDice(str(seed)), report=report))
        keep = not report.met
    finally:
        if record is not None:
            record.write_text(report.record())
        if keep:
            _progress(f"what is left of the node is in {folder}")
        else:
            shutil.rmtree(folder)
    if json:
        print_json({"met": report.met, "figures": report.figures})
    else:
        sys.stdout.write(report.text() + "\n")
    return exits.OK if report.met else exits.FAILED


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")
