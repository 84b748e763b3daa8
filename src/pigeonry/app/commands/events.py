"""``pigeonry events count``: what the log holds, read from its files, whether the node runs or not.

``pigeonry events rebuild``: what of a time the search index lacks, added from the log by the workers that own it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from pigeonry.app.event_commands import STEP, WINDOWS, Span
from pigeonry.app.local import ask_every_worker, ask_owner, names_of, node_data, tell_left_out
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.domain.errors import BadRequest, NotFound, OwnerUnreachable, StoreBusy
from pigeonry.events.rebuild import Rebuilt, Window

if TYPE_CHECKING:
    from pigeonry.doors.commands.owners import Told

__all__ = ["count", "rebuild"]

AGAIN_S: Final = 0.5  # seconds before a step is tried again that the index, or its owner, was not ready for
TOGETHER_MAX: Final = 8  # shards at once, so that all nodes are at work, and none is at this alone
TRIES_MAX: Final = 120  # such steps in a row after which the index is not getting ready: a minute

_COUNT = (
    "SELECT octets ->> '$.event', octets ->> '$.severity', count(*) FROM event WHERE length(octets) > 0 GROUP BY 1, 2"
)


def count(*, config: ConfigFile = None, json: Json = False) -> None:
    """Count the events by what they say: accepted, delivered, failed for now and for good, rejected."""
    import apsw

    _, data = node_data(config)
    if not Path(data).exists():
        raise NotFound(f"There is no data folder {data}: does `pigeonry serve` run with this configuration?")
    counts: Counter[str] = Counter(accepted=0, delivered=0, failed_temporary=0, failed_permanent=0, rejected=0)
    for path in sorted(Path(data).glob("shards/*/*.db")):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        for kind, severity, number in connection.execute(_COUNT):
            counts[kind if severity is None else f"{kind}_{severity}"] += number
        connection.close()
    if json:
        print_json(dict(counts))
    else:
        print_rows([{"event": kind, "count": number} for kind, number in counts.items()], ("event", "count"))


def rebuild(
    *,
    begin: Annotated[str, Parameter(name="--from", help="Where the window begins, such as 2026-11-24T10:00Z.")],
    end: Annotated[str, Parameter(name="--to", help="Where it ends.")],
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Add what the search index lacks of a time, from the log, while the nodes run: each owner in its own shards.

    It may be repeated, and goes over the events of a minute before and after as well. What is there stays as it is. The
    exit status is 4 when a worker did not answer: its shards were left out.
    """
    span = Span(_seconds(begin), _seconds(end))
    done, silent = asyncio.run(_rebuild(config, span, quiet=json))
    if json:
        print_json({**done, "unreachable": names_of(silent)})
    else:
        sys.stdout.write(f"{done['looked_at']} events of {done['shards']} shards looked at, {done['added']} added.\n")
    return tell_left_out(silent)


async def _rebuild(config: str | None, span: Span, *, quiet: bool) -> tuple[dict[str, int], list[Told]]:
    answers = await ask_every_worker(config, WINDOWS, span)
    todo = [
        window for told in answers if not told.problem for window in msgspec.convert(told.result, type=list[Window])
    ]
    total, looked_at, added = sum(window.last - window.after for window in todo), 0, 0
    turns = asyncio.Semaphore(TOGETHER_MAX)

    async def rebuilt(window: Window) -> None:
        nonlocal looked_at, added
        async with turns:
            rest = window
            while rest.after < rest.last:
                step = await _step(config, rest)
                looked_at, added = looked_at + step.after - rest.after, added + step.added
                rest = msgspec.structs.replace(rest, after=step.after)
                if not quiet:
                    sys.stderr.write(f"\r{looked_at} of {total} events, {added} added")

    async with asyncio.TaskGroup() as all_of_them:
        for window in todo:
            all_of_them.create_task(rebuilt(window))
    if todo and not quiet:
        sys.stderr.write("\n")
    done = {"shards": len(todo), "looked_at": looked_at, "added": added}
    return done, [told for told in answers if told.problem]


async def _step(config: str | None, window: Window) -> Rebuilt:
    """Have whoever owns the shard by now do a step."""
    for _ in range(TRIES_MAX):
        try:
            answer: Any = await ask_owner(config, STEP, shard=window.shard, argument=window)
        except (StoreBusy, OwnerUnreachable):
            await asyncio.sleep(AGAIN_S)  # noqa: TID251  # a command of the shell has no clock but this
        else:
            return msgspec.convert(answer, type=Rebuilt)
    raise StoreBusy(f"The search index of shard {window.shard} does not come to where the log is.")


def _seconds(text: str) -> float:
    """A time as people write it, in UTC when it says nothing else, or seconds since the Unix epoch."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{text!r} is no time: write it as 2026-11-24T10:00Z.") from None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()
