"""Header sections as octets: where they end, which fields they hold, one field's value.

Nothing is decoded and no object is made per field unless ``fields`` is asked for.

Standards: RFC 5322 sections 2.1, 2.2, 3.6 and 4.5 (blanks before the colon are read, never written).
Trust: takes anything; expects CRLF line ends.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

__all__ = ["fields", "head_length", "is_field_name", "unfold", "value", "without"]

# A field begins a line: without that, a long line that is none would be looked at from each of its octets.
_FIELD: Final = re.compile(rb"^([!-9;-~]++)[ \t]*+:([^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+)(?:\r\n|\Z)", re.MULTILINE)
_NAME: Final = re.compile(r"[!-9;-~]{1,76}")
_FOLD: Final = re.compile(rb"\r\n(?=[ \t])")


def head_length(octets: bytes | bytearray | memoryview) -> int:
    """How many octets of a message are its header section, the last field's CRLF included.

    The body starts two octets later, unless there is none.
    """
    if isinstance(octets, memoryview):
        octets = bytes(octets)
    if octets[:2] == b"\r\n":
        return 0
    end = octets.find(b"\r\n\r\n")
    return len(octets) if end < 0 else end + 2


def fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Name and raw value (after the colon, still folded) of each field, in order. What is no field is left out."""
    return _FIELD.findall(head)


def value(head: bytes, name: bytes) -> bytes | None:
    """The unfolded value of the first field of that name (lower case); None when there is none."""
    found = _pattern(name).search(head)
    return None if found is None else unfold(found[1])


def unfold(raw: bytes) -> bytes:
    """A raw value on one line."""
    return (_FOLD.sub(b"", raw) if b"\r\n" in raw else raw).strip()


def without(head: bytes, names: frozenset[bytes], *, prefix: bytes = b"") -> bytes:
    """The header section without the fields of those names (lower case) or with that prefix; the rest octet for octet.

    Args:
        head: The header section.
        names: Names to leave out.
        prefix: Start of names to leave out as well; empty for none.
    """

    def kept(found: re.Match[bytes]) -> bytes:
        name = found[1].lower()
        return b"" if name in names or (prefix and name.startswith(prefix)) else found[0]

    return _LINES.sub(kept, head)


def is_field_name(text: str) -> bool:
    """Whether the text may be a field's name; at most 76 octets, so that a value fits beside it."""
    return _NAME.fullmatch(text) is not None


_LINES: Final = re.compile(rb"^([!-9;-~]++)[ \t]*+:[^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+(?:\r\n|\Z)", re.MULTILINE)


@cache
def _pattern(name: bytes) -> re.Pattern[bytes]:
    return re.compile(
        rb"^" + re.escape(name) + rb"[ \t]*+:([^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+)", re.IGNORECASE | re.MULTILINE
    )
