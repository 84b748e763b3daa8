"""One request and its answer: uvicorn's, but for an answer that is there as a whole, which leaves in one write.

uvicorn writes the head when the answer begins and the body when it comes: two system calls, two packets and two times
that the client wakes, for answers of a hundred octets. Here the head waits for the body, and the octets of a head are
made and checked once for all answers that have the same one. What is unusual (a body in pieces, no length, HEAD, a
peer that does not read) goes uvicorn's way.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

__all__ = ["Exchange"]

HEADS_KEPT: Final = 256  # different heads: few, but for the length of the body and the caller's key
_UNUSUAL: Final = frozenset({b"connection", b"transfer-encoding"})


class Exchange(RequestResponseCycle):
    """A request being answered."""

    _start: Any = None  # the message that begins the answer, until its body comes

    async def send(self, message: Any) -> None:
        """ASGI's ``send``. An answer that was begun and has no body yet is replaced by the next one that begins."""
        if not self.response_started:
            if message["type"] == "http.response.start":
                self._start = message
                return
            start, self._start = self._start, None
            if start is not None:
                if self._at_once(start, message):
                    return
                await super().send(start)
        await super().send(message)

    def _at_once(self, start: Any, message: Any) -> bool:
        """Write the whole answer, if this is all of it."""
        if message.get("more_body") or self.flow.write_paused or self.disconnected or self.scope["method"] == "HEAD":
            return False
        body = message.get("body", b"")
        fields, length = _fields(tuple(start.get("headers", ())))
        if length != len(body):
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        common = b"".join([b"%b: %b\r\n" % field for field in self.default_headers])
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((STATUS_LINE[start["status"]], common, fields, end, body)))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True


@lru_cache(HEADS_KEPT)
def _fields(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, int]:
    """Those headers as octets, and the length of the body that they promise; -1 when they are unusual."""
    length = -1
    for name, value in headers:
        if name in _UNUSUAL or name != name.lower() or HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
            return b"", -1
        if name == b"content-length" and value.isdigit():
            length = int(value)
    return b"".join([b"%b: %b\r\n" % field for field in headers]), length
