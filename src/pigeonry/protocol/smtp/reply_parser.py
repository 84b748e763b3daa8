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
from functools import lru_cache
from typing import Final

from pigeonry.domain.reply import EnhancedStatus, Reply

__all__ = ["REPLY_LINES_MAX", "REPLY_LINE_OCTETS_MAX", "RemoteProtocolError", "ReplyParser"]

REPLY_LINE_OCTETS_MAX: Final = 2_048  # RFC 5321 section 4.5.3.1.5 says 512; policy texts with links go over it
REPLY_LINES_MAX: Final = 128  # EHLO replies have some twenty lines, refusals seldom over five
REPLY_CHARACTERS_MAX: Final = 8_192  # of a whole reply's text: every attempt's event keeps it; what is over is cut off

_LINES_KEPT: Final = 512  # lines are much the same message after message; at most 1 MB even of the longest

_LINE: Final = re.compile(
    rb"([2-5][0-9][0-9])(?:([ -])(?:([245])\.([0-9]{1,3})\.([0-9]{1,3})(?:[ \t]+|\Z))?(.*))?", re.DOTALL
)


class RemoteProtocolError(Exception):
    """The peer does not speak SMTP as it should. The text is one sentence that repeats nothing of what it sent."""


class ReplyParser:
    """Holds what arrived and was not yet a whole reply."""

    __slots__ = ("_buffer", "_lines", "_start")

    def __init__(self) -> None:
        self._buffer = b""
        self._start = 0
        self._lines: list[Reply] = []

    def feed(self, octets: bytes) -> None:
        """Take octets from the peer."""
        rest = self._buffer[self._start :]
        self._buffer = rest + octets if rest else octets
        self._start = 0

    def discard(self) -> None:
        """Forget everything that has not been given out: what came before TLS says nothing (RFC 3207 section 6)."""
        self._buffer = b""
        self._start = 0
        self._lines.clear()

    def next_reply(self) -> Reply | None:
        """The next complete reply, None when more octets are needed.

        Raises:
            RemoteProtocolError: What follows is no reply; the connection is of no use any more.
        """
        buffer = self._buffer
        while True:
            start = self._start
            if start == len(buffer):
                return None
            end = buffer.find(b"\n", start)
            if (end if end >= 0 else len(buffer)) - start >= REPLY_LINE_OCTETS_MAX:
                raise RemoteProtocolError("A reply line is too long.")
            if end < 0:
                return None
            self._start = end + 1
            last, reply = _line(buffer[start:end])
            if last and not self._lines:
                return reply
            if self._lines and self._lines[0].code != reply.code:
                raise RemoteProtocolError("The lines of one reply have different codes.")
            self._lines.append(reply)
            if len(self._lines) > REPLY_LINES_MAX:
                raise RemoteProtocolError("A reply has too many lines.")
            if last:
                return self._joined()

    def _joined(self) -> Reply:
        lines, self._lines = self._lines, []
        text = "\n".join([line.text for line in lines])
        return Reply(lines[0].code, text[:REPLY_CHARACTERS_MAX], lines[0].status)


@lru_cache(_LINES_KEPT)
def _line(line: bytes) -> tuple[bool, Reply]:
    """One line without its LF: whether it is its reply's last, and what it says as if it were the only one."""
    match = _LINE.fullmatch(line[:-1] if line.endswith(b"\r") else line)
    if match is None:
        raise RemoteProtocolError("A reply does not start with a reply code.")
    code, separator, class_, subject, detail, octets = match.groups()
    status = None
    if class_ == code[:1]:
        status = EnhancedStatus(int(subject), int(detail))
    elif class_ is not None:
        # The code is what counts; a status of another class is left in the text for people to read.
        octets = line.removesuffix(b"\r")[4:]
    return separator != b"-", Reply(int(code), _text(octets or b""), status)


def _text(octets: bytes) -> str:
    text = octets.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join([character if character.isprintable() else " " for character in text]).rstrip()
