"""Request bodies into a ``Form``: multipart, urlencoded or JSON, whatever the client chose, streamed and bounded.

Clients contradict themselves (JSON text under an urlencoded type), so the first octet decides where the type does not
demand otherwise. ``name[]`` and ``name[0]`` are ``name``; repeated fields keep their order; parameters of the query are
added behind those of the body.

A file is turned into base64 lines as it arrives, in whole lines of 57 octets: the octets of a large attachment are in
memory once, in the form in which they leave, and never as a second copy.

Standards: RFC 7578 (multipart/form-data), RFC 2231 and RFC 2047 (names of files), RFC 8259 (JSON), WHATWG URL section 5
(urlencoded), RFC 1952 (gzip).
Trust: hostile. Size, parts, fields, header lines and the growth of gzip are bounded before anything is built from them.
"""

from __future__ import annotations

import binascii
import re
import zlib
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import msgspec
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from pigeonry.compose.form import Form, Upload
from pigeonry.domain.errors import BadRequest, TooLarge
from pigeonry.protocol.mime import charsets
from pigeonry.protocol.mime.builder import BASE64_STRIDE, base64_lines, crlf_octets
from pigeonry.protocol.mime.parser import file_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REQUEST_OCTETS_MAX", "FormReader"]

REQUEST_OCTETS_MAX: Final = 27_262_976  # 26 MiB: a message of 25 MiB and the form around it
FIELDS_MAX: Final = 4_096  # a thousand recipients one by one, and every option there is
PART_HEADER_OCTETS_MAX: Final = 4_096  # of one header line of a part
PART_HEADERS_MAX: Final = 8  # RFC 7578 knows three
NAME_OCTETS_MAX: Final = 512  # of a field's name
ARRAY_COMMAS_MAX: Final = 65_536  # of a JSON array: a thousand addresses with a name and all there is around it
_INFLATED_STEP: Final = 65_536  # octets taken out of gzip at a time
_FILES: Final = frozenset({"attachment", "inline"})
_COMMON: Final = {name.encode(): name for name in ("from", "to", "cc", "bcc", "subject", "text", "html", "o:tag")}
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_STRING: Final = msgspec.json.Decoder(str)
_INDEX: Final = re.compile(r"\[\d{0,4}\]\Z")


class FormReader:
    """Takes the octets of a request's body as they arrive.

    Args:
        content_type: The header, empty when there was none.
        content_encoding: The header, empty when there was none.
        grow: Told of octets before they are kept; may refuse by raising.

    Raises:
        BadRequest: An encoding that we do not read, or a malformed multipart type.
    """

    def __init__(self, *, content_type: bytes, content_encoding: bytes = b"", grow: Callable[[int], None]) -> None:
        self._grow = grow
        self._inflate = None
        if content_encoding and content_encoding.strip().lower() != b"identity":
            if content_encoding.strip().lower() not in (b"gzip", b"x-gzip"):
                raise BadRequest("Content-Encoding is neither gzip nor identity.")
            self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._length = 0
        self._chunks: list[bytes] = []
        self._parts: _Parts | None = None
        if content_type[:20].lower().startswith(b"multipart/form-data"):
            boundary = parse_options_header(content_type.decode("latin-1"))[1].get("boundary", "")
            if not boundary or len(boundary) > 200:
                raise BadRequest("Content-Type multipart/form-data has no usable boundary.")
            self._parts = _Parts(boundary)

    def feed(self, octets: bytes) -> None:
        """Take more of the body.

        Raises:
            BadRequest: It is malformed.
            TooLarge: It is over a limit.
        """
        if self._inflate is None:
            self._take(octets)
            return
        try:
            while octets and not self._inflate.eof:
                self._take(self._inflate.decompress(octets, _INFLATED_STEP))
                octets = self._inflate.unconsumed_tail
        except zlib.error:
            raise BadRequest("The request's gzip encoding is malformed.") from None
        if octets or self._inflate.unused_data:
            raise BadRequest("The request has octets behind the end of its gzip encoding.")

    def finish(self, query: bytes = b"") -> Form:
        """The form, once the body is complete.

        Args:
            query: The URL's query, undecoded.

        Raises:
            BadRequest: It is malformed or not complete.
        """
        if self._inflate is not None and not self._inflate.eof:
            raise BadRequest("The request's gzip encoding is not complete.")
        if self._parts is not None:
            form = self._parts.finish() if self._length else Form({})
        else:
            form = _sniffed(self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))
            self._chunks = []
        if query:
            for name, values in _urlencoded(query).items():
                form.fields.setdefault(name, []).extend(values)
        for name in _FILES & form.fields.keys():
            if any(form.fields.pop(name)):
                raise BadRequest(f"Parameter {name} must be a file part of multipart/form-data.")
        return form

    def _take(self, octets: bytes) -> None:
        if not octets:
            return
        self._length += len(octets)
        if self._length > REQUEST_OCTETS_MAX:
            raise TooLarge("The request is larger than 26 MiB.")
        self._grow(len(octets))
        if self._parts is not None:
            self._parts.feed(octets)
        else:
            self._chunks.append(octets)


