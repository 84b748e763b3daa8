"""8-bit content made fit for a server without 8BITMIME: quoted-printable or base64 for each part that needs it.

It happens before signing. What is signed by someone else already (DKIM, S/MIME, PGP) and what has 8-bit octets in a
header is left alone: ``NotConvertible``, a permanent failure, rather than a message that no longer verifies.

Standards: RFC 6152 section 3 (convert or return); RFC 2045 sections 6.4 (no encoding on composites), 6.7, 6.8;
RFC 2046 section 5.1 (boundaries); RFC 1847 (multipart/signed).
Trust: the message is the sender's. Nesting is bounded; a structure that cannot be followed is not converted.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

__all__ = ["NotConvertible", "seven_bit"]

DEPTH_MAX: Final = 16  # nested multiparts; real mail has up to five

_CONTENT_TYPE: Final = re.compile(rb"(?im)^content-type[ \t]*:[ \t]*((?:[^\r\n]|\r\n[ \t])*)(?:\r\n|\Z)")
_ENCODING: Final = re.compile(rb"(?im)^content-transfer-encoding[ \t]*:[ \t]*((?:[^\r\n]|\r\n[ \t])*)(?:\r\n|\Z)")
_BOUNDARY: Final = re.compile(rb';[ \t\r\n]*boundary[ \t]*=[ \t]*(?:"((?:[^"\\\r\n]|\\.)+)"|([^\s;"]+))', re.IGNORECASE)
_SIGNED: Final = re.compile(rb"(?im)^dkim-signature[ \t]*:")
_TEXT: Final = re.compile(rb"text/", re.IGNORECASE)
_OPAQUE: Final = re.compile(rb"(?:multipart/(?:signed|encrypted)|message/)", re.IGNORECASE)
_MULTIPART: Final = re.compile(rb"multipart/", re.IGNORECASE)


class NotConvertible(Exception):
    """The message has 8-bit content and cannot be sent to a server that does not take it."""


def seven_bit(octets: bytes) -> bytes:
    """The message with 7-bit octets only; the same object when it has no others.

    Raises:
        NotConvertible: Not without breaking it; the text says why.
    """
    if octets.isascii():
        return octets
    header, _, _ = octets.partition(b"\r\n\r\n")
    if _SIGNED.search(header):
        raise NotConvertible("The message has 8-bit content and is signed already.")
    return _part(octets, 0)


def _part(octets: bytes, depth: int) -> bytes:
    """One entity (header and body) in 7 bits."""
    if octets.isascii():
        return octets
    if depth > DEPTH_MAX:
        raise NotConvertible("The message has 8-bit content and is nested too deeply.")
    if octets.startswith(b"\r\n"):  # an entity without a header
        header, body = b"", octets[2:]
    else:
        end = octets.find(b"\r\n\r\n")
        if end < 0:
            raise NotConvertible("The message has 8-bit octets in a header.")
        header, body = octets[: end + 2], octets[end + 4 :]
    if not header.isascii():
        raise NotConvertible("The message has 8-bit octets in a header.")
    found = _CONTENT_TYPE.search(header)
    content_type = found[1] if found else b"text/plain"
    if _OPAQUE.match(content_type):
        raise NotConvertible("The message has 8-bit content in a part that must stay as it is.")
    if _MULTIPART.match(content_type):
        return _relabelled(header, b"7bit") + b"\r\n" + _multipart(body, content_type, depth)
    if _TEXT.match(content_type):
        return _relabelled(header, b"quoted-printable") + b"\r\n" + _quoted_printable(body)
    return _relabelled(header, b"base64") + b"\r\n" + _base64(body)


def _multipart(body: bytes, content_type: bytes, depth: int) -> bytes:
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise NotConvertible("The message has 8-bit content in a multipart without a boundary.")
    boundary = re.sub(rb"\\(.)", rb"\1", found[1]) if found[1] else found[2]
    delimiter = re.compile(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    out: list[bytes] = []
    start = 0
    inside = False
    while (match := delimiter.search(body, start)) is not None:
        out.append(_section(body[start : match.start()], depth, inside=inside))
        out.append(match[0])
        inside = match[1] is None
        start = match.end()  # before the CRLF that ends the delimiter: it may begin the next one
        if not inside:
            break
    out.append(_section(body[start:], depth, inside=inside))
    return b"".join(out)


def _section(octets: bytes, depth: int, *, inside: bool) -> bytes:
    if inside and octets.startswith(b"\r\n"):
        return b"\r\n" + _part(octets[2:], depth + 1)
    if not octets.isascii():
        raise NotConvertible("The message has 8-bit octets outside of its parts.")
    return octets


def _relabelled(header: bytes, encoding: bytes) -> bytes:
    """The header with this transfer encoding. Content that is encoded already has no 8-bit octets to bring it here."""
    found = _ENCODING.search(header)
    if found is None:
        return header + b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    if found[1].strip().lower() not in {b"8bit", b"binary", b"7bit", b""}:
        raise NotConvertible("The message has 8-bit content in a part that says it is encoded.")
    return header[: found.start(1)] + encoding + header[found.end(1) :]


def _quoted_printable(body: bytes) -> bytes:
    # Line by line: a bare CR or LF inside a line is content, and is encoded.
    lines = body.split(b"\r\n")
    return b"\r\n".join([_quoted_line(line) for line in lines])


def _quoted_line(line: bytes) -> bytes:
    return binascii.b2a_qp(line, quotetabs=False, istext=False).replace(b"=\n", b"=\r\n")


def _base64(body: bytes) -> bytes:
    return b"".join([binascii.b2a_base64(body[at : at + 57])[:-1] + b"\r\n" for at in range(0, len(body), 57)])
