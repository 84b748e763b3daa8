"""Serves commands on a Unix socket: one MessagePack frame in, one out, in order.

Which commands there are is given: ``handlers`` maps a name to a coroutine function of one decoded argument.
Trust: the socket lies in a folder that only the service's user may enter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.domain.errors import BadRequest, Fault, NotFound, Overloaded, PigeonryError
from pigeonry.doors.commands.frames import frame, read_frame

if TYPE_CHECKING:
    import socket

__all__ = ["CONNECTIONS_MAX", "Answer", "Command", "CommandDoor", "Handler"]

Handler = Callable[[Any], Awaitable[Any]]

CONNECTIONS_MAX: Final = 64  # local tools and other workers; more than that is a loop gone wrong
ANSWER_S: Final = 30.0  # an owner that takes longer counts as unreachable


class Command(msgspec.Struct, frozen=True):
    """What is asked: the name of a handler and its argument."""

    name: str
    argument: Any = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes back: a result, or the class name and sentence of one of our errors."""

    result: Any = None
    error: str = ""
    text: str = ""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Command)


class CommandDoor:
    """One worker's command socket.

    Args:
        handlers: Coroutine functions by name.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        self._open: set[asyncio.Task[Any]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Serve a bound Unix socket until cancelled; connections end with it."""
        server = await asyncio.start_unix_server(self._serve, sock=listener)
        try:
            await server.serve_forever()
        finally:
            server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._converse(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                octets = await read_frame(reader)
            except PigeonryError as error:
                writer.write(frame(_ENCODER.encode(_refused(error))))
                return
            if octets is None:
                return
            answer = await self._answer(octets)
            writer.write(frame(_ENCODER.encode(answer)))
            await writer.drain()

    async def _answer(self, octets: bytes) -> Answer:
        try:
            if len(self._open) > CONNECTIONS_MAX:
                raise Overloaded("Too many command connections.", retry_after_s=1.0)
            command = _DECODER.decode(octets)
            handler = self._handlers.get(command.name)
            if handler is None:
                raise NotFound("No such command.")
            async with asyncio.timeout(ANSWER_S):
                return Answer(await handler(command.argument))
        except msgspec.MsgspecError:
            return _refused(BadRequest("The command is malformed."))
        except TimeoutError:
            return _refused(Fault("The command took too long."))
        except PigeonryError as error:
            return _refused(error)


def _refused(error: PigeonryError) -> Answer:
    return Answer(error=type(error).__name__, text=error.text)
