"""One stored body for a whole batch: what is the same for all is stored and encoded once.

A template is a list of pieces: octets that every recipient gets, and *slots*, texts with placeholders that are
filled in and encoded for one recipient. Attachments are octets, so a batch of a thousand stores them once.

``render`` is a pure function of the stored octets, the address and the variables (invariant I9). ``Checker`` says at
acceptance, for each recipient, that it will succeed: only headers can fail (a line end in a value, an address that
is none), so only headers are tried, and for the rest the length is bounded.

Placeholders: ``%recipient.key%``, ``%recipient%`` (name and address), ``%recipient_email%``, ``%recipient_name%``,
``%recipient_fname%``, ``%recipient_lname%``. A key that the recipient has no variable for stays as it is, and so does
any other ``%``. What is put in is not searched again. Values go into html as they are, without escaping: clients rely
on that.

Stored form, version 1: ``PGT1``, length of the table (4 octets, big endian), the table (msgpack: kind, length, name for
each piece), then the pieces' octets one after the other.

Standards: RFC 2045, RFC 2047, RFC 5322 section 2.2.
Trust: sources and variables come from outside; nothing that ``Checker`` passed can put a line end into a header.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import BadAddress, BadRequest, Fault
from pigeonry.protocol.mime.addresses import Address, format_address, format_list, parse_list, show_address
from pigeonry.protocol.mime.builder import Piece, Slot, base64_lines, crlf_octets, quoted_printable
from pigeonry.protocol.mime.encoded_words import encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "ADDRESSES",
    "BASE64",
    "HEADER",
    "JSON_HEADER",
    "NAME_KEY",
    "QUOTED_PRINTABLE",
    "RECIPIENT",
    "TO_KEY",
    "Checker",
    "filled_json",
    "has_placeholder",
    "header",
    "json_value",
    "pieces_of",
    "placeholder_keys",
    "places",
    "render",
    "stored",
]

OCTETS: Final = 0
"""The same for all."""
HEADER: Final = 1
"""An unstructured header."""
ADDRESSES: Final = 2
"""A header that lists addresses."""
QUOTED_PRINTABLE: Final = 3
"""Text to be encoded as quoted-printable."""
BASE64: Final = 4
"""Text to be encoded as base64."""
RECIPIENT: Final = 5
"""The ``To`` header that shows the recipient alone."""
JSON_HEADER: Final = 6
"""A header that holds JSON: its strings are filled in."""

RENDERED_OCTETS_MAX: Final = 26_214_400  # of all slots together, before encoding: a message's own limit
HEADS_OCTETS_MAX: Final = 131_072  # of one recipient's headers with placeholders: what a header section may have
CHECKED_OCTETS_MAX: Final = 16_777_216  # of all recipients' such headers, which are all made before the answer: 0.2 s
PLACEHOLDERS_MAX: Final = 1_000  # different ones; each is looked up for each of a thousand recipients
NAME_KEY: Final = "%name%"  # in a recipient's variables: its display name; no placeholder can spell a "%"
TO_KEY: Final = "%to%"  # in a copy's variables: whose copy it is

_MAGIC: Final = b"PGT1"
_PLACEHOLDER: Final = re.compile(r"%recipient(?:\.([^%\r\n]{1,256})|_(email|name|fname|lname))?%")
# The same in a JSON document, escaped as its strings are: it cannot go beyond the end of one.
_JSON_PLACEHOLDER: Final = re.compile(
    r"%recipient(?:\.(?:[^%\x00-\x1f\"\\]|\\u[0-9a-fA-F]{4}|\\[^u]){1,256}|_(?:email|name|fname|lname))?%"
)
_BREAKS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TABLE: Final = msgspec.msgpack.Decoder(list[tuple[int, int, str]])
_VARIABLES: Final = msgspec.json.Decoder(dict[str, str])


def has_placeholder(text: str) -> bool:
    """Whether anything in the text is to be filled in."""
    return "%recipient" in text and _PLACEHOLDER.search(text) is not None


def stored(pieces: Sequence[Piece]) -> list[bytes | bytearray | memoryview]:
    """The octets to be stored, in pieces; those of attachments are not copied."""
    table: list[tuple[int, int, str]] = []
    out: list[bytes | bytearray | memoryview] = []
    for piece in pieces:
        if isinstance(piece, Slot):
            source = piece.source.encode("utf-8", "replace")
            table.append((piece.kind, len(source), piece.name))
            out.append(source)
            continue
        if table and table[-1][0] == OCTETS:
            table[-1] = (OCTETS, table[-1][1] + len(piece), "")
        else:
            table.append((OCTETS, len(piece), ""))
        out.append(piece)
    encoded = msgspec.msgpack.encode(table)
    return [_MAGIC + len(encoded).to_bytes(4) + encoded, *out]


def pieces_of(octets: bytes) -> Iterator[memoryview | Slot]:
    """Read what ``stored`` wrote.

    Raises:
        Fault: The octets are no template of a version we know.
    """
    view = memoryview(octets)
    if octets[:4] != _MAGIC:
        raise Fault("The stored message cannot be read.")
    start = 8 + int.from_bytes(octets[4:8])
    for kind, length, name in _TABLE.decode(view[8:start]):
        piece = view[start : start + length]
        start += length
        yield piece if kind == OCTETS else Slot(kind, str(piece, "utf-8"), name)


def render(stored: bytes, *, address: str, variables: bytes) -> bytes:
    """The message for one recipient: CRLF line ends, neither dot-stuffed nor terminated.

    Args:
        stored: The body as the store keeps it.
        address: The forward-path.
        variables: As ``NewRecipient.variables`` keeps them.

    Raises:
        Fault: The octets are no template; never for a template and variables that ``Checker`` passed.
    """
    values = _values(address, variables)
    try:
        return b"".join([_filled(p, values) if isinstance(p, Slot) else p for p in pieces_of(stored)])
    except (BadRequest, BadAddress) as error:
        raise Fault("The stored message cannot be rendered.") from error


class Checker:
    """Says for one recipient after the other whether rendering will succeed.

    Args:
        pieces: The message.

    Raises:
        BadRequest: There are more than a thousand different placeholders.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        slots = [piece for piece in pieces if isinstance(piece, Slot)]
        self._headers = [slot for slot in slots if slot.kind in (HEADER, ADDRESSES, JSON_HEADER)]
        self._source, self._counts = _measured(slots)
        self._head_source, self._head_counts = _measured(self._headers)
        self._checked = 0
        self._keys = frozenset(found[11:-1] for found in self._counts if found.startswith("%recipient."))

    @property
    def keys(self) -> frozenset[str]:
        """The keys that the message asks for: what else a recipient has need not be kept."""
        return self._keys

    @property
    def places(self) -> int:
        """How many places checking one recipient fills in or looks up."""
        return len(self._counts) + sum(self._head_counts.values())

    def check(self, *, address: str, variables: bytes) -> None:
        """Check one recipient.

        Raises:
            BadRequest: Its message could not be rendered; the text names the header and the recipient.
        """
        values = _values(address, variables)
        if self._source + _filling(self._counts, values) > RENDERED_OCTETS_MAX:
            raise BadRequest(f"recipient-variables make the message for {address} larger than 25 MiB.")
        length = self._head_source + _filling(self._head_counts, values)
        if length > HEADS_OCTETS_MAX:
            raise BadRequest(f"recipient-variables make the headers of {address} larger than 128 KiB.")
        self._checked += length
        if self._checked > CHECKED_OCTETS_MAX:
            raise BadRequest("recipient-variables make the headers of all recipients together larger than 16 MiB.")
        for slot in self._headers:
            try:
                _filled(slot, values)
            except (BadRequest, BadAddress) as error:
                raise BadRequest(f"recipient-variables of {address} do not fit into {slot.name}: {error}") from None


