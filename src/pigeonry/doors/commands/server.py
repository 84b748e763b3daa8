"""Serves commands on a Unix socket: one MessagePack frame in, one out, in order.

Which commands there are is given: ``act`` does one and gives back its result.
Trust: the socket lies in a folder that only the service's user may enter.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from pigeonry.domain.errors import Overloaded, PigeonryError
from pigeonry.doors.commands.answering import answer
from pigeonry.doors.commands.frames import REQUEST_OCTETS_MAX, frame, read_frame
from pigeonry.doors.commands.wire import encode_answer, refusal

if TYPE_CHECKING:
    import socket

    from pigeonry.doors.commands.answering import Act

__all__ = ["CONNECTIONS_MAX", "CommandDoor"]

CONNECTIONS_MAX: Final = 64  # local tools and other workers; more than that is a loop gone wrong


class CommandDoor:
    """One worker's command socket.

    Args:
        act: Does a command and gives back its result.
    """

    def __init__(self, act: Act) -> None:
        self._act = act
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
                octets = await read_frame(reader, octets_max=REQUEST_OCTETS_MAX)
                if octets is not None and len(self._open) > CONNECTIONS_MAX:
                    raise Overloaded("Too many command connections.", retry_after_s=1.0)
            except PigeonryError as error:
                writer.write(frame(encode_answer(refusal(error))))
                return
            if octets is None:
                return
            writer.write(frame(await answer(octets, self._act)))
            await writer.drain()
