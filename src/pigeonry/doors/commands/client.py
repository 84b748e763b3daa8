"""Sends one command to the worker that owns a shard, and raises again what it refused with."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from pigeonry.domain import errors
from pigeonry.domain.errors import OwnerUnreachable, PigeonryError
from pigeonry.doors.commands.frames import frame, read_frame
from pigeonry.doors.commands.server import Answer, Command

__all__ = ["call"]

RETRY_AFTER_S: Final = 2.0  # a worker that died is back in about this time

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Answer)


async def call(path: str, name: str, argument: Any = None, *, timeout_s: float) -> Any:
    """Ask the worker behind a socket; its result, decoded.

    Raises:
        OwnerUnreachable: Nobody answers there in time.
        PigeonryError: What the owner refused with, as its own class.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(frame(_ENCODER.encode(Command(name, argument))))
                octets = await read_frame(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        octets = None
    if octets is None:
        raise OwnerUnreachable("The owner of this message does not answer.", retry_after_s=RETRY_AFTER_S)
    answer = _DECODER.decode(octets)
    if answer.error:
        kind = getattr(errors, answer.error, PigeonryError)
        raise kind(answer.text)
    return answer.result
