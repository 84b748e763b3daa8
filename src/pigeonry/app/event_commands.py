"""What a worker does when an operator asks it about its events and their index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pigeonry.domain.errors import BadRequest
from pigeonry.events.asking import Ask, Events, Found
from pigeonry.events.rebuild import Rebuild, Rebuilt, Window
from pigeonry.events.scatter import LOOK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pigeonry.doors.commands.answering import Handler

__all__ = ["STEP", "WINDOWS", "Span", "event_handlers"]

T = TypeVar("T")

WINDOWS = "events.windows"
STEP = "events.rebuild"


class Span(msgspec.Struct, frozen=True):
    """A time: both ends in seconds since the Unix epoch."""

    begin: float
    end: float


def event_handlers(rebuild: Rebuild, own: Events) -> Mapping[str, Handler]:
    """Handlers for ``doors.commands``: a page of our events, what there is to rebuild of a time, and one step of it."""

    async def look(argument: Any) -> Found:
        return await own.look(_asked(argument, Ask))

    async def windows(argument: Any) -> list[Window]:
        span = _asked(argument, Span)
        return await rebuild.windows(span.begin, span.end)

    async def step(argument: Any) -> Rebuilt:
        return await rebuild.step(_asked(argument, Window))

    return {LOOK: look, WINDOWS: windows, STEP: step}


def _asked(argument: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(argument, type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The command is malformed: {error}") from None
