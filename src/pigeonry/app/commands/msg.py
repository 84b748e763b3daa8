"""``pigeonry msg why``: what became of a message, recipient by recipient, and what holds those that wait."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from pigeonry.app.local import ask_owner
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.app.queue_commands import Asked
from pigeonry.domain.message import MessageKey
from pigeonry.queue.why import Standing

__all__ = ["why"]


def why(
    key: Annotated[str, Parameter(help="The message's storage key, as its events show it.")],
    /,
    *,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Say of each recipient of a message what holds it, whose that is, and until when.

    It is asked of the worker that owns the message, on whichever node it is.
    """
    shard = MessageKey.parse(key).shard
    raw = asyncio.run(ask_owner(config, "queue.why", shard=shard, argument=msgspec.to_builtins(Asked(key=key))))
    found = msgspec.convert(raw, type=list[Standing])
    if json:
        print_json({"items": [msgspec.to_builtins(each) for each in found]})
        return
    columns = ("recipient", "state", "attempts", "limit", "whose", "until", "why")
    print_rows([_described(each) for each in found], columns)


def _described(each: Standing) -> dict[str, Any]:
    holding = each.holding
    until = dt.datetime.fromtimestamp(holding.until, tz=dt.UTC).isoformat(timespec="seconds") if holding.until else ""
    doubt = " (may have been delivered)" if each.in_doubt else ""
    return {
        "recipient": each.recipient,
        "state": each.state,
        "attempts": each.attempts,
        "limit": holding.limit,
        "whose": holding.whose,
        "until": until,
        "why": holding.description + doubt,
    }
