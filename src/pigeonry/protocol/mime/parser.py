"""Reading a MIME message: its parts as offsets into the octets, decoded only when asked for.

For showing stored messages and for finding the texts of a ready-made batch; never on the path of an ordinary message.
What is broken is read as far as it can be: a multipart without its boundary is one opaque part.

Standards: RFC 2045 (headers, encodings), RFC 2046 section 5.1 (multipart), RFC 2183 (disposition), RFC 2231
(parameters).
Trust: takes anything; depth, number of parts, their heads and parameters are bounded, so that the time is in proportion
to the octets, and no pattern keeps a way back for each of them.
"""

from __future__ import annotations

import binascii
import re
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import msgspec

from pigeonry.protocol.mime import charsets, headers
from pigeonry.protocol.mime.encoded_words import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Part", "decoded", "file_name", "leaves", "parse", "size", "text"]

DEPTH_MAX: Final = 16  # multiparts in multiparts; mail programs make five at most
PARTS_MAX: Final = 1_000  # of a whole message; what is beyond is not looked at
BOUNDARIES_MAX: Final = 4_096  # lines that begin like a boundary: four times as many as there may be parts
HEAD_OCTETS_MAX: Final = 16_384  # of a part's header section; what is beyond is not looked at
PARAMETERS_MAX: Final = 64  # of one header; a long name in RFC 2231 takes ten
_TEXTS: Final = frozenset({"text/plain", "text/html", "text/x-amp-html"})
_PARAMETER: Final = re.compile(r';\s*+([^\s=;"]{1,60}+)\s*+=\s*+("(?:[^"\\]++|\\.)*+"|[^;"]*+)', re.DOTALL)
_CONTINUED: Final = re.compile(r"([^*]+)(?:\*(\d{1,2}))?(\*)?")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


