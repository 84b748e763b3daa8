"""A receiver for drills: accepts mail over SMTP, counts every forward-path, and misbehaves by the dice.

It speaks just enough SMTP to be delivered to, on its own code, so that a fault in the product's server cannot
hide one in its client.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import cast

import msgspec

from pigeonry.ports.environment import Dice

__all__ = ["Misbehaviour", "Receiver"]

_END = b"\r\n.\r\n"
_TAKEN = b"250 2.0.0 taken\r\n"


class Misbehaviour(msgspec.Struct, frozen=True):
    """How often, as a share of messages.

    Args:
        drops_reply: Takes the message and closes the connection without a word: the sender is left in doubt.
        defers: Answers 451 after the dot.
        thinks_s: Seconds between the dot and the 250, so that there is always an attempt whose end is not known.
    """

    drops_reply: float = 0.0
    defers: float = 0.0
    thinks_s: float = 0.0


class Receiver:
    """Counts what it was given: ``taken`` answered with 250, ``dropped`` taken without an answer."""

    def __init__(self, dice: Dice, misbehaviour: Misbehaviour) -> None:
        self.taken: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.deferred = 0
        self.came_from: dict[str, set[str]] = defaultdict(set)
        """The addresses that each forward-path's copies came from."""
        self.dice = dice
        self.misbehaviour = misbehaviour
        self._server: asyncio.Server | None = None

    async def start(self, host: str) -> int:
        """Listen on a free port; returns it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Session(self), host, 0, backlog=1024)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    def copies(self, forward_path: str) -> int:
        """How many copies a person behind this address would have."""
        return self.taken[forward_path] + self.dropped[forward_path]


class _Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = b""
        self._in_data = False
        self._thinks = False
        self._forward_path = ""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._transport.write(b"220 drill.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        out: list[bytes] = []
        while self._transport is not None and not self._transport.is_closing() and not self._thinks:
            if self._in_data:
                if not self._finish_message(out):
                    break
                continue
            line, newline, rest = self._buffer.partition(b"\r\n")
            if not newline:
                break
            self._buffer = rest
            out.append(self._answer(line))
        if out and self._transport is not None:
            self._transport.write(b"".join(out))

    def _answer(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"EHLO":
            return b"250-drill.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
        if verb == b"RCPT":
            self._forward_path = line[line.index(b"<") + 1 : line.index(b">")].decode()
        if verb == b"DATA":
            self._in_data = True
            return b"354 go on\r\n"
        if verb == b"QUIT":
            assert self._transport is not None
            self._transport.write(b"221 2.0.0 bye\r\n")
            self._transport.close()
            return b""
        return b"250 2.0.0 ok\r\n"

    def _finish_message(self, out: list[bytes]) -> bool:
        end = self._buffer.find(_END)
        if end < 0:
            return False
        self._buffer = self._buffer[end + len(_END) :]
        self._in_data = False
        receiver, path = self._receiver, self._forward_path
        roll = receiver.dice.random()
        if roll < receiver.misbehaviour.drops_reply:
            receiver.dropped[path] += 1
            assert self._transport is not None
            self._transport.abort()
        elif roll < receiver.misbehaviour.drops_reply + receiver.misbehaviour.defers:
            receiver.deferred += 1
            out.append(b"451 4.3.0 not now\r\n")
        else:
            receiver.taken[path] += 1
            assert self._transport is not None
            receiver.came_from[path].add(self._transport.get_extra_info("peername")[0])
            if receiver.misbehaviour.thinks_s:
                self._thinks = True
                asyncio.get_running_loop().call_later(receiver.misbehaviour.thinks_s, self._say_taken)
            else:
                out.append(_TAKEN)
        return True

    def _say_taken(self) -> None:
        """Nothing else is answered meanwhile, for a client may have sent its next commands already (RFC 2920)."""
        self._thinks = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_TAKEN)
            self._go_on()
