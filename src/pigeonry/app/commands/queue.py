"""``pigeonry queue show|cancel|retry|drop|hasten``: done by whoever owns the messages, on whichever node that is."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from pigeonry.app.local import ask_every_worker, ask_owner, names_of, tell_left_out
from pigeonry.app.mail_scope import Account, Domain, To
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.app.queue_commands import Asked, Shown
from pigeonry.domain.intervention import Scope
from pigeonry.domain.message import MessageKey
from pigeonry.queue.commands import CommandAnswer

__all__ = ["cancel", "drop", "hasten", "retry", "show"]

Key = Annotated[str, Parameter(help="The message's storage key, as its events show it.")]


def show(
    *,
    limit: Annotated[int, Parameter(help="At most so many recipients.")] = 100,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Print the recipients that wait on all nodes, the next one due first.

    The exit status is 4 when a worker did not answer: what waits there is missing.
    """
    answers = asyncio.run(ask_every_worker(config, "queue.show", msgspec.to_builtins(Asked(limit=limit))))
    silent = [told for told in answers if told.problem]
    found = [row for told in answers if not told.problem for row in msgspec.convert(told.result, type=list[Shown])]
    rows: list[dict[str, Any]] = [msgspec.to_builtins(row) for row in sorted(found, key=_due)[:limit]]
    if json:
        print_json({"items": rows, "unreachable": names_of(silent)})
    else:
        for row in rows:
            row["due"] = dt.datetime.fromtimestamp(row["due"], tz=dt.UTC).isoformat(timespec="seconds")
        print_rows(rows, ("due", "recipient", "attempts", "in_doubt", "account", "key"), none="Nothing waits.")
    return tell_left_out(silent)


def cancel(key: Key, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """End what still waits of a message; its recipients fail with reason `cancelled`."""
    _command("queue.cancel", key, config=config, json=json)


def drop(key: Key, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """End what still waits of a message; its recipients fail with reason `dropped`."""
    _command("queue.drop", key, config=config, json=json)


def retry(key: Key, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """Attempt what waits of a message now, save what may have been delivered already."""
    _command("queue.retry", key, config=config, json=json)


def hasten(
    *, account: Account = "", domain: Domain = "", to: To = "", config: ConfigFile = None, json: Json = False
) -> int:
    """Attempt now whatever waits for a later time and to which all of this applies, save what is in doubt.

    The exit status is 4 when a worker did not answer: what waits there was left alone.
    """
    scope = Scope(account, domain.lower(), to.lower())
    answers = asyncio.run(ask_every_worker(config, "queue.hasten", msgspec.to_builtins(scope)))
    silent = [told for told in answers if told.problem]
    found = [msgspec.convert(told.result, type=CommandAnswer) for told in answers if not told.problem]
    answer = CommandAnswer(
        done=sum(each.done for each in found),
        in_attempt=sum(each.in_attempt for each in found),
        in_doubt=sum(each.in_doubt for each in found),
    )
    if json:
        unreachable = names_of(silent)
        print_json({**msgspec.to_builtins(answer), "unreachable": unreachable})
    else:
        sys.stdout.write(f"Recipients: {answer.done} hastened, {answer.in_attempt} in an attempt or without room, ")
        sys.stdout.write(f"{answer.in_doubt} in doubt.\n")
    return tell_left_out(silent)


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
