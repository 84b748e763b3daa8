"""What SMTP commands say: MAIL, RCPT, AUTH and their parameters, checked octet by octet.

The server core hands the argument of a command in and gets frozen data or ``CommandError`` with the very reply.
Nothing here repeats the peer's octets, so nothing of theirs can break our replies or logs.

Standards: RFC 5321 section 4.1.2 (grammar), RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 section 3.4 (SMTPUTF8),
RFC 3461 sections 4 and 5 (RET, ENVID, NOTIFY, ORCPT), RFC 4954 sections 4 and 5 (AUTH), RFC 4616 (PLAIN).
Trust: every octet comes from the network. What is returned holds no CR, LF, NUL or other control character.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

import msgspec

from pigeonry.domain.address import LOCAL_PART_OCTETS_MAX, parse_mailbox
from pigeonry.domain.errors import BadAddress
from pigeonry.domain.reply import EnhancedStatus, Reply

__all__ = [
    "CommandError",
    "ForwardPath",
    "ReversePath",
    "credential_text",
    "decode_base64",
    "parse_chunk",
    "parse_hello",
    "parse_mail",
    "parse_plain",
    "parse_rcpt",
]

ENVID_OCTETS_MAX: Final = 100  # RFC 3461 section 4.4
ORCPT_OCTETS_MAX: Final = 500  # RFC 3461 section 4.2
SIZE_DIGITS_MAX: Final = 20  # RFC 1870 section 5
CHUNK_DIGITS_MAX: Final = 12  # far over any limit, and still no work to convert
CREDENTIAL_OCTETS_MAX: Final = 255  # RFC 4616 section 2 allows as much for each part

_PATH: Final = rb'<((?:[^<>"\\\s\x00-\x1f\x7f]|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*+")*+)>(?: +([^\r\n\x00]*))?'
_MAIL: Final = re.compile(rb"(?i:FROM): *" + _PATH)
_RCPT: Final = re.compile(rb"(?i:TO): *" + _PATH)
_ATEXT: Final = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*+"
_LABEL: Final = rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The form that nearly every path has: matched in one go, it needs no further check but its length.
_COMMON: Final = rb"<(" + _ATEXT + rb"@" + _LABEL + rb"(?:\." + _LABEL + rb")*+)>"
_COMMON_MAIL: Final = re.compile(rb"(?i:FROM):" + _COMMON)
_COMMON_RCPT: Final = re.compile(rb"(?i:TO):" + _COMMON)
_SOURCE_ROUTE: Final = re.compile(r"@[^:,@]+(?:,@[^:,@]+)*:")
_HELLO: Final = re.compile(rb"[\x21-\x7e]{1,255}")  # a domain's length, RFC 5321 section 4.5.3.1.2
_KEYWORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_ORCPT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*;(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_NOTIFY: Final = frozenset({"SUCCESS", "FAILURE", "DELAY"})
_SYNTAX: Final = EnhancedStatus(5, 4)


class CommandError(Exception):
    """A command that cannot be obeyed as it was written.

    Args:
        reply: What to answer.
    """

    def __init__(self, code: int, status: EnhancedStatus, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, text, status)


class ReversePath(msgspec.Struct, frozen=True, gc=False):
    """What MAIL said.

    Args:
        mailbox: Where failures go; empty is the null reverse-path.
        size: Octets announced by SIZE=, 0 when none were.
        body: ``7BIT`` or ``8BITMIME``; empty when not said.
        smtputf8: Whether the SMTPUTF8 parameter was given.
        ret: ``FULL``, ``HDRS`` or empty (RFC 3461).
        envid: ENVID in xtext as it came, or empty.
    """

    mailbox: str
    size: int = 0
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


class ForwardPath(msgspec.Struct, frozen=True, gc=False):
    """What RCPT said.

    Args:
        mailbox: The recipient.
        notify: ``NEVER`` or a list of ``SUCCESS``, ``FAILURE``, ``DELAY``; empty when not said.
        orcpt: ORCPT as it came (``rfc822;xtext``), or empty.
    """

    mailbox: str
    notify: str = ""
    orcpt: str = ""


def parse_hello(argument: bytes) -> str:
    """The name a client gives itself: printable ASCII without spaces, not looked up, not believed.

    Raises:
        CommandError: 501, there is none or it is no name.
    """
    name = argument.strip(b" ")
    if not _HELLO.fullmatch(name):
        raise CommandError(501, _SYNTAX, "Say your domain name or address literal")
    return name.decode("ascii")


def parse_mail(argument: bytes) -> ReversePath:
    """What follows ``MAIL``.

    Raises:
        CommandError: 501 for syntax, 553 for an address, 555 for a parameter we do not know.
    """
    if len(argument) <= LOCAL_PART_OCTETS_MAX and (common := _COMMON_MAIL.fullmatch(argument)):
        return ReversePath(common[1].decode("ascii"))
    match = _MAIL.fullmatch(argument)
    if match is None:
        raise CommandError(501, _SYNTAX, "Syntax: MAIL FROM:<address>")
    path, parameters = match.groups()
    if parameters is None:
        return ReversePath(_mailbox(path, smtputf8=False, detail=7) if path else "")
    return _reverse_path(path, _parameters(parameters))


def parse_rcpt(argument: bytes, *, smtputf8: bool, hostname: str) -> ForwardPath:
    """What follows ``RCPT``.

    Args:
        smtputf8: Whether MAIL asked for SMTPUTF8.
        hostname: Whose ``<postmaster>`` is meant where no domain stands (RFC 5321 section 4.5.1).

    Raises:
        CommandError: 501 for syntax, 553 for an address, 555 for a parameter we do not know.
    """
    if len(argument) <= LOCAL_PART_OCTETS_MAX and (common := _COMMON_RCPT.fullmatch(argument)):
        return ForwardPath(common[1].decode("ascii"))
    match = _RCPT.fullmatch(argument)
    if match is None:
        raise CommandError(501, _SYNTAX, "Syntax: RCPT TO:<address>")
    path, parameters = match.groups()
    if path.lower() == b"postmaster":
        path += b"@" + hostname.encode("ascii")
    mailbox = _mailbox(path, smtputf8=smtputf8, detail=3)
    if parameters is None:
        return ForwardPath(mailbox)
    return _forward_path(mailbox, _parameters(parameters))


def _mailbox(path: bytes, *, smtputf8: bool, detail: int) -> str:
    """The mailbox in a path, without a source route (RFC 5321 appendix C: accepted and ignored)."""
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(553, EnhancedStatus(1, detail), "The address is not valid UTF-8") from None
    if not smtputf8 and not text.isascii():
        raise CommandError(553, EnhancedStatus(6, 7), "An address beyond ASCII needs the SMTPUTF8 parameter of MAIL")
    if text.startswith("@"):
        text = _SOURCE_ROUTE.sub("", text, count=1)
    try:
        return parse_mailbox(text)
    except BadAddress as error:
        raise CommandError(553, EnhancedStatus(1, detail), error.text) from None


def _parameters(octets: bytes) -> dict[str, str]:
    """ESMTP parameters by keyword in upper case, each at most once; the value is empty where there is none."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(501, _SYNTAX, "A parameter is not valid UTF-8") from None
    found: dict[str, str] = {}
    for word in text.split():
        keyword, equals, value = word.partition("=")
        name = keyword.upper()
        if not _KEYWORD.fullmatch(keyword) or (equals and not value) or not value.isprintable():
            raise CommandError(501, _SYNTAX, "A parameter is malformed")
        if name in found:
            raise CommandError(501, _SYNTAX, "A parameter is given twice")
        found[name] = value
    return found


