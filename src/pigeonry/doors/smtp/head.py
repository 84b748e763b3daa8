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

_FIELD: Final = re.compile(rb"[!-9;-~]+[ \t]*:")
_WANTED: Final = frozenset({b"from", b"to", b"subject", b"message-id", b"date", b"sender", b"bcc", b"return-path"})
_ALWAYS_OUT: Final = frozenset({b"bcc", b"return-path"})


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
        values: Raw values of the fields we look at, in lower case, the first of each name.
        controlled: Whether there are ``X-Mailgun-*`` headers.
    """

    __slots__ = ("controlled", "octets", "values")

    def __init__(self, octets: bytes, values: dict[bytes, bytes], *, controlled: bool) -> None:
        self.octets = octets
        self.values = values
        self.controlled = controlled

    def rewritten(self, *, trace: bytes, additions: bytes) -> bytes:
        """The header section as it is stored: traced, cleaned, completed. Ends with the last field's CRLF."""
        values = self.values
        out = {name for name in (b"date", b"message-id") if name in values and not values[name].strip()}
        octets = self.octets
        if out or self.controlled or not _ALWAYS_OUT.isdisjoint(values):
            octets = headers.without(octets, _ALWAYS_OUT | out, prefix=CONTROL_PREFIX)
        return trace + octets + additions


def read_head(text: bytes) -> Head:
    """Read the header section at the beginning of a text.

    Args:
        text: All of it, or its first piece.

    Raises:
        HeadRefused: It is too large, or the message went through too many servers.
    """
    length = headers.head_length(text)
    octets = text[: min(length, HEAD_OCTETS_MAX)]
    values: dict[bytes, bytes] = {}
    controlled = False
    received = start = 0
    name = b""
    for line in octets.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            if not start:
                break
            if name in _WANTED:
                values[name] += b"\r\n" + line
        elif line:
            colon = line.find(b":")
            name = line[: max(colon, 0)].rstrip(b" \t").lower()
            if name in _WANTED:
                if name in values:
                    name = b""
                else:
                    values[name] = line[colon + 1 :]
            elif name == b"received":
                received += 1
            elif not _FIELD.match(line):
                break
            elif name.startswith(CONTROL_PREFIX):
                controlled = True
        start += len(line) + 2
    else:
        if length > HEAD_OCTETS_MAX:
            raise HeadRefused(554, EnhancedStatus(6, 0), "The header section is larger than 128 KiB")
        start = length
    if received >= RECEIVED_MAX:
        raise HeadRefused(554, EnhancedStatus(4, 6), "Too many hops: the message goes in circles")
    return Head(octets[:start], values, controlled=controlled)
