"""A command whose connection is not for commands any more once it is answered: the caller's side.

What follows the answer, perhaps in the same segment, goes to the protocol that was asked for. It hears it in the turn
of the loop in which the answer came, so that nothing is ever between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from pigeonry.domain.errors import PigeonryError
from pigeonry.doors.commands.channel import nodes_named
from pigeonry.doors.commands.frames import REQUEST_OCTETS_MAX, frame, split_frame
from pigeonry.doors.commands.wire import Command, encode_command, result_of

__all__ = ["HandOver", "Take"]

Take = Callable[[Any, asyncio.Transport], asyncio.Protocol]


class HandOver(asyncio.Protocol):
    """Hears the first word of a node, asks it, and steps aside.

    Args:
        node: Who it has to be.
        command: What is asked.
        take: Makes the protocol in whose favour it steps aside, of the result and the transport.
        handed: Gets the transport, or why it came to nothing: ``OSError`` while nothing is known of an answer.
    """

    def __init__(self, node: str, command: Command, take: Take, handed: asyncio.Future[asyncio.Transport]) -> None:
        self._node = node
        self._command = command
        self._take = take
        self._transport: asyncio.Transport | None = None
        self._octets = b""
        self._asked = False
        self.handed = handed

    def abort(self) -> None:
        """Cut the connection, if it stands."""
        if self._transport is not None:
            self._transport.abort()
        if not self.handed.cancel():
            self.handed.exception()  # nobody may be left who waits for it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over; see that it was with the node that was meant."""
        self._transport = cast("asyncio.Transport", transport)
        if self._node not in nodes_named(transport.get_extra_info("peercert") or {}):
            self._fail(ConnectionRefusedError(f"its certificate does not name {self._node}"))

    def data_received(self, data: bytes) -> None:
        """The first word, then the answer, then what is not ours."""
        self._octets += data
        try:
            while not self.handed.done() and (found := split_frame(self._octets, octets_max=REQUEST_OCTETS_MAX)):
                octets, self._octets = found
                if self._asked:
                    self._step_aside(result_of(octets))
                else:
                    self._ask(octets)
        except (PigeonryError, ValueError, RecursionError) as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """It came to nothing."""
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("it closed the connection"))

    def _ask(self, first_word: bytes) -> None:
        try:
            result_of(first_word)
        except PigeonryError as error:
            self._fail(ConnectionRefusedError(error.text))
            return
        assert self._transport is not None
        self._transport.write(frame(encode_command(self._command)))
        self._asked = True

    def _step_aside(self, result: Any) -> None:
        transport = self._transport
        assert transport is not None
        protocol = self._take(result, transport)
        transport.set_protocol(protocol)
        self.handed.set_result(transport)
        if self._octets:
            protocol.data_received(self._octets)

    def _fail(self, error: Exception) -> None:
        if not self.handed.done():
            self.handed.set_exception(error)
        self.abort()