def _reverse_path(path: bytes, parameters: dict[str, str]) -> ReversePath:
    size, body, ret, envid = 0, "", "", ""
    smtputf8 = False
    for name, value in parameters.items():
        if name == "SIZE":
            size = _size(value)
        elif name == "BODY":
            body = _one_of(value, ("7BIT", "8BITMIME"), "BODY is 7BIT or 8BITMIME")
        elif name == "SMTPUTF8":
            if value:
                raise CommandError(501, _SYNTAX, "SMTPUTF8 takes no value")
            smtputf8 = True
        elif name == "RET":
            ret = _one_of(value, ("FULL", "HDRS"), "RET is FULL or HDRS")
        elif name == "ENVID":
            envid = _xtext(value, _XTEXT, ENVID_OCTETS_MAX, "ENVID is at most 100 characters of xtext")
        elif name == "AUTH":
            # Whoever submits is who we answer to; another server's word on the first submitter is checked
            # for form and not believed (RFC 4954 section 5 asks no more of us).
            _xtext(value, _XTEXT, CREDENTIAL_OCTETS_MAX, "AUTH is <> or xtext") if value != "<>" else None
        else:
            raise CommandError(555, _SYNTAX, "A parameter of MAIL is not supported")
    mailbox = _mailbox(path, smtputf8=smtputf8, detail=7) if path else ""
    return ReversePath(mailbox, size, body, smtputf8, ret, envid)