def _measured(slots: Sequence[Slot]) -> tuple[int, dict[str, int]]:
    """How long slots are, and how often each placeholder is in them."""
    counts: dict[str, int] = {}
    for slot in slots:
        for placeholder in _placeholders(slot):
            counts[placeholder] = counts.get(placeholder, 0) + 1
            if len(counts) > PLACEHOLDERS_MAX:
                raise BadRequest(f"The message has more than {PLACEHOLDERS_MAX} different recipient variables.")
    return sum(len(slot.source) for slot in slots), counts


def _placeholders(slot: Slot) -> Iterator[str]:
    if slot.kind == JSON_HEADER:
        return (json.loads(f'"{found[0]}"') for found in _JSON_PLACEHOLDER.finditer(slot.source))
    return (found[0] for found in _PLACEHOLDER.finditer(slot.source))


def _filling(counts: Mapping[str, int], values: Mapping[str, str]) -> int:
    """How long everything is that placeholders are filled with."""
    return sum(n * len(_value(placeholder, values)) for placeholder, n in counts.items())


def json_value(value: str, *, column: int) -> bytes:
    """A JSON document as a header's value: in ASCII by JSON's own escapes, folded.

    Args:
        value: The document.
        column: Octets on the line before it.
    """
    ascii_only = value if value.isascii() else "".join(c if c < "\x80" else json.dumps(c)[1:-1] for c in value)
    return encode(ascii_only, column=column)


