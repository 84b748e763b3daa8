"""Sends one command to a worker of this node, and raises again what it refused with."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pigeonry.domain.errors import OwnerUnreachable
from pigeonry.doors.commands.frames import frame, read_frame
from pigeonry.doors.commands.wire import Command, encode_command, result_of

__all__ = ["RETRY_AFTER_S", "NobodyListens", "call", "unreachable"]

RETRY_AFTER_S: Final = 2.0  # a worker that died is back in about this time


class NobodyListens(OwnerUnreachable):
    """No connection could be made, so nothing was asked."""


def unreachable(kind: type[OwnerUnreachable] = OwnerUnreachable) -> OwnerUnreachable:
    """The error for an owner that does not answer, and when to come back."""
    return kind("The owner of this message does not answer.", retry_after_s=RETRY_AFTER_S)


async def call(path: str, name: str, argument: Any = None, *, timeout_s: float) -> Any:
    """Ask the worker behind a socket; its result, decoded.

    Raises:
        NobodyListens: Nobody hears it; nothing was asked.
        OwnerUnreachable: It does not answer in time. It may have done what was asked.
        PigeonryError: What it refused with, as its own class.
    """
    connecting = True
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(path)
            connecting = False
            try:
                writer.write(frame(encode_command(Command(name, argument, within_s=timeout_s))))
                octets = await read_frame(reader)
            finally:
                writer.close()
        if octets is not None:
            return result_of(octets)
    except (OSError, TimeoutError, ValueError, RecursionError) as error:
        raise unreachable(NobodyListens if connecting else OwnerUnreachable) from error
    raise unreachable()
