"""What a worker does when an operator asks it about its events and their index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pigeonry.domain.errors import BadRequest
from pigeonry.events.rebuild import Rebuild, Rebuilt, Window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pigeonry.doors.commands.answering import Handler

__all__ = ["STEP", "WINDOWS", "Span", "event_handlers"]

WINDOWS = "events.windows"
STEP = "events.rebuild"


class Span(msgspec.Struct, frozen=True):
    """A time: both ends in seconds since the Unix epoch."""

    begin: float
    end: float


def event_handlers(rebuild: Rebuild) -> Mapping[str, Handler]:
    """Handlers for ``doors.commands``: what there is to rebuild of a time, and one step of it."""

    async def windows(argument: Any) -> list[Window]:
        try:
            span = msgspec.convert(argument, type=Span)
        except msgspec.ValidationError as error:
            raise BadRequest(f"The command is malformed: {error}") from None
        return await rebuild.windows(span.begin, span.end)

    async def step(argument: Any) -> Rebuilt:
        try:
            window = msgspec.convert(argument, type=Window)
        except msgspec.ValidationError as error:
            raise BadRequest(f"The command is malformed: {error}") from None
        return await rebuild.step(window)

    return {WINDOWS: windows, STEP: step}
