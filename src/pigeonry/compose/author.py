"""Who a message is from: read and written once for all messages that say the same, as most of a sender do."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.compose.recipients import read_addresses
from pigeonry.domain.errors import BadRequest
from pigeonry.protocol.mime.addresses import Address, format_list

if TYPE_CHECKING:
    from pigeonry.compose.form import Form

__all__ = ["Author", "author_of"]

AUTHORS_KEPT: Final = 1_024  # some 1 KB each with what is made of it
KEPT_CHARACTERS_MAX: Final = 320  # of a parameter that is kept: one address with a name, or a few


class Author(msgspec.Struct, frozen=True, gc=False):
    """What is made of the parameter ``from``.

    Args:
        text: As given.
        addresses: At least one.
        field: The ``From`` header with its CRLF.
    """

    text: str
    addresses: tuple[Address, ...]
    field: bytes


def author_of(form: Form) -> Author:
    """The author that a request names.

    Raises:
        BadRequest: It names none, or is too long.
        BadAddress: An address is not valid.
    """
    text = form.joined("from")
    return _kept(text) if len(text) <= KEPT_CHARACTERS_MAX else _read(text)


def _read(text: str) -> Author:
    addresses = read_addresses(text, parameter="from")
    if not addresses:
        raise BadRequest("Parameter from is missing.")
    return Author(text, tuple(addresses), b"From: %b\r\n" % format_list(addresses, column=6))


_kept = lru_cache(AUTHORS_KEPT)(_read)
