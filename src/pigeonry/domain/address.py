"""Mailboxes as SMTP routes by them.

Standards: RFC 5321 section 4.1.2 (grammar), 4.5.3.1 (limits); RFC 6531 section 3.3 (UTF-8 local parts);
RFC 5890 (IDNA A-labels).
Trust: every octet comes from outside. A CR, LF or NUL can never get through ``parse_mailbox``.
"""

from __future__ import annotations

import re
from typing import Final

import idna

from pigeonry.domain.errors import BadAddress

__all__ = [
    "DOMAIN_OCTETS_MAX",
    "LOCAL_PART_OCTETS_MAX",
    "PATH_OCTETS_MAX",
    "ascii_domain",
    "domain_of",
    "parse_mailbox",
]

LOCAL_PART_OCTETS_MAX: Final = 64  # RFC 5321 section 4.5.3.1.1
DOMAIN_OCTETS_MAX: Final = 255  # RFC 5321 section 4.5.3.1.2
PATH_OCTETS_MAX: Final = 256  # RFC 5321 section 4.5.3.1.3, with the angle brackets

_ATEXT: Final = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_COMMON: Final = re.compile(
    rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
)
_DOT_STRING: Final = re.compile(rf"[{_ATEXT}\u0080-\U0010ffff]+(?:\.[{_ATEXT}\u0080-\U0010ffff]+)*")
_QUOTED: Final = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\u0080-\U0010ffff]|\\[\x20-\x7e])*"')
_LABELS: Final = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
)
_LITERAL: Final = re.compile(r"\[(?:\d{1,3}(?:\.\d{1,3}){3}|IPv6:[0-9A-Fa-f:.]{2,45})\]")
_LABEL_OCTETS_MAX: Final = 63  # RFC 1035 section 2.3.4


def ascii_domain(text: str) -> str:
    """The domain in lower case with IDNA A-labels, or an address literal as given.

    Raises:
        BadAddress: Not a domain name or address literal.
    """
    if text.startswith("["):
        if _LITERAL.fullmatch(text):
            return text
        raise BadAddress("The address literal is malformed.")
    domain = text
    if not text.isascii():
        try:
            domain = idna.encode(text, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise BadAddress("The domain is not a valid internationalised name.") from None
    if len(domain) > DOMAIN_OCTETS_MAX or not _LABELS.fullmatch(domain):
        raise BadAddress("The domain is malformed.")
    if any(len(label) > _LABEL_OCTETS_MAX for label in domain.split(".")):
        raise BadAddress("A label of the domain is longer than 63 octets.")
    return domain.lower()


def parse_mailbox(text: str) -> str:
    """A bare ``local-part@domain``, checked, with its domain as ``ascii_domain`` gives it.

    The local part keeps its case and its quotes: only the receiver may say what they mean.

    Raises:
        BadAddress: Not a mailbox; the text says which part is wrong, never repeating the input.
    """
    if len(text) <= LOCAL_PART_OCTETS_MAX and _COMMON.fullmatch(text):
        return text
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise BadAddress("The address has no local part or no domain.")
    if len(local.encode("utf-8", "replace")) > LOCAL_PART_OCTETS_MAX:
        raise BadAddress("The local part is longer than 64 octets.")
    if not (_DOT_STRING.fullmatch(local) or _QUOTED.fullmatch(local)):
        raise BadAddress("The local part is malformed.")
    mailbox = f"{local}@{ascii_domain(domain)}"
    if len(mailbox.encode()) > PATH_OCTETS_MAX - 2:
        raise BadAddress("The address is longer than 254 octets.")
    return mailbox


def domain_of(mailbox: str) -> str:
    """The domain of a mailbox that ``parse_mailbox`` returned."""
    return mailbox[mailbox.rindex("@") + 1 :]
