"""The header section of a message that came in: read once, and rewritten only where it must be.

Date and Message-ID are added where they are missing, a trace line is put in front; ``Bcc``, ``Return-Path`` and all
``X-Mailgun-*`` control headers are taken out. A line that cannot be a header ends the section, as if an empty line
stood before it.

Standards: RFC 5322 sections 2.2 and 3.6, RFC 5321 section 4.4 (Return-Path) and 6.3 (loops), RFC 6409 section 8 (what
a submission server may add).
Trust: everything comes from outside. Line ends are CRLF only: the protocol core saw to that.
"""

from __future__ import annotations

import re
from typing import Final

from pigeonry.compose.settings import CONTROL_PREFIX
from pigeonry.domain.errors import PigeonryError
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.mime import headers

__all__ = ["Head", "HeadRefused", "read_head"]

HEAD_OCTETS_MAX: Final = 131_072  # half of what is held in memory, so that a head is always whole in the first piece
RECEIVED_MAX: Final = 30  # RFC 5321 section 6.3: a count from which a loop is certain; at least 100 hops is for relays

# One field, or else one line that is none: found in one pass, the empty name tells that there is such a line.
_FIELDS: Final = re.compile(rb"([!-9;-~]+)[ \t]*:([^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+)\r\n|([^\n]+\n)")
_ALWAYS_OUT: Final = frozenset({b"bcc", b"return-path"})
_CONTROL_LINE: Final = b"\r\n" + CONTROL_PREFIX


class HeadRefused(PigeonryError):
    """The header section cannot be taken."""

    def __init__(self, code: int, status: EnhancedStatus, text: str) -> None:
        super().__init__(text)
        self._reply = Reply(code, text, status)

    def reply(self) -> Reply:
        """The answer on the SMTP door."""
        return self._reply


class Head:
    """What was found.

    Args:
        octets: The header section, its last CRLF included, without the empty line.
        values: Raw values by name in lower case; of several fields of a name, the first.
        controlled: Whether there are ``X-Mailgun-*`` headers.
    """

    __slots__ = ("controlled", "octets", "values")

    def __init__(self, octets: bytes, values: dict[bytes, bytes], controlled: bool) -> None:  # noqa: FBT001 - hot path
        self.octets = octets
        self.values = values
        self.controlled = controlled

    def cleaned(self) -> bytes:
        """The header section without what is for us alone, and without an empty Date or Message-ID."""
        values = self.values
        if not (self.controlled or b"bcc" in values or b"return-path" in values):
            if values.get(b"date", b"x").strip() and values.get(b"message-id", b"x").strip():
                return self.octets
        empty = {name for name in (b"date", b"message-id") if not values.get(name, b"x").strip()}
        return headers.without(self.octets, _ALWAYS_OUT | empty, prefix=CONTROL_PREFIX)


def read_head(text: bytes) -> Head:
    """Read the header section at the beginning of a text.

    Args:
        text: All of it, or its first piece.

    Raises:
        HeadRefused: It is too large, or the message went through too many servers.
    """
    end = text.find(b"\r\n\r\n", 0, HEAD_OCTETS_MAX)
    if end >= 0:
        octets = text[: end + 2] if end else b""
    else:
        octets = text[:HEAD_OCTETS_MAX]
    if octets.startswith(b"\r\n"):
        octets = b""
    found = _FIELDS.findall(octets)
    values = {name.lower(): value for name, value, _ in reversed(found)}
    if b"" in values:
        return read_head(octets[: _first_other_line(octets)] + b"\r\n")
    if end < 0 and len(text) > HEAD_OCTETS_MAX:
        raise HeadRefused(554, EnhancedStatus(6, 0), "The header section is larger than 128 KiB")
    lower = octets.lower()
    if lower.count(b"\r\nreceived") + 1 >= RECEIVED_MAX <= sum(n.lower() == b"received" for n, _, _ in found):
        raise HeadRefused(554, EnhancedStatus(4, 6), "Too many hops: the message goes in circles")
    # find and not in: Python 3.11 tries the bytes as a number first, which costs more than the search.
    return Head(octets, values, lower.find(_CONTROL_LINE) >= 0 or lower.startswith(CONTROL_PREFIX))


def _first_other_line(octets: bytes) -> int:
    """Where the first line begins that is no field."""
    return next(found.start() for found in _FIELDS.finditer(octets) if found[1] is None)
