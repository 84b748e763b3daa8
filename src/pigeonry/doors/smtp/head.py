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
from pigeonry.protocol.mime import encoded_words, headers

__all__ = ["Head", "HeadRefused", "read_head"]

HEAD_OCTETS_MAX: Final = 131_072  # half of what is held in memory, so that a head is always whole in the first piece
SHOWN_CHARACTERS_MAX: Final = 2_000  # of a value in events, which repeat it for each recipient
RECEIVED_MAX: Final = 30  # RFC 5321 section 6.3: a count from which a loop is certain; at least 100 hops is for relays

# One field, or else one line that is none: found in one pass, an empty name tells that there is such a line.
_FIELDS: Final = re.compile(r"([!-9;-~]+)[ \t]*:([^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+)\r\n|([^\n]+\n)")
_ALWAYS_OUT: Final = frozenset({b"bcc", b"return-path"})
_CONTROL: Final = CONTROL_PREFIX.decode("ascii")
_CONTROL_LINE: Final = "\r\n" + _CONTROL


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
        values: Values as they came, by name in lower case; of several fields of a name, the first.
        plain: Whether values can be shown as they are: short, ASCII, not folded, without encoded words.
        controlled: Whether there are ``X-Mailgun-*`` headers.
    """

    __slots__ = ("controlled", "octets", "plain", "values")

    def __init__(self, octets: bytes, values: dict[str, str], plain: bool, controlled: bool) -> None:  # noqa: FBT001 - hot
        self.octets = octets
        self.values = values
        self.plain = plain
        self.controlled = controlled

    def shown(self, name: str) -> str:
        """A field's value as people read it; empty when there is none."""
        value = self.values.get(name)
        if value is None:
            return ""
        if self.plain:
            return value.strip()
        return encoded_words.decode(value.encode("utf-8", "surrogateescape"))[:SHOWN_CHARACTERS_MAX]

    def cleaned(self) -> bytes:
        """The header section without what is for us alone, and without an empty Date or Message-ID."""
        values = self.values
        if (
            values.get("date", "x").strip()
            and values.get("message-id", "x").strip()
            and not (self.controlled or "bcc" in values or "return-path" in values)
        ):
            return self.octets
        empty = {name.encode() for name in ("date", "message-id") if not values.get(name, "x").strip()}
        return headers.without(self.octets, _ALWAYS_OUT | empty, prefix=CONTROL_PREFIX)


def read_head(text: bytes) -> Head:
    """Read the header section at the beginning of a text.

    Args:
        text: All of it, or its first piece.

    Raises:
        HeadRefused: It is too large, or the message went through too many servers.
    """
    end = text.find(b"\r\n\r\n", 0, HEAD_OCTETS_MAX)
    if end < 0:
        # Whole lines only: each is looked at once, and a part of one would be looked at from each of its octets.
        end_of_line = text.rfind(b"\n", 0, HEAD_OCTETS_MAX)
        octets = text[: end_of_line + 1]
    else:
        octets = text[: end + 2]
    if octets.startswith(b"\r\n"):
        octets = b""
    # find and not in: Python 3.11 tries bytes as a number first, which costs more than the search.
    plain = (
        len(octets) <= SHOWN_CHARACTERS_MAX
        and octets.isascii()
        and octets.find(b"=?") < 0
        and octets.find(b"\n ") < 0
        and octets.find(b"\n\t") < 0
    )
    characters = octets.decode("utf-8", "surrogateescape")
    found = _FIELDS.findall(characters)
    found.reverse()
    values = {name.lower(): value for name, value, _ in found}
    if "" in values:
        return read_head(_before_other_line(characters))
    if end < 0 and len(text) > HEAD_OCTETS_MAX:
        raise HeadRefused(554, EnhancedStatus(6, 0), "The header section is larger than 128 KiB")
    if len(found) >= RECEIVED_MAX and [name.lower() for name, _, _ in found].count("received") >= RECEIVED_MAX:
        raise HeadRefused(554, EnhancedStatus(4, 6), "Too many hops: the message goes in circles")
    lower = characters.lower()
    return Head(octets, values, plain, _CONTROL_LINE in lower or lower.startswith(_CONTROL))


def _before_other_line(characters: str) -> bytes:
    """What stands before the first line that is no field, with an empty line behind it."""
    start = next(found.start() for found in _FIELDS.finditer(characters) if found[1] is None)
    return characters[:start].encode("utf-8", "surrogateescape") + b"\r\n"
