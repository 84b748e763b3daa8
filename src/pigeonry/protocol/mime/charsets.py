"""Octets to text by the name of a charset that somebody else chose.

Python knows codecs that are no charsets of mail: some read escapes of its own, and punycode takes time with the square
of the length. It also searches its files for every name it does not know, and keeps that name for ever. So a name is
looked up here first, in the table of those it does know.

Standards: RFC 2978 (names of charsets).
Trust: name and octets come from outside. Time is in proportion to the octets, and nothing is kept.
"""

from __future__ import annotations

from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Final

__all__ = ["decoded"]

_NAME_CHARACTERS_MAX: Final = 40  # the longest name in the table has 26
_NO_CHARSETS: Final = frozenset(
    {"base64_codec", "bz2_codec", "hex_codec", "mbcs", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"}
)
_WITHOUT_ALIAS: Final = frozenset({"cp720", "cp737", "cp856", "cp874", "cp875", "cp1006", "koi8_t", "koi8_u"})
_CHARSETS: Final = frozenset(aliases.values()) - _NO_CHARSETS | _WITHOUT_ALIAS


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
    name = normalize_encoding(charset[: _NAME_CHARACTERS_MAX + 1]).lower()
    name = aliases.get(name, name)
    if name not in _CHARSETS:
        raise LookupError("This is no charset of mail.")
    return octets.decode(name, errors)
