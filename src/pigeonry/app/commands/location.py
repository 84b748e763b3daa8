"""``pigeonry location ...``: what only a person can decide when a location is lost and nothing witnesses it."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import Parameter

from pigeonry.app.cluster_store import location_operator
from pigeonry.app.config import load
from pigeonry.app.output import ConfigFile, Json, print_json, print_rows
from pigeonry.domain.errors import BadRequest
from pigeonry.net.environment import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pigeonry.stores.cassandra.locations import LocationRow, Operator

__all__ = ["bring_back", "status", "takeover"]

Location = Annotated[str, Parameter(name="LOCATION", help="As Cassandra calls the data centre.")]

_WARNING: Final = """\
{lost} will own nothing, and this location takes its part of the queue over without it.
- If {lost} still runs and is only cut off, it refuses mail until it is brought back.
- Mail that it acknowledged and did not bring over yet is delivered when it returns: late, or never.
- What it delivered in its last moments may be delivered again.
- If somebody there gives THIS location up as well, both accept and deliver: nothing but you two prevents that.
Type the name of the lost location: """


def status(*, config: ConfigFile = None, json: Json = False) -> None:
    """Print the locations that were ever given up, and how they stand now."""

    async def work() -> Sequence[LocationRow]:
        async with _operator(config) as operator:
            return await operator.rows()

    rows = [msgspec.to_builtins(row) for row in asyncio.run(work())]
    if json:
        print_json(rows)
    else:
        print_rows(rows, ("name", "state", "successor"), none="No location was given up.")


def takeover(
    location: Location,
    /,
    *,
    yes_i_know: Annotated[
        str, Parameter(help="The name of the lost location once more, where there is nobody to type it.")
    ] = "",
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Give a lost location up, so that this one goes on without it. Only for a cluster without a witness.

    Refused while the location answers. Run it in the location that is left, once; it takes eight seconds, and the
    workers go on within some seconds more. It may be run again when it was interrupted.
    """

    async def work() -> None:
        async with _operator(config) as operator:
            await operator.check(location)
            confirm(location, yes_i_know)
            await operator.give_up(location)

    asyncio.run(work())
    if json:
        print_json({"name": location, "state": "lost"})
    else:
        sys.stdout.write(f"{location} was given up. When it is back: pigeonry location return {location}\n")


def bring_back(location: Location, /, *, config: ConfigFile = None, json: Json = False) -> None:
    """End the time without a location, once all nodes of its Cassandra are up again and repaired.

    Run it in the location that went on. Mail is refused (451, 503) everywhere for some ten seconds of it. It may be
    run again when it was interrupted.
    """

    async def work() -> None:
        async with _operator(config) as operator:
            await operator.bring_back(location)

    asyncio.run(work())
    if json:
        print_json({"name": location, "state": "here"})
    else:
        sys.stdout.write(f"{location} is one of the cluster's locations again.\n")


@asynccontextmanager
async def _operator(config: str | None) -> AsyncIterator[Operator]:
    async with location_operator(load(config, os.environ).cassandra, SystemClock()) as operator:
        yield operator


def confirm(location: str, typed: str) -> None:
    """See that the operator means it.

    Raises:
        BadRequest: Another name was typed, or none.
    """
    if not typed:
        if not sys.stdin.isatty():
            raise BadRequest(f"Nobody is there to confirm it: add --yes-i-know {location}")
        sys.stderr.write(_WARNING.format(lost=location))
        sys.stderr.flush()
        typed = sys.stdin.readline().strip()
    if typed != location:
        raise BadRequest(f"{typed!r} is not {location!r}. Nothing was done.")
