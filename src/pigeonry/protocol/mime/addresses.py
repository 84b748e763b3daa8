"""Address lists as people and programs write them, and as a header shows them.

Reads comma lists of ``local@domain`` and ``Name <local@domain>``: quoted names, comments, UTF-8, encoded words,
internationalised domains, and the common fault of an unquoted name with ``@`` or ``.`` in it. Refuses groups and source
routes. Duplicates are the caller's business.

Standards: RFC 5322 sections 3.2, 3.4 and 4.4; RFC 6532 (UTF-8); RFC 2047 section 5 (encoded words in phrases).
Trust: takes anything; what comes out holds no CR, LF or NUL, and its mailbox went through ``parse_mailbox``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.address import parse_mailbox
from pigeonry.domain.errors import BadAddress
from pigeonry.protocol.mime.encoded_words import LINE_OCTETS_WISHED, decode, words

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Address", "format_address", "format_list", "parse_list", "show_address"]

DISPLAY_CHARACTERS_MAX: Final = 512  # nobody's name; keeps a header in bounds
ADDRESSES_MAX: Final = 4_096  # of one list: four times what a message may have, for duplicates are not counted
_SHOWN_CHARACTERS_MAX: Final = 100  # of a bad address, in its error
_PLAIN: Final = re.compile(r"[^\s\"<>(),:;\\]+")
_NAMED: Final = re.compile(r"([^\"<>(),:;\\\x00-\x1f\x7f]*)<([^\s\"<>(),:;\\]+)>")
_PHRASE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_MARKS: Final = re.compile(r'[\\"(),<>]')
_SPACES: Final = re.compile(r"\s+")


class Address(msgspec.Struct, frozen=True, gc=False):
    """A mailbox and the name shown beside it.

    Args:
        mailbox: As ``parse_mailbox`` returns it.
        display: The name, decoded; empty when there is none.
    """

    mailbox: str
    display: str = ""


def parse_list(text: str) -> list[Address]:
    """The addresses of a comma list; empty items are passed over.

    Raises:
        BadAddress: One of them is not a valid address; the text shows which, and why.
    """
    text = text.strip(" \t")
    if _PLAIN.fullmatch(text):
        return [_address(text, "", shown=text)]
    found = _NAMED.fullmatch(text)
    if found is not None:
        return [_address(found[2], found[1].strip(), shown=text)]
    if _CONTROLS.search(text):
        raise _bad(text, "It holds a control character.")
    return [_parse_item(item) for item in _split(text) if item.strip()]


def format_address(address: Address) -> bytes:
    """The address as a header shows it, without folding inside (but for a long name in encoded words)."""
    mailbox = address.mailbox.encode()
    display = address.display
    if not display:
        return mailbox
    if _PHRASE.fullmatch(display):
        return b"%b <%b>" % (display.encode("ascii"), mailbox)
    if display.isascii():
        quoted = display.replace("\\", "\\\\").replace('"', '\\"')
        return b'"%b" <%b>' % (quoted.encode("ascii"), mailbox)
    return b"%b <%b>" % (words(display, column=16), mailbox)


def show_address(address: Address) -> str:
    """The address as people read it: nothing encoded, the name quoted where it must be."""
    display = address.display
    if not display:
        return address.mailbox
    if not _PHRASE.fullmatch(display):
        display = '"' + display.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{display} <{address.mailbox}>"


def format_list(addresses: Iterable[Address], *, column: int) -> bytes:
    """The addresses as a header's value, folded between them.

    Args:
        addresses: At least one.
        column: Octets on the line before the value.
    """
    out = bytearray()
    for address in addresses:
        octets = format_address(address)
        if out:
            if column + 2 + len(octets) > LINE_OCTETS_WISHED:
                out += b",\r\n "
                column = 1
            else:
                out += b", "
                column += 2
        out += octets
        column += len(octets)
    return bytes(out)


def _address(mailbox: str, display: str, *, shown: str) -> Address:
    try:
        checked = parse_mailbox(mailbox)
    except BadAddress as error:
        raise _bad(shown, error.text) from None
    if not display:
        return Address(checked)
    if "=?" in display:
        display = _CONTROLS.sub("", decode(display.encode()))
    if len(display) > DISPLAY_CHARACTERS_MAX:
        raise _bad(shown, f"The name is longer than {DISPLAY_CHARACTERS_MAX} characters.")
    return Address(checked, display)


def _split(text: str) -> list[str]:
    """Cut at the commas that are in no quotes, comment or angle brackets."""
    items: list[str] = []
    start = depth = escaped = 0
    quoted = angle = False
    for mark in _MARKS.finditer(text):
        position, character = mark.start(), mark[0]
        if position < escaped:
            pass
        elif character == "\\":
            if quoted or depth:
                escaped = position + 2
        elif character == '"' and not depth:
            quoted = not quoted
        elif quoted:
            pass
        elif character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif depth:
            pass
        elif character in "<>":
            angle = character == "<"
        elif character == "," and not angle:
            items.append(text[start:position])
            start = position + 1
            if len(items) > ADDRESSES_MAX:
                raise BadAddress(f"The list has more than {ADDRESSES_MAX} addresses.")
    if quoted or depth or angle:
        raise _bad(text[start:], "A quote, comment or angle bracket is not closed.")
    items.append(text[start:])
    return items


def _parse_item(item: str) -> Address:
    text = _without_comments(item).strip()
    if text.endswith(">"):
        start = _angle(text)
        if start < 0:
            raise _bad(item, "The angle brackets do not match.")
        return _address(text[start + 1 : -1].strip(), _display(text[:start]), shown=item)
    if text.endswith(";") or (":" in text and not text.startswith('"') and "@[" not in text):
        raise _bad(item, "Groups are not taken: name the mailboxes.")
    return _address(text, "", shown=item)


def _angle(text: str) -> int:
    """Where the last angle bracket outside quotes opens."""
    quoted, position, last = False, 0, -1
    while position < len(text):
        if text[position] == "\\" and quoted:
            position += 1
        elif text[position] == '"':
            quoted = not quoted
        elif text[position] == "<" and not quoted:
            last = position
        position += 1
    return last


def _without_comments(text: str) -> str:
    if "(" not in text:
        return text
    out: list[str] = []
    quoted, depth, position = False, 0, 0
    while position < len(text):
        character = text[position]
        width = 2 if character == "\\" and (quoted or depth) else 1
        if width == 1 and character == '"' and not depth:
            quoted = not quoted
        elif character == "(" and not quoted:
            depth += 1
        if not depth:
            out.append(text[position : position + width])
        elif character == ")" and not quoted:
            depth -= 1
        position += width
    return "".join(out)


def _display(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in _ESCAPED.sub("", text[1:-1]):
        return _ESCAPED.sub(r"\1", text[1:-1])
    return _SPACES.sub(" ", _ESCAPED.sub(r"\1", text).replace('"', ""))


def _bad(shown: str, reason: str) -> BadAddress:
    text = "".join(c if c.isprintable() else "?" for c in shown.strip()[:_SHOWN_CHARACTERS_MAX])
    return BadAddress(f"'{text}' is not a valid address: {reason}")