class Part(msgspec.Struct, frozen=True):
    """One part, or the whole message.

    Args:
        start: Offset of its header section.
        body: Offset of its body.
        end: Offset after its body; the line end before a boundary is the boundary's.
        content_type: Lower case, without parameters.
        parameters: Of the type: decoded, names in lower case.
        disposition: Lower case, ``inline`` or ``attachment``; empty when there was none.
        filename: Decoded; empty when there was none.
        content_id: Without angle brackets.
        encoding: Content-Transfer-Encoding, lower case.
        parts: What is in a multipart.
    """

    start: int
    body: int
    end: int
    content_type: str
    parameters: dict[str, str]
    disposition: str
    filename: str
    content_id: str
    encoding: str
    parts: tuple[Part, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether it is text to be read, not a file."""
        return self.content_type in _TEXTS and self.disposition != "attachment" and not self.filename


class _Budget(msgspec.Struct):
    """What may still be looked at of a message."""

    parts: int
    boundaries: int


def parse(octets: bytes | bytearray) -> Part:
    """Read a message with CRLF line ends; nothing of it is copied but the heads of its parts."""
    return _part(octets, 0, len(octets), _Budget(PARTS_MAX, BOUNDARIES_MAX), DEPTH_MAX)


def leaves(part: Part) -> Iterator[Part]:
    """The parts that hold content, in order."""
    if part.parts:
        for inner in part.parts:
            yield from leaves(inner)
    else:
        yield part


def decoded(octets: bytes, part: Part) -> bytes:
    """The content of a part, its transfer encoding undone."""
    content = octets[part.body : part.end]
    if part.encoding == "base64":
        try:
            return binascii.a2b_base64(content)
        except binascii.Error:
            return binascii.a2b_base64(content.rstrip(b"=\r\n\t ") + b"==") if _padded(content) else content
    if part.encoding == "quoted-printable":
        return binascii.a2b_qp(content)
    return content


def size(octets: bytes | bytearray, part: Part) -> int:
    """How many octets ``decoded`` would give, without making them."""
    length = part.end - part.body
    if part.encoding != "base64":
        return length
    letters = length - octets.count(b"\r", part.body, part.end) - octets.count(b"\n", part.body, part.end)
    return letters * 3 // 4 - octets.count(b"=", max(part.body, part.end - 8), part.end)


def text(octets: bytes, part: Part) -> str:
    """The content of a text part, with LF line ends."""
    content = decoded(octets, part)
    try:
        shown = charsets.decoded(content, part.parameters.get("charset", "utf-8"))
    except (LookupError, ValueError):
        shown = content.decode("utf-8", "replace")
    return shown.replace("\r\n", "\n")


def file_name(disposition: str) -> str:
    """The file name in a Content-Disposition, in any of the ways it is written; empty when there is none."""
    return _structured(disposition.encode("utf-8", "replace"))[1].get("filename", "")


def _padded(content: bytes) -> bool:
    """Whether base64 content becomes readable by padding it."""
    try:
        binascii.a2b_base64(content.rstrip(b"=\r\n\t ") + b"==")
    except binascii.Error:
        return False
    return True


def _part(octets: bytes | bytearray, start: int, end: int, budget: _Budget, depth: int) -> Part:
    if octets.startswith(b"\r\n", start):
        head, body = b"", start + 2
    else:
        blank = octets.find(b"\r\n\r\n", start, end)
        stop, body = (blank + 2, blank + 4) if blank >= 0 else (end, end)
        head = bytes(octets[start : min(stop, start + HEAD_OCTETS_MAX) if start else stop])
    kind, parameters = _structured(headers.value(head, b"content-type") or b"text/plain")
    disposition, more = _structured(headers.value(head, b"content-disposition") or b"")
    parts: tuple[Part, ...] = ()
    boundary = parameters.get("boundary", "")
    if kind.startswith("multipart/") and boundary and depth:
        found = _sections(octets, body, end, boundary=boundary.encode("utf-8", "replace"), budget=budget)
        parts = tuple([_part(octets, *section, budget, depth - 1) for section in found])
    return Part(
        start=start,
        body=min(body, end),
        end=end,
        content_type=kind,
        parameters=parameters,
        disposition=disposition,
        filename=more.get("filename") or parameters.get("name", ""),
        content_id=(headers.value(head, b"content-id") or b"").decode("utf-8", "replace").strip("<> \t"),
        encoding=(headers.value(head, b"content-transfer-encoding") or b"").decode("latin-1").strip().lower(),
        parts=parts,
    )


def _sections(
    octets: bytes | bytearray, start: int, end: int, *, boundary: bytes, budget: _Budget
) -> list[tuple[int, int]]:
    """Where the parts of a multipart begin and end."""
    delimiter = b"\r\n--" + boundary
    sections: list[tuple[int, int]] = []
    opened = -1
    # The line end before the first boundary is the one that ends the header section.
    found = octets.find(delimiter, start - 2, end)
    while found >= 0 and budget.parts and budget.boundaries:
        budget.boundaries -= 1
        position = found + len(delimiter)
        closing = octets.startswith(b"--", position)
        line_end = octets.find(b"\r\n", position, end)
        line = octets[position + 2 * closing : line_end if line_end >= 0 else end]
        if not line.strip(b" \t"):  # else a longer boundary that begins like ours
            if opened >= 0:
                budget.parts -= 1
                sections.append((opened, max(opened, found)))
            opened = -1 if closing or line_end < 0 else line_end + 2
            if opened < 0:
                break
        found = octets.find(delimiter, max(position, line_end), end)
    if opened >= 0 and budget.parts:
        budget.parts -= 1
        sections.append((opened, end))
    return sections


def _structured(value: bytes) -> tuple[str, dict[str, str]]:
    """A value and its parameters."""
    line = value.decode("utf-8", "replace")
    first = line.partition(";")[0].strip().lower()
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for found in islice(_PARAMETER.finditer(line), PARAMETERS_MAX):
        name = _CONTINUED.fullmatch(found[1].lower())
        content = found[2].strip()
        if content[:1] == '"':
            content = _ESCAPED.sub(r"\1", content[1:-1])
        if name is not None:
            pieces.setdefault(name[1], []).append((int(name[2] or 0), name[3] is not None, content))
    return first, {name: _joined(values) for name, values in pieces.items()}


def _joined(values: list[tuple[int, bool, str]]) -> str:
    """A parameter's value, put together as RFC 2231 asks; the extended form wins over the plain one."""
    if any(extended for _, extended, _ in values):
        values = [v for v in values if v[1] or v[0]]
    values.sort(key=lambda v: v[0])
    if not values[0][1]:
        joined = "".join(content for _, _, content in values)
        return decode(joined.encode("utf-8", "replace")) if "=?" in joined else joined
    charset, _, rest = values[0][2].partition("'")
    octets = b"".join(
        unquote_to_bytes(content) if extended else content.encode("utf-8", "replace")
        for extended, content in [(True, rest.partition("'")[2]), *[(e, c) for _, e, c in values[1:]]]
    )
    try:
        return charsets.decoded(octets, charset or "utf-8")
    except (LookupError, ValueError):
        return octets.decode("utf-8", "replace")
