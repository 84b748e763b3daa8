"""Load for drills: clients that send by SMTP and by HTTP and remember exactly what was acknowledged.

A message counts as acknowledged only when its 250 or 200 was read. What got no answer is never sent again under
the same address, so that each address stands for one message. Messages are not signed: that costs more than all that
a drill is about.
"""

from __future__ import annotations

import asyncio
import base64
from abc import ABC, abstractmethod
from urllib.parse import urlencode

from pigeonry.ports.environment import Clock

__all__ = ["HttpSender", "Ledger", "SmtpSender"]

ANSWER_S = 30.0  # longer than any deadline of a door: a later answer would be a fault of its own
RECONNECT_S = 0.05  # between attempts to reach a server that was just killed


class Ledger:
    """Hands out addresses and keeps what was acknowledged, refused and left open."""

    def __init__(self, total: int, domain: str) -> None:
        self.total = total
        self.domain = domain
        self.started = 0
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.unanswered: list[str] = []

    def next(self) -> str | None:
        """A fresh forward-path; None when enough were sent."""
        if len(self.acknowledged) >= self.total:
            return None
        self.started += 1
        return f"d{self.started}@{self.domain}"


class _Sender(ABC):
    """What both kinds do: keep a connection, send one message after the other."""

    def __init__(self, ledger: Ledger, clock: Clock, address: tuple[str, int]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._address = address

    async def run(self) -> None:
        """Send until the ledger says enough."""
        while not await self._one_connection():
            await self._clock.sleep(RECONNECT_S)

    async def _one_connection(self) -> bool:
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*self._address), ANSWER_S)
        except OSError:
            return False
        try:
            await self._greet(reader, writer)
            while (path := self._ledger.next()) is not None:
                try:
                    taken = await asyncio.wait_for(self._send(reader, writer, path), ANSWER_S)
                except (OSError, asyncio.IncompleteReadError, ValueError):
                    self._ledger.unanswered.append(path)
                    return False
                (self._ledger.acknowledged if taken else self._ledger.refused).append(path)
                if not taken:
                    return False
        except (OSError, asyncio.IncompleteReadError, ValueError):
            return False
        else:
            return True
        finally:
            writer.transport.abort()

    @abstractmethod
    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Bring a fresh connection to where messages can be sent."""

    @abstractmethod
    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bool:
        """Send one message; whether it was acknowledged."""


class SmtpSender(_Sender):
    """Sends by SMTP from a trusted network."""

    def __init__(
        self, ledger: Ledger, clock: Clock, address: tuple[str, int], *, reverse_path: str, octets: int
    ) -> None:
        super().__init__(ledger, clock, address)
        self._reverse_path = reverse_path
        line = b"drill drill drill drill drill drill drill drill drill drill drill drill\r\n"
        self._body = line * max(1, octets // len(line))

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reply(reader)
        _write(writer, b"EHLO sender.test\r\n")
        await _reply(reader)

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bool:
        _write(writer, f"MAIL FROM:<{self._reverse_path}>\r\nRCPT TO:<{path}>\r\nDATA\r\n".encode())
        codes = [await _reply(reader) for _ in range(3)]
        if codes != [250, 250, 354]:
            return False
        head = f"From: <{self._reverse_path}>\r\nTo: <{path}>\r\nSubject: drill {path}\r\nX-Mailgun-Dkim: no\r\n\r\n"
        _write(writer, head.encode() + self._body + b".\r\n")
        return await _reply(reader) == 250


class HttpSender(_Sender):
    """Sends by POST /v3/{domain}/messages on a kept connection."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        address: tuple[str, int],
        *,
        domain: str,
        key: str,
        reverse_path: str,
        octets: int,
    ) -> None:
        super().__init__(ledger, clock, address)
        self._domain = domain
        self._from = reverse_path
        self._text = "drill " * max(1, octets // 6)
        self._auth = base64.b64encode(f"api:{key}".encode()).decode()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """HTTP needs no greeting."""

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bool:
        form = {"from": self._from, "to": path, "subject": f"drill {path}", "text": self._text, "o:dkim": "no"}
        body = urlencode(form).encode()
        head = (
            f"POST /v3/{self._domain}/messages HTTP/1.1\r\nHost: drill\r\nAuthorization: Basic {self._auth}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        _write(writer, head.encode() + body)
        status = int((await reader.readuntil(b"\r\n")).split(b" ", 2)[1])
        length = 0
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        await reader.readexactly(length)
        return status == 200


def _write(writer: asyncio.StreamWriter, octets: bytes) -> None:
    """Write to a connection that may have ended: the loop's own transports answer that with a bug of the caller's."""
    if writer.is_closing():
        raise ConnectionResetError("the connection ended")
    writer.write(octets)


async def _reply(reader: asyncio.StreamReader) -> int:
    while True:
        line = await reader.readuntil(b"\r\n")
        if line[3:4] != b"-":
            return int(line[:3])
