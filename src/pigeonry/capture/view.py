"""What a person wants to see of a captured message: its text, its HTML, its parts.

Standards: RFC 5322 and RFC 2045-2047, as the standard library's parser reads them. That parser is slow and lenient,
which is right here: nothing of this is on the way of a message.
Trust: the octets are whatever was sent. HTML is handed out as it came, to be shown in a sandboxed frame only.
"""

from __future__ import annotations

import base64
import email
import email.header
import email.policy
import re
from email.message import EmailMessage, Message
from typing import Final

import msgspec

__all__ = ["PICTURES", "Part", "View", "header_text", "part_octets", "split_headers", "view"]

PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
PARTS_MAX: Final = 200  # parts listed of one message; a nest of more is a test of parsers, not a mail
_CID: Final = re.compile(r"\bcid:([^\"'\s)>]{1,300})", re.IGNORECASE)


class Part(msgspec.Struct, frozen=True):
    """One leaf of the message.

    Args:
        number: Its place among the leaves, from 0.
        size: Octets, decoded.
        content_id: Without angle brackets, or empty.
    """

    number: int
    content_type: str
    filename: str
    size: int
    content_id: str
    inline: bool


class View(msgspec.Struct, frozen=True):
    """A message taken apart. ``text`` and ``html`` are None where it has none."""

    text: str | None
    html: str | None
    amp: str | None
    parts: tuple[Part, ...]


def view(octets: bytes, *, pictures: bool = False) -> View:
    """Take a message apart.

    Args:
        pictures: Put the message's own pictures into its HTML, where ``cid:`` names them: a sandboxed frame is nobody's
            site, and may fetch nothing from ours.
    """
    found: dict[str, str] = {}
    parts: list[Part] = []
    shown: dict[str, str] = {}
    for number, leaf in enumerate(_leaves(octets)):
        kind = leaf.get_content_type()
        attached = leaf.get_content_disposition() == "attachment"
        if kind in {"text/plain", "text/html", "text/x-amp-html"} and not attached and kind not in found:
            found[kind] = _text(leaf)
        else:
            content = _content(leaf)
            content_id = str(leaf.get("Content-ID", "")).strip().strip("<>")
            parts.append(Part(number, kind, leaf.get_filename() or "", len(content), content_id, not attached))
            if pictures and content_id and kind in PICTURES:
                shown[content_id.lower()] = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    html = found.get("text/html")
    if html is not None and shown:
        html = _CID.sub(lambda match: shown.get(match.group(1).lower(), match.group(0)), html)
    return View(found.get("text/plain"), html, found.get("text/x-amp-html"), tuple(parts))


def part_octets(octets: bytes, number: int) -> tuple[str, str, bytes] | None:
    """Content type, file name and decoded octets of one part; None when there is no such part."""
    for place, leaf in enumerate(_leaves(octets)):
        if place == number:
            return leaf.get_content_type(), leaf.get_filename() or f"part-{number}", _content(leaf)
    return None


def split_headers(octets: bytes) -> list[tuple[str, str]]:
    """The header fields in order, unfolded, as they stand on the wire."""
    head = octets.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    fields: list[tuple[str, str]] = []
    for line in head.split("\r\n"):
        if line[:1] in {" ", "\t"} and fields:
            name, value = fields[-1]
            fields[-1] = (name, f"{value} {line.strip()}")
        else:
            name, _, value = line.partition(":")
            fields.append((name, value.strip()))
    return fields


def header_text(value: str) -> str:
    """A field's value with its encoded words decoded; as it stands when they are malformed."""
    try:
        return str(email.header.make_header(email.header.decode_header(value)))
    except (ValueError, LookupError, UnicodeError):
        return value


def _leaves(octets: bytes) -> list[Message]:
    message = email.message_from_bytes(octets, _class=EmailMessage, policy=email.policy.compat32)
    leaves = [part for part in message.walk() if not part.is_multipart()]
    return leaves[:PARTS_MAX]


def _content(leaf: Message) -> bytes:
    content = leaf.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _text(leaf: Message) -> str:
    try:
        return _content(leaf).decode(leaf.get_content_charset("utf-8"), "replace")
    except LookupError:
        return _content(leaf).decode("utf-8", "replace")