def _forward_path(mailbox: str, parameters: dict[str, str]) -> ForwardPath:
    notify, orcpt = "", ""
    for name, value in parameters.items():
        if name == "NOTIFY":
            notify = value.upper()
            if notify != "NEVER" and not _NOTIFY.issuperset(notify.split(",")):
                raise CommandError(501, _SYNTAX, "NOTIFY is NEVER or a list of SUCCESS, FAILURE and DELAY")
        elif name == "ORCPT":
            orcpt = _xtext(value, _ORCPT, ORCPT_OCTETS_MAX, "ORCPT is an address type, a semicolon and xtext")
        else:
            raise CommandError(555, _SYNTAX, "A parameter of RCPT is not supported")
    return ForwardPath(mailbox, notify, orcpt)


def parse_chunk(argument: bytes) -> tuple[int, bool]:
    """What follows ``BDAT``: how many octets, and whether they are the last.

    Raises:
        CommandError: 501 for syntax. Where the chunk ends is then not known.
    """
    size, _, last = argument.strip(b" ").partition(b" ")
    if not size.isdigit() or len(size) > CHUNK_DIGITS_MAX or last.strip(b" ").upper() not in {b"", b"LAST"}:
        raise CommandError(501, _SYNTAX, "Syntax: BDAT octets [LAST]")
    return int(size), bool(last.strip(b" "))


def _size(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > SIZE_DIGITS_MAX:
        raise CommandError(501, _SYNTAX, "SIZE is a number of octets")
    return int(value)


def _one_of(value: str, choices: tuple[str, ...], text: str) -> str:
    chosen = value.upper()
    if chosen not in choices:
        raise CommandError(501, _SYNTAX, text)
    return chosen


def _xtext(value: str, pattern: re.Pattern[str], octets_max: int, text: str) -> str:
    if len(value) > octets_max or not pattern.fullmatch(value):
        raise CommandError(501, _SYNTAX, text)
    return value


def decode_base64(line: bytes) -> bytes:
    """One AUTH response, where ``=`` stands for an empty one (RFC 4954 section 4).

    Raises:
        CommandError: 501, it is not base64.
    """
    if line == b"=":
        return b""
    try:
        return binascii.a2b_base64(line, strict_mode=True)
    except binascii.Error:
        raise CommandError(501, EnhancedStatus(5, 2), "The response is not base64") from None


def credential_text(octets: bytes) -> str:
    """A login or password as text.

    Raises:
        CommandError: 501, it is empty, too long, not UTF-8, or holds a NUL.
    """
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text or len(octets) > CREDENTIAL_OCTETS_MAX or "\0" in text:
        raise CommandError(501, EnhancedStatus(5, 2), "The credentials are malformed")
    return text


def parse_plain(response: bytes) -> tuple[str, str]:
    """Login and password of a PLAIN response; acting for another (authzid) is refused.

    Raises:
        CommandError: 501 for syntax, 535 for another's identity.
    """
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise CommandError(501, EnhancedStatus(5, 2), "The credentials are malformed")
    login, password = credential_text(parts[1]), credential_text(parts[2])
    if parts[0] not in {b"", parts[1]}:
        raise CommandError(535, EnhancedStatus(7, 8), "Acting for another identity is not supported")
    return login, password