class _Parts:
    """A multipart body on its way."""

    def __init__(self, boundary: str) -> None:
        try:
            self._parser = PushMultipartParser(
                boundary,
                max_header_size=PART_HEADER_OCTETS_MAX,
                max_header_count=PART_HEADERS_MAX,
                max_segment_count=FIELDS_MAX,
            )
        except MultipartError:
            raise BadRequest("Content-Type multipart/form-data has no usable boundary.") from None
        self._form = Form({}, [])
        self._segment: MultipartSegment | None = None
        self._name = ""
        self._kept = bytearray()
        self._waiting = b""
        self._lines: _Lines | None = None

    def feed(self, octets: bytes) -> None:
        try:
            for event in self._parser.parse(octets):
                if event is None:
                    self._end()
                elif isinstance(event, MultipartSegment):
                    self._begin(event)
                elif self._lines is not None:
                    self._lines.feed(event)
                elif self._name == "message":
                    self._feed_message(event)
                else:
                    self._kept += event
        except ParserLimitReached:
            raise BadRequest("The multipart body has too many parts, or too large part headers.") from None
        except MultipartError as error:
            raise BadRequest(f"The multipart body is malformed: {error}") from None

    def finish(self) -> Form:
        try:
            self._parser.close()
        except MultipartError:
            raise BadRequest("The multipart body is not complete.") from None
        return self._form

    def _begin(self, segment: MultipartSegment) -> None:
        self._segment = segment
        self._name = _name(segment.name or "")
        self._lines = _Lines() if self._name in _FILES else None

    def _feed_message(self, octets: bytes) -> None:
        """Keep more of a ready-made message, its line ends mended; a CR at the end waits for what follows."""
        octets = self._waiting + octets
        self._waiting = octets[-1:] if octets[-1:] == b"\r" else b""
        self._kept += crlf_octets(octets[:-1] if self._waiting else octets)

    def _end(self) -> None:
        segment, name = self._segment, self._name
        assert segment is not None
        if self._lines is not None:
            lines, size = self._lines.finish()
            filename = _file_name(segment)
            if size or filename:
                kind = segment.header("Content-Type", "") or ""
                self._form.uploads.append(Upload(name, filename, kind, size, lines))
        elif name == "message":
            if self._waiting:
                self._kept += b"\r\n"
                self._waiting = b""
            self._form.message = self._kept
            self._kept = bytearray()
        else:
            value = _text(name, self._kept, segment.charset or "utf-8")
            self._form.fields.setdefault(name, []).append(value)
            self._kept.clear()


def _file_name(segment: MultipartSegment) -> str:
    """A file's name. RFC 7578 knows one way to write it; mail libraries write those of mail."""
    given = segment.header("Content-Disposition", "") or ""
    return file_name(given) if "*" in given or "=?" in given else segment.filename or ""


