"""``pigeonry queue show|cancel|retry|drop``: asked of the worker that owns the message, by its socket."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from pigeonry.app.local import ask_every_worker, ask_owner
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.app.queue_commands import Asked, Shown
from pigeonry.domain.message import MessageKey
from pigeonry.queue.commands import CommandAnswer

__all__ = ["cancel", "drop", "retry", "show"]

Key = Annotated[str, Parameter(help="The message's storage key, as its events show it.")]


def show(
    *,
    limit: Annotated[int, Parameter(help="At most so many recipients.")] = 100,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Print the recipients that wait, the next one due first."""
    answers = asyncio.run(ask_every_worker(config, "queue.show", msgspec.to_builtins(Asked(limit=limit))))
    found = [row for answer in answers for row in msgspec.convert(answer, type=list[Shown])]
    rows: list[dict[str, Any]] = [msgspec.to_builtins(row) for row in sorted(found, key=_due)[:limit]]
    if json:
        print_json({"items": rows})
        return
    for row in rows:
        row["due"] = dt.datetime.fromtimestamp(row["due"], tz=dt.UTC).isoformat(timespec="seconds")
    print_rows(rows, ("due", "recipient", "attempts", "in_doubt", "account", "key"), none="Nothing waits.")


def cancel(key: Key, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """End what still waits of a message; its recipients fail with reason `cancelled`."""
    _command("queue.cancel", key, config=config, json=json)


def drop(key: Key, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """End what still waits of a message; its recipients fail with reason `dropped`."""
    _command("queue.drop", key, config=config, json=json)


def retry(key: Key, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """Attempt what waits of a message now, save what may have been delivered already."""
    _command("queue.retry", key, config=config, json=json)


def _command(name: str, key: str, *, config: str | None, json: bool) -> None:
    shard = MessageKey.parse(key).shard
    asked = msgspec.to_builtins(Asked(key=key))
    raw = asyncio.run(ask_owner(config, name, shard=shard, argument=asked))
    answer = msgspec.convert(raw, type=CommandAnswer)
    if json:
        print_json(answer)
        return
    sys.stdout.write(f"Recipients: {answer.done} done, {answer.ended} had ended, ")
    sys.stdout.write(f"{answer.in_attempt} in an attempt, {answer.in_doubt} in doubt.\n")


def _due(row: Shown) -> float:
    return row.due
