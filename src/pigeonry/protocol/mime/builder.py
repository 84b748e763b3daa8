"""Outbound MIME: text parts, files, and the multiparts that hold them, as a list of octet pieces.

``multipart/mixed`` > ``related`` (inline files) > ``alternative`` (text, amp, html); a level that would hold one thing
is left out. Everything written is 7 bit. Files come already in base64, so that no large file is ever copied whole.

A piece that is not known before delivery is a ``Slot``; who makes slots also fills them (``compose.template``).

Standards: RFC 2045, RFC 2046 section 5.1, RFC 2183 (disposition), RFC 2231 section 4 (names beyond ASCII), RFC 2387
(related), RFC 2392 (Content-ID).
Trust: names and types come from outside; ``Attachment`` is made only by ``attachment``, which checks them.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from pigeonry.domain.errors import BadRequest
from pigeonry.protocol.mime.encoded_words import LINE_OCTETS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BASE64_STRIDE",
    "FILE_NAME_OCTETS_MAX",
    "Attachment",
    "Piece",
    "Slot",
    "assemble",
    "attachment",
    "base64_lines",
    "crlf_octets",
    "quoted_printable",
    "text_leaf",
    "text_slot",
]

BASE64_STRIDE: Final = 57  # octets that make one line of 76
FILE_NAME_OCTETS_MAX: Final = 255  # what file systems take; percent-encoded it still fits one line
_QUOTED_STRIDE: Final = 75  # octets before a soft line end: a line of quoted-printable has 76
_UNQUOTED: Final = bytes(range(0x20, 0x7F)).replace(b"=", b"") + b"\r\n"  # leaves a blank or dot alone on a line aside
_BASE64_SHARE: Final = 6  # one octet in so many over 127: base64 is then the shorter and the quicker
_TYPE: Final = re.compile(r"([A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64})\s*(?:;(.{0,200}))?")
_CHARSET: Final = re.compile(r"charset\s*=\s*\"?([A-Za-z0-9_.:+-]{1,40})\"?", re.IGNORECASE)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_GUESSES: Final = {
    "csv": "text/csv",
    "gif": "image/gif",
    "htm": "text/html",
    "html": "text/html",
    "ics": "text/calendar",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "webp": "image/webp",
    "zip": "application/zip",
}


class Slot(msgspec.Struct, frozen=True):
    """A piece to be filled in for each recipient.

    Args:
        kind: What is to be done with the source; the numbers are ``compose.template``'s.
        source: The text with its placeholders.
        name: The header's name, where it is one.
    """

    kind: int
    source: str
    name: str = ""


Piece = bytes | bytearray | memoryview | Slot


class Attachment(msgspec.Struct, frozen=True):
    """A file, ready to be put into a message.

    Args:
        filename: Decoded.
        content_type: Without parameters.
        size: Octets, decoded.
        head: The part's header section with the empty line.
        body: Its base64 lines.
    """

    filename: str
    content_type: str
    size: int
    head: bytes
    body: Sequence[bytes]


def crlf_octets(octets: bytes) -> bytes:
    """The octets with CRLF line ends, whatever they had; not copied when they have them already."""
    if b"\r" not in octets:
        return octets.replace(b"\n", b"\r\n")
    if octets.count(b"\r\n") == octets.count(b"\n") == octets.count(b"\r"):
        return octets
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def text_leaf(subtype: bytes, text: str) -> bytes:
    """A text part: header section, empty line and body, in the plainest encoding that is safe.

    Args:
        subtype: ``plain``, ``html`` or ``x-amp-html``.
        text: As the client gave it.
    """
    octets = _body(text)
    if octets.isascii():
        if b"\x00" not in octets and not _has_long_line(octets):
            return b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n%b' % (
                subtype,
                octets,
            )
    elif is_dense(octets):
        return _text_head(subtype, b"base64") + base64_lines(octets)
    return _text_head(subtype, b"quoted-printable") + quoted_printable(octets)


def text_slot(subtype: bytes, text: str, *, quoted_printable_kind: int, base64_kind: int) -> tuple[bytes, Slot]:
    """A text part whose body is filled in later: header section with the empty line, and the slot.

    The encoding is chosen now, from the text with its placeholders, so that it is the same for all.
    """
    octets = _body(text)
    source = octets.decode()
    if is_dense(octets):
        return _text_head(subtype, b"base64"), Slot(base64_kind, source)
    return _text_head(subtype, b"quoted-printable"), Slot(quoted_printable_kind, source)


def is_dense(octets: bytes) -> bool:
    """Whether so much is beyond ASCII that base64 is the better encoding."""
    return not octets.isascii() and len(octets.decode("utf-8", "ignore")) * _BASE64_SHARE < len(octets) * (
        _BASE64_SHARE - 0.5
    )


def quoted_printable(octets: bytes) -> bytes:
    """Text in quoted-printable (RFC 2045 section 6.7).

    Args:
        octets: With CRLF line ends only, and at least one (soft line ends follow the first).
    """
    if octets.translate(None, _UNQUOTED) or b" \r\n" in octets or not octets.endswith(b"\r\n"):
        return binascii.b2a_qp(octets)
    cut = b"\r\n".join([_cut(line) for line in octets.split(b"\r\n")])
    return binascii.b2a_qp(octets) if b"\r\n.\r\n" in cut or cut.startswith(b".\r\n") else cut


def _cut(line: bytes) -> bytes:
    """A line of which nothing must be quoted, with soft line ends: at half the price of looking at each octet."""
    if len(line) <= _QUOTED_STRIDE:
        return line
    return b"=\r\n".join([line[i : i + _QUOTED_STRIDE] for i in range(0, len(line), _QUOTED_STRIDE)])


def base64_lines(octets: bytes | memoryview) -> bytes:
    """Octets as base64 in lines of 76, each ended by CRLF."""
    encoded = binascii.b2a_base64(octets, newline=False)
    return b"".join([encoded[i : i + 76] + b"\r\n" for i in range(0, len(encoded), 76)])


def attachment(
    *, filename: str, content_type: str, size: int, body: Sequence[bytes], content_id: str = ""
) -> Attachment:
    """A file for a message.

    Args:
        filename: As the client gave it; a path is cut down to its last name, empty becomes ``attachment``.
        content_type: As the client gave it. What cannot stand in a type is replaced by a guess from the name; a
            ``message/*`` or ``multipart/*`` is sent as ``application/octet-stream``, for base64 is not allowed there.
        size: Octets, decoded.
        body: Its base64 lines.
        content_id: Makes it an inline part under that Content-ID.

    Raises:
        BadRequest: The name holds a control character or is too long.
    """
    name = filename.replace("\\", "/").rpartition("/")[2].strip() or "attachment"
    if _CONTROLS.search(name):
        raise BadRequest("A file name holds a control character.")
    if len(name.encode("utf-8", "replace")) > FILE_NAME_OCTETS_MAX:
        raise BadRequest(f"A file name is longer than {FILE_NAME_OCTETS_MAX} octets.")
    kind, parameters = _content_type(content_type, name)
    head = b"Content-Type: %b%b\r\nContent-Transfer-Encoding: base64\r\n" % (kind.encode("ascii"), parameters)
    head += b"Content-Disposition: %b;\r\n %b\r\n" % (b"inline" if content_id else b"attachment", _filename(name))
    if content_id:
        head += b"Content-ID: <%b>\r\n" % quote(content_id, safe="!#$&'*+-/=?^_`{|}~.@").encode("ascii")
    return Attachment(name, kind, size, head + b"\r\n", body)


def assemble(
    leaves: Sequence[Sequence[Piece]],
    *,
    inline: Sequence[Attachment] = (),
    attachments: Sequence[Attachment] = (),
    boundary: bytes,
) -> list[Piece]:
    """Everything after the message's own headers, beginning with ``Content-Type``.

    Args:
        leaves: The text parts as pieces (header section and body), the plainest first.
        inline: Files that the html refers to.
        attachments: Files.
        boundary: Occurs in no part: characters that encodings cannot make, or chance.
    """
    out: list[Piece] = [*leaves[0]] if leaves else []
    if len(leaves) > 1:
        out = _multipart(b"alternative", leaves, boundary + b"a")
    for subtype, files, mark in ((b"related", inline, b"r"), (b"mixed", attachments, b"m")):
        if files:
            parts: list[Sequence[Piece]] = [out] if out else []
            parts.extend([file.head, *file.body] for file in files)
            out = _multipart(subtype, parts, boundary + mark)
    return out


def _multipart(subtype: bytes, parts: Sequence[Sequence[Piece]], boundary: bytes) -> list[Piece]:
    out: list[Piece] = [b'Content-Type: multipart/%b; boundary="%b"\r\n\r\n' % (subtype, boundary)]
    delimiter = b"--%b\r\n" % boundary
    for part in parts:
        out.append(delimiter)
        out.extend(part)
        out.append(b"\r\n")
    out.append(b"--%b--\r\n" % boundary)
    return out


def _body(text: str) -> bytes:
    """Text as UTF-8 with CRLF line ends, one at its end."""
    octets = crlf_octets(text.encode("utf-8", "replace"))
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def _text_head(subtype: bytes, encoding: bytes) -> bytes:
    return b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n\r\n' % (subtype, encoding)


def _has_long_line(octets: bytes) -> bool:
    """Whether a line is longer than 998 octets; jumps from line end to line end instead of splitting."""
    start = 0
    while len(octets) - start > LINE_OCTETS_MAX + 2:
        end = octets.rfind(b"\n", start, start + LINE_OCTETS_MAX + 2)
        if end < 0:
            return True
        start = end + 1
    return False


def _filename(name: str) -> bytes:
    if name.isascii():
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        return b'filename="%b"' % quoted.encode("ascii")
    return b"filename*=utf-8''%b" % quote(name, safe="").encode("ascii")


def _content_type(given: str, name: str) -> tuple[str, bytes]:
    found = _TYPE.fullmatch(given.strip())
    if found is None:
        return _GUESSES.get(name.rpartition(".")[2].lower(), "application/octet-stream"), b""
    kind = found[1].lower()
    if kind.startswith(("message/", "multipart/")):
        return "application/octet-stream", b""
    charset = _CHARSET.search(found[2] or "") if kind.startswith("text/") else None
    return kind, b'; charset="%b"' % charset[1].encode("ascii") if charset else b""