class _Lines:
    """A file on its way into base64 lines."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, octets: bytes) -> None:
        self._size += len(octets)
        if self._rest:
            octets = self._rest + octets
        cut = len(octets) - len(octets) % BASE64_STRIDE
        if cut:
            self._lines.append(base64_lines(memoryview(octets)[:cut]))
        self._rest = octets[cut:]

    def finish(self) -> tuple[list[bytes], int]:
        if self._rest:
            self._lines.append(base64_lines(self._rest))
        return self._lines, self._size


def _sniffed(body: bytes) -> Form:
    """A body that did not say it is multipart."""
    first = body[:1]
    if first in (b"{", b" ", b"\n", b"\r", b"\t") and body.lstrip()[:1] == b"{":
        fields = _json(body)
    elif first == b"-" and body[:2] == b"--" and b"\r\n" in body[:204]:
        parts = _Parts(body[2 : body.index(b"\r\n")].decode("latin-1"))
        parts.feed(body)
        return parts.finish()
    else:
        fields = _urlencoded(body)
    message = fields.pop("message", None)
    return Form(fields, [], crlf_octets(message[0].encode("utf-8", "replace")) if message else None)


def _urlencoded(octets: bytes) -> dict[str, list[str]]:
    pairs = octets.replace(b"+", b" ").split(b"&", FIELDS_MAX)
    if len(pairs) > FIELDS_MAX:
        raise BadRequest(f"The request has more than {FIELDS_MAX} fields.")
    fields: dict[str, list[str]] = {}
    name = ""
    try:
        for pair in pairs:
            if not pair:
                continue
            left, _, right = pair.partition(b"=")
            name = _COMMON.get(left) or _name(_unquoted(left))
            value = right.decode() if b"%" not in right else _unquoted(right)
            if name in fields:
                fields[name].append(value)
            else:
                fields[name] = [value]
    except UnicodeDecodeError:
        raise BadRequest(f"Parameter {name or '(a name)'} or the one after it is not valid UTF-8.") from None
    return fields


def _unquoted(octets: bytes) -> str:
    """Undo the percent encoding.

    It is quoted-printable but for its sign, and that has a decoder in C. Where the two differ (line ends as they are,
    signs that begin no escape, which the length betrays) the octets go the slow way.
    """
    escapes = octets.count(b"%")
    if not escapes:
        return octets.decode()
    if b"\n" not in octets and b"\r" not in octets:
        content = binascii.a2b_qp(octets.replace(b"=", b"=3D").replace(b"%", b"="))
        if len(content) == len(octets) - 2 * escapes:
            return content.decode()
    return unquote_to_bytes(octets).decode()


def _json(octets: bytes) -> dict[str, list[str]]:
    """A JSON object as a form; arrays are repeated fields, and what is in them stays as it was written."""
    try:
        content = _OBJECT.decode(octets)
        if len(content) > FIELDS_MAX:
            raise BadRequest(f"The request has more than {FIELDS_MAX} fields.")
        fields: dict[str, list[str]] = {}
        for given, value in content.items():
            name = _name(given)
            texts = _json_texts(name, bytes(value))
            if texts:
                fields.setdefault(name, []).extend(texts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The request is not a JSON object: {error}") from None
    return fields


def _json_texts(name: str, octets: bytes) -> list[str]:
    """A JSON value as a form would have held it."""
    if octets[:1] != b"[":
        return [_json_text(octets)] if octets != b"null" else []
    # An upper bound before anything is built: an object for each comma takes thirty times the octets.
    if octets.count(b",") > ARRAY_COMMAS_MAX:
        raise BadRequest(f"Parameter {name} is an array with more than {ARRAY_COMMAS_MAX} commas.")
    values = _ARRAY.decode(octets)
    if len(values) > FIELDS_MAX:
        raise BadRequest(f"Parameter {name} has more than {FIELDS_MAX} values.")
    return [_json_text(value) for value in map(bytes, values) if value != b"null"]


def _json_text(octets: bytes) -> str:
    first = octets[:1]
    if first == b'"':
        return _STRING.decode(octets)
    if first == b"t":
        return "yes"
    return "no" if first == b"f" else octets.decode()


def _name(given: str) -> str:
    if given[-1:] == "]":
        given = _INDEX.sub("", given)
    if len(given) > NAME_OCTETS_MAX:
        raise BadRequest(f"A parameter's name is longer than {NAME_OCTETS_MAX} characters.")
    return given


def _text(name: str, octets: bytearray, charset: str) -> str:
    try:
        return charsets.decoded(octets, charset, errors="strict")
    except (LookupError, ValueError):
        raise BadRequest(f"Parameter {name} is not valid {charset[:40]!r} text.") from None