def places(document: str) -> int:
    """How many placeholders a JSON document has."""
    return sum(1 for _ in _JSON_PLACEHOLDER.finditer(document))


def placeholder_keys(document: str) -> set[str]:
    """The keys of recipient variables that a JSON document asks for."""
    found = (json.loads(f'"{each[0]}"') for each in _JSON_PLACEHOLDER.finditer(document))
    return {placeholder[11:-1] for placeholder in found if placeholder.startswith("%recipient.")}


def filled_json(document: str, *, address: str, variables: bytes) -> str:
    """A JSON document, its strings filled in for one recipient."""
    return _filled_json(document, _values(address, variables))


def _filled_json(document: str, values: Mapping[str, str]) -> str:
    escaped = {_escaped(placeholder): _escaped(value) for placeholder, value in values.items()}
    return _JSON_PLACEHOLDER.sub(lambda found: escaped.get(found[0], found[0]), document)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _values(address: str, variables: bytes) -> dict[str, str]:
    """What the placeholders stand for, by their text without the percent signs and the word ``recipient``."""
    given = _VARIABLES.decode(variables) if variables else {}
    name = given.pop(NAME_KEY, "")
    email = given.pop(TO_KEY, address)
    first, _, last = name.partition(" ")
    values = {f"%recipient.{key}%": value for key, value in given.items()}
    values["%recipient%"] = f"{name} <{email}>" if name else email
    values["%recipient_email%"] = email
    values["%recipient_name%"] = name
    values["%recipient_fname%"] = first
    values["%recipient_lname%"] = last.strip()
    return values


def _value(placeholder: str, values: Mapping[str, str]) -> str:
    return values.get(placeholder, placeholder)


def _substituted(source: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values.get(found[0], found[0]), source)


def _text(source: str, values: Mapping[str, str]) -> bytes:
    """Text for a body: a value may bring line ends of any kind."""
    return crlf_octets(_substituted(source, values).encode("utf-8", "replace"))


def _filled(slot: Slot, values: Mapping[str, str]) -> bytes:
    kind = slot.kind
    if kind == QUOTED_PRINTABLE:
        return quoted_printable(_text(slot.source, values))
    if kind == BASE64:
        return base64_lines(_text(slot.source, values))
    name = slot.name.encode("ascii")
    column = len(name) + 2
    if kind == RECIPIENT:
        to = Address(values["%recipient_email%"], values["%recipient_name%"])
        return b"%b: %b\r\n" % (name, format_address(to))
    if kind == JSON_HEADER:
        return b"%b: %b\r\n" % (name, json_value(_filled_json(slot.source, values), column=column))
    if kind not in (HEADER, ADDRESSES):
        raise Fault("The stored message cannot be read.")
    if kind == ADDRESSES:
        shown = show_address(Address(values["%recipient_email%"], values["%recipient_name%"]))
        values = {**values, "%recipient%": shown}
    return header(slot.name, _substituted(slot.source, values), addresses=kind == ADDRESSES)


def header(name: str, text: str, *, addresses: bool = False) -> bytes:
    """A header field with its CRLF.

    Args:
        name: The field's name.
        text: Its value.
        addresses: Whether it lists addresses: encoded words may then stand in names only.

    Raises:
        BadRequest: The text holds a line end or another control character.
        BadAddress: It holds characters beyond ASCII and is no address list, so that it cannot be encoded.
    """
    if not text.isprintable() and _BREAKS.search(text):
        raise BadRequest("The value holds a line end or another control character.")
    octets = name.encode("ascii")
    column = len(octets) + 2
    if addresses and not text.isascii():
        return b"%b: %b\r\n" % (octets, format_list(parse_list(text), column=column))
    return b"%b: %b\r\n" % (octets, encode(text, column=column))
