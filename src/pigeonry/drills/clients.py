"""The wire side of a drill's load: how one message is sent over a connection, by SMTP and by HTTP.

Messages are not signed: that costs more than all that a drill is about.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Mapping

__all__ = ["ANSWER_S", "Client", "HttpClient", "NotBegun", "SmtpClient", "is_taken"]

ANSWER_S: Final = 30.0  # longer than any deadline of a door: a later answer would be a fault of its own
_TAKEN: Final = (200, 250)


class NotBegun(Exception):
    """The server ends the session between two transactions (421): nothing of the message was taken, nor refused."""


def is_taken(code: int) -> bool:
    """Whether an answer makes the server responsible for the message."""
    return code in _TAKEN


class Client(Protocol):
    """Speaks one protocol. What fails on the way is an ``OSError``, ``EOFError`` or ``ValueError``."""

    kind: str

    async def greet(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Bring a fresh connection to where messages can be sent."""

    async def send(self, reader: StreamReader, writer: StreamWriter, path: str) -> int:
        """Send one message; the code of the answer that ended it.

        Raises:
            NotBegun: Send it again, over another connection.
        """


class SmtpClient:
    """Sends by SMTP from a trusted network.

    Args:
        octets: Size of a message's text.
    """

    kind = "SMTP"

    def __init__(self, *, reverse_path: str, octets: int) -> None:
        self._reverse_path = reverse_path
        line = b"drill drill drill drill drill drill drill drill drill drill drill drill\r\n"
        self._body = line * max(1, octets // len(line))

    async def greet(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Greeting and EHLO."""
        if await _reply(reader) == 421:
            raise NotBegun
        _write(writer, b"EHLO sender.test\r\n")
        if await _reply(reader) == 421:
            raise NotBegun

    async def send(self, reader: StreamReader, writer: StreamWriter, path: str) -> int:
        """One transaction."""
        _write(writer, f"MAIL FROM:<{self._reverse_path}>\r\nRCPT TO:<{path}>\r\nDATA\r\n".encode())
        code = await _reply(reader)
        if code == 421:
            raise NotBegun
        for wanted in (250, 354):
            follows = await _reply(reader)
            if code == 250:
                code = 250 if follows == wanted else follows
        if code != 250:
            return code
        head = f"From: <{self._reverse_path}>\r\nTo: <{path}>\r\nSubject: drill {path}\r\nX-Mailgun-Dkim: no\r\n\r\n"
        _write(writer, head.encode() + self._body + b".\r\n")
        return await _reply(reader)


class HttpClient:
    """Sends by POST /v3/{domain}/messages on a kept connection.

    Args:
        octets: Size of a message's text.
        options: Further fields of each request, such as ``o:deliverytime``.
    """

    kind = "HTTP"

    def __init__(
        self, *, domain: str, key: str, reverse_path: str, octets: int, options: Mapping[str, str] | None = None
    ) -> None:
        self._domain = domain
        self._from = reverse_path
        self._text = "drill " * max(1, octets // 6)
        self._options = options or {}
        self._auth = base64.b64encode(f"api:{key}".encode()).decode()

    async def greet(self, reader: StreamReader, writer: StreamWriter) -> None:
        """HTTP needs no greeting."""

    async def send(self, reader: StreamReader, writer: StreamWriter, path: str) -> int:
        """One request."""
        form = {"from": self._from, "to": path, "subject": f"drill {path}", "text": self._text, "o:dkim": "no"}
        form |= self._options
        body = urlencode(form).encode()
        head = (
            f"POST /v3/{self._domain}/messages HTTP/1.1\r\nHost: drill\r\nAuthorization: Basic {self._auth}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        _write(writer, head.encode() + body)
        status = int((await reader.readuntil(b"\r\n")).split(b" ", 2)[1])
        length, ends = 0, False
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            ends |= name.lower() == b"connection" and value.strip().lower() == b"close"
        await reader.readexactly(length)
        if ends:
            writer.close()
        return status


def _write(writer: StreamWriter, octets: bytes) -> None:
    """Write to a connection that may have ended: the loop's own transports answer that with a bug of the caller's."""
    if writer.is_closing():
        raise ConnectionResetError("the connection ended")
    writer.write(octets)


async def _reply(reader: StreamReader) -> int:
    while True:
        line = await reader.readuntil(b"\r\n")
        if line[3:4] != b"-":
            return int(line[:3])
