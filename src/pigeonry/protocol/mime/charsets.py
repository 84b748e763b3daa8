"""Octets to text by the name of a charset that somebody else chose.

Python knows codecs that are no charsets of mail: some read escapes of its own, and punycode takes time with the square of
the length. A name is taken only when it stands for a table or one of the Unicode and East Asian encodings.

Standards: RFC 2978 (names of charsets).
Trust: name and octets come from outside. Time is in proportion to the octets.
"""

from __future__ import annotations

import codecs
from typing import Final

__all__ = ["NAME_CHARACTERS_MAX", "decoded"]

NAME_CHARACTERS_MAX: Final = 40  # the longest registered name that anybody uses has 26; Python keeps what it looked up
_NO_CHARSETS: Final = frozenset(
    {"punycode", "idna", "unicode-escape", "unicode_escape", "raw-unicode-escape", "raw_unicode_escape", "undefined"}
)


def decoded(octets: bytes | bytearray, charset: str, *, errors: str = "replace") -> str:
    """The text of octets in a charset.

    Args:
        octets: As they came.
        charset: Its name, in any case.
        errors: What to do about octets that it has no place for, as ``bytes.decode`` has it.

    Raises:
        LookupError: It is no charset that we know.
        ValueError: With ``errors="strict"``, the octets are not in it.
    """
    if len(charset) > NAME_CHARACTERS_MAX or codecs.lookup(charset).name in _NO_CHARSETS:
        raise LookupError("This is no charset of mail.")
    return octets.decode(charset, errors)
