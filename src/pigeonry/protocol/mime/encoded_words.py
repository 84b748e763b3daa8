"""Header text beyond ASCII: encoded words both ways, and folding.

Standards: RFC 2047 (encoded words), RFC 5322 sections 2.1.1 (line lengths) and 2.2.3 (folding).
Trust: ``encode`` takes text that holds no CR, LF or NUL (``reject_controls`` sees to that); ``decode`` takes anything.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from pigeonry.protocol.mime import charsets

__all__ = ["LINE_OCTETS_MAX", "LINE_OCTETS_WISHED", "decode", "encode", "fold", "words"]

LINE_OCTETS_WISHED: Final = 78  # RFC 5322 section 2.1.1, SHOULD
LINE_OCTETS_MAX: Final = 998  # RFC 5322 section 2.1.1, MUST
_RAW_OCTETS: Final = 45  # octets of UTF-8 that make 60 of base64: the word is then 72 long, 75 being the limit
_WORD: Final = re.compile(r"=\?([^?*\s]{1,40})(?:\*[^?\s]*)?\?([bBqQ])\?([^?\s]*)\?=")
_BETWEEN: Final = re.compile(r"(\?=)[ \t\r\n]+(?==\?)")
_Q_ESCAPE: Final = re.compile(rb"=([0-9A-Fa-f]{2})")


def encode(text: str, *, column: int) -> bytes:
    """The value of an unstructured header, folded.

    ASCII stays as it is, folded at blanks; anything else becomes encoded words throughout.

    Args:
        text: The value, without line ends.
        column: Octets on the line before the value, such as 9 for ``Subject: ``.
    """
    if text.isascii():
        octets = text.encode("ascii")
        if column + len(octets) <= LINE_OCTETS_WISHED:
            return octets
        folded = fold(octets, column=column)
        if all(len(line) <= LINE_OCTETS_MAX - column for line in folded.split(b"\r\n")):
            return folded
    return words(text, column=column)


def words(text: str, *, column: int) -> bytes:
    """The text as UTF-8 encoded words in base64, one on a line; no character is split over two."""
    octets = text.encode("utf-8", "replace")
    out: list[bytes] = []
    start, room = 0, max(9, min(_RAW_OCTETS, (LINE_OCTETS_WISHED - 2 - column - 12) // 4 * 3))
    while start < len(octets):
        end = start + room
        while end < len(octets) and octets[end] & 0xC0 == 0x80:
            end -= 1
        out.append(b"=?utf-8?B?" + binascii.b2a_base64(octets[start:end], newline=False) + b"?=")
        start, room = end, _RAW_OCTETS
    return b"\r\n ".join(out)


def fold(octets: bytes, *, column: int) -> bytes:
    """Break before blanks so that lines keep to 78 octets where the blanks allow it."""
    lines: list[bytes] = []
    start, room = 0, max(16, LINE_OCTETS_WISHED - column)
    end = len(octets.rstrip())
    while len(octets) - start > room:
        cut = octets.rfind(b" ", start + 1, start + room)
        if cut < 0:
            cut = octets.find(b" ", start + room)
        # A line of blanks alone is obsolete syntax, and a value may not end in one.
        if cut < 0 or cut >= end or not octets[start:cut].strip():
            break
        lines.append(octets[start:cut])
        start, room = cut, LINE_OCTETS_WISHED
    lines.append(octets[start:])
    return b"\r\n".join(lines)


def decode(value: bytes) -> str:
    """The text of a raw header value: unfolded, encoded words read, whatever is wrong shown as it is."""
    text = value.replace(b"\r\n", b"").decode("utf-8", "replace").strip()
    if "=?" not in text:
        return text
    out: list[str] = []
    position, pending, charset = 0, b"", ""
    text = _BETWEEN.sub(r"\1", text)
    for found in _WORD.finditer(text):
        octets = _octets(found[2], found[3])
        if octets is None:
            continue
        if pending and (found.start() != position or found[1].lower() != charset):
            out.append(_decoded(pending, charset))
            pending = b""
        out.append(text[position : found.start()])
        pending, charset, position = pending + octets, found[1].lower(), found.end()
    if pending:
        out.append(_decoded(pending, charset))
    out.append(text[position:])
    return "".join(out)


def _octets(encoding: str, content: str) -> bytes | None:
    if encoding in "bB":
        try:
            return binascii.a2b_base64(content + "=" * (-len(content) % 4))
        except ValueError:
            return None
    octets = content.replace("_", " ").encode("utf-8", "replace")
    return _Q_ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), octets)


def _decoded(octets: bytes, charset: str) -> str:
    try:
        return charsets.decoded(octets, charset)
    except (LookupError, ValueError):
        return octets.decode("utf-8", "replace")
