"""Replies out of octets, one at a time.

``feed`` takes what arrived, ``next_reply`` gives the next complete reply; how the octets were split makes no
difference.

Standards: RFC 5321 section 4.2 (replies, multi-line replies), section 4.5.3.1.5 (reply line length); RFC 2034 and
RFC 3463 section 2 (enhanced status codes); RFC 6531 section 3.7.4 (UTF-8 in replies).
Trust: every octet comes from a server that anyone may run. Line length and number of lines are bounded, control
characters do not get through. A bare LF ends a line: some servers send it and in replies it can do no harm.
"""

from __future__ import annotations

import re
from typing import Final

from pigeonry.domain.reply import EnhancedStatus, Reply

__all__ = ["REPLY_LINES_MAX", "REPLY_LINE_OCTETS_MAX", "RemoteProtocolError", "ReplyParser"]

REPLY_LINE_OCTETS_MAX: Final = 2_048  # RFC 5321 section 4.5.3.1.5 says 512; policy texts with links go over it
REPLY_LINES_MAX: Final = 128  # EHLO replies have some twenty lines, refusals seldom over five

_LINE: Final = re.compile(
    rb"([2-5][0-9][0-9])(?:([ -])(?:([245])\.([0-9]{1,3})\.([0-9]{1,3})(?:[ \t]+|\Z))?(.*))?", re.DOTALL
)


class RemoteProtocolError(Exception):
    """The peer does not speak SMTP as it should. The text is one sentence that repeats nothing of what it sent."""


class ReplyParser:
    """Holds what arrived and was not yet a whole reply."""

    __slots__ = ("_buffer", "_lines", "_start", "_status")

    def __init__(self) -> None:
        self._buffer = b""
        self._start = 0
        self._lines: list[tuple[bytes, str]] = []
        self._status: EnhancedStatus | None = None

    def feed(self, octets: bytes) -> None:
        """Take octets from the peer."""
        self._buffer = self._buffer[self._start :] + octets
        self._start = 0

    def discard(self) -> None:
        """Forget everything that has not been given out: what came before TLS says nothing (RFC 3207 section 6)."""
        self._buffer = b""
        self._start = 0
        self._lines.clear()
        self._status = None

    def next_reply(self) -> Reply | None:
        """The next complete reply, None when more octets are needed.

        Raises:
            RemoteProtocolError: What follows is no reply; the connection is of no use any more.
        """
        while True:
            start = self._start
            end = self._buffer.find(b"\n", start)
            if end < 0:
                if len(self._buffer) - start >= REPLY_LINE_OCTETS_MAX:
                    raise RemoteProtocolError("A reply line is too long.")
                return None
            if end - start >= REPLY_LINE_OCTETS_MAX:
                raise RemoteProtocolError("A reply line is too long.")
            self._start = end + 1
            reply = self._line(self._buffer[start:end])
            if reply is not None:
                return reply

    def _line(self, line: bytes) -> Reply | None:
        match = _LINE.fullmatch(line[:-1] if line.endswith(b"\r") else line)
        if match is None:
            raise RemoteProtocolError("A reply does not start with a reply code.")
        code, separator, class_, subject, detail, octets = match.groups()
        text = _text(octets) if octets else ""
        if class_ is not None and class_ != code[:1]:
            # The code is what counts; a status of another class is left in the text for people to read.
            text = _text(line.rstrip(b"\r")[4:])
        elif class_ is not None and not self._lines:
            self._status = EnhancedStatus(int(subject), int(detail))
        if not self._lines:
            if separator != b"-":
                status, self._status = self._status, None
                return Reply(int(code), text, status)
        elif self._lines[0][0] != code:
            raise RemoteProtocolError("The lines of one reply have different codes.")
        if len(self._lines) >= REPLY_LINES_MAX:
            raise RemoteProtocolError("A reply has too many lines.")
        self._lines.append((code, text))
        if separator == b"-":
            return None
        text = "\n".join([text for _, text in self._lines])
        reply = Reply(int(code), text, self._status)
        self._lines.clear()
        self._status = None
        return reply


def _text(octets: bytes) -> str:
    text = octets.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join([character if character.isprintable() else " " for character in text]).rstrip()
