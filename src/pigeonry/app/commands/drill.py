"""``pigeonry drill NAME``: build a situation that hurts, with real processes, and judge what came of it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from pigeonry import __version__
from pigeonry.app import exits
from pigeonry.app.output import Json, print_json
from pigeonry.domain.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pigeonry.drills.report import Report
    from pigeonry.ports.environment import Clock, Dice

__all__ = ["d2014", "durability"]

Seed = Annotated[int | None, Parameter(help="Repeats the choices of an earlier run; left out: new ones.")]
Record = Annotated[Path | None, Parameter(help="File for figures and timeline, written also on failure.")]
Measured = Annotated[str, Parameter(help="What is measured, such as a commit.")]


def durability(
    *,
    messages: Annotated[int, Parameter(help="Messages to send.")] = 20_000,
    kills: Annotated[int, Parameter(help="Times that a worker or the supervisor is killed.")] = 30,
    power_cuts: Annotated[int, Parameter(help="Times that what was not synced is lost as well.")] = 10,
    seed: Seed = None,
    record: Record = None,
    measured: Measured = __version__,
    json: Json = False,
) -> int:
    """Kill workers, supervisor and power under load; nothing acknowledged may be lost. Exit status 1 when one is.

    When a bar is missed the node's folder is kept, and its name printed.
    """
    from pigeonry.drills.durability import Plan
    from pigeonry.drills.durability import durability as drill

    plan = Plan(messages=messages, kills=kills, power_cuts=power_cuts)

    def make(folder: Path, clock: Clock, dice: Dice, report: Report) -> Coroutine[object, object, None]:
        return drill(plan, folder, clock=clock, dice=dice, report=report)

    return _run("durability", make, seed=seed, record=record, measured=measured, json=json)


def d2014(
    *,
    short: Annotated[bool, Parameter(help="One location and a part of the steps: 90 seconds.")] = False,
    step: Annotated[
        tuple[str, ...], Parameter(help="Take this step only; may be repeated. Left out: all of the form.")
    ] = (),
    parts: Annotated[Path, Parameter(help="Folder for the parts of Cassandra; what is not there is fetched.")] = Path(
        ".parts"
    ),
    seed: Seed = None,
    record: Record = None,
    measured: Measured = __version__,
    json: Json = False,
) -> int:
    """Restart, kill and freeze nodes, store and location of a cluster under load. Exit status 1 when a bar is missed.

    Needs a JDK 17, Maven, HAProxy and a checkout of the sources. When a bar is missed the folder of all nodes is kept,
    and its name printed.
    """
    from pigeonry.app.tls import make_self_signed
    from pigeonry.drills.d2014 import FULL, SHORT, STEPS
    from pigeonry.drills.d2014 import d2014 as drill
    from pigeonry.testing.cassandra import parts as made

    form = SHORT if short else FULL
    if step:
        form = msgspec.structs.replace(form, steps=step)
    unknown = [name for name in step if name not in STEPS]
    if unknown:
        raise BadRequest(f"There is no step {unknown[0]}; there are {', '.join(STEPS)}.")
    found = made(parts)

    def make(folder: Path, clock: Clock, dice: Dice, report: Report) -> Coroutine[object, object, None]:
        cert, key, certificate = (folder / name for name in ("cert.pem", "key.pem", "both.pem"))
        make_self_signed(cert, key, names=("drill.test",), now=clock.now())
        certificate.write_text(cert.read_text() + key.read_text())
        return drill(form, folder, found, certificate=certificate, clock=clock, dice=dice, report=report)

    return _run("d2014", make, seed=seed, record=record, measured=measured, json=json)


def _run(
    name: str,
    make: Callable[[Path, Clock, Dice, Report], Coroutine[object, object, None]],
    *,
    seed: int | None,
    record: Path | None,
    measured: str,
    json: bool,
) -> int:
    """Run a drill in a folder of its own, and print what came of it."""
    import uvloop

    from pigeonry.drills.report import Report
    from pigeonry.net.environment import SystemClock
    from pigeonry.testing.dice import SeededDice

    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    clock = SystemClock()
    report = Report(name, clock, _progress)
    report.noted("measured", measured)
    report.noted("seed", str(seed))
    folder = Path(tempfile.mkdtemp(prefix="pigeonry-drill-"))
    keep = True
    try:
        uvloop.run(make(folder, clock, SeededDice(str(seed)), report))
        keep = not report.met
    finally:
        if record is not None:
            record.write_text(report.record())
        if keep:
            _progress(f"what is left of the nodes is in {folder}")
        else:
            shutil.rmtree(folder)
    if json:
        print_json({"met": report.met, "figures": report.figures})
    else:
        sys.stdout.write(report.text() + "\n")
    return exits.OK if report.met else exits.FAILED


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")
