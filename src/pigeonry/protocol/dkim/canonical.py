"""The relaxed canonical form of a message: what a DKIM signature really covers.

Whitespace is folded by searching for what needs a change and replacing just that: a message that is canonical
already (most are, but for its headers) costs three scans of the body and no copy of it.

Standards: RFC 6376 sections 3.4.2 (relaxed header fields), 3.4.4 (relaxed body), 5.4.2 (repeated fields).
Trust: fed with messages from outside; time and memory are linear in their length.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["body_start", "relaxed_body", "relaxed_fields"]

_FOLD: Final = re.compile(rb"\r\n(?=[ \t])")
_RUN: Final = re.compile(rb"[ \t]+")
_LONG_RUNS: Final = (b" " * 512, b" " * 16)  # shrunk first, so that halving the rest takes four passes, not thirty
_EMPTY_LINES: Final = (b"\r\n" * 4096, b"\r\n")  # the tail is walked in blocks first: a body may be all empty lines


def body_start(octets: bytes) -> int:
    """Where the body begins: behind the empty line, or at the end when the message is all header."""
    if octets.startswith(b"\r\n"):
        return 2
    end = octets.find(b"\r\n\r\n")
    return len(octets) if end < 0 else end + 4


def relaxed_body(octets: bytes, start: int = 0) -> bytes | memoryview:
    """The relaxed body, from ``start`` on; a view of ``octets`` where nothing inside had to change.

    A last line without its CRLF is taken to have one: it will have on the wire.
    """
    folded = octets.find(b"\t", start) < 0 and octets.find(b"  ", start) < 0
    if folded and octets.find(b" \r\n", start) < 0:
        body, begin = octets, start
    else:
        body, begin = _fold_whitespace(octets[start:] if start else octets), 0
    end = len(body)
    if body.endswith(b" ", begin):
        end -= 1  # its CRLF is missing, so the search for " \r\n" did not see it
    stripped = _without_empty_lines(body, begin, end)
    if stripped == begin:
        return b""
    if body.startswith(b"\r\n", stripped):
        return memoryview(body)[begin : stripped + 2]
    return body[begin:stripped] + b"\r\n"


def _fold_whitespace(body: bytes) -> bytes:
    """Every run of spaces and tabs as one space, and none before a CRLF."""
    body = body.replace(b"\t", b" ")
    for run in _LONG_RUNS:
        if run in body:
            body = body.replace(run, b" ")
    while b"  " in body:
        body = body.replace(b"  ", b" ")
    return body.replace(b" \r\n", b"\r\n")


def _without_empty_lines(body: bytes, begin: int, end: int) -> int:
    """Where the content of the last line that is not empty ends; ``begin`` when there is none."""
    for lines in _EMPTY_LINES:
        while body.endswith(lines, begin, end):
            end -= len(lines)
    return end


def relaxed_fields(header: bytes, wanted: Mapping[bytes, bytes]) -> tuple[list[bytes], list[bytes]]:
    """Names and relaxed forms, with their CRLF, of the wanted fields, from the last to the first.

    That is the order in which a signature takes repeated fields (RFC 6376 section 5.4.2). A line that is no field
    is passed over.

    Args:
        header: The header, its lines ending in CRLF.
        wanted: Lower-case names by themselves, and by any other spelling that is worth finding without folding case.
    """
    names: list[bytes] = []
    fields: list[bytes] = []
    if b"\r\n " in header or b"\r\n\t" in header:
        header = _FOLD.sub(b"", header)
    for line in reversed(header.split(b"\r\n")):
        spelled, colon, value = line.partition(b":")
        name = wanted.get(spelled) or wanted.get(spelled.rstrip(b" \t").lower())
        if name is None or not colon:
            continue
        if b"  " in value or b"\t" in value:
            value = _RUN.sub(b" ", value)
        names.append(name)
        fields.append(b"%b:%b\r\n" % (name, value.strip(b" ")))
    return names, fields
