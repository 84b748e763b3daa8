"""Writes a message's header section; in a batch, fields with placeholders become slots."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pigeonry.compose import template
from pigeonry.domain.errors import BadAddress
from pigeonry.protocol.mime.addresses import format_list, show_address
from pigeonry.protocol.mime.builder import Slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.compose.author import Author
    from pigeonry.compose.settings import Settings
    from pigeonry.protocol.mime.addresses import Address
    from pigeonry.protocol.mime.builder import Piece

__all__ = ["HeadWriter"]


class HeadWriter:
    """A header section on its way.

    Args:
        batch: Whether placeholders are filled in for each recipient; without, they are ordinary text.
    """

    def __init__(self, *, batch: bool) -> None:
        self.pieces: list[Piece] = []
        self._batch = batch

    def raw(self, octets: bytes) -> None:
        """Write a complete field, or nothing."""
        self.pieces.append(octets)

    def text(self, name: str, value: str, *, addresses: bool = False) -> None:
        """Write an unstructured field, or one that lists addresses."""
        if self._batch and template.has_placeholder(value):
            self.pieces.append(Slot(template.ADDRESSES if addresses else template.HEADER, value, name))
            return
        try:
            self.pieces.append(template.header(name, value, addresses=addresses))
        except BadAddress as error:
            raise BadAddress(f"Parameter h:{name}: {error.text}") from None

    def author(self, author: Author) -> None:
        """Write ``From``."""
        if self._batch:
            self.addresses("From", author.addresses)
        else:
            self.pieces.append(author.field)

    def addresses(self, name: str, addresses: Sequence[Address]) -> None:
        """Write a field of addresses."""
        if self._batch and any(template.has_placeholder(a.display) or "%" in a.mailbox for a in addresses):
            self.text(name, ", ".join(map(show_address, addresses)), addresses=True)
        else:
            octets = name.encode("ascii")
            self.pieces.append(b"%b: %b\r\n" % (octets, format_list(addresses, column=len(octets) + 2)))

    def to(self, addresses: Sequence[Address]) -> None:
        """Write ``To``: everybody, or in a batch the recipient alone."""
        if self._batch:
            self.pieces.append(Slot(template.RECIPIENT, "", "To"))
        else:
            self.pieces.append(b"To: %b\r\n" % format_list(addresses, column=4))

    def json(self, name: str, value: str) -> None:
        """Write a field that holds a JSON document."""
        if self._batch and template.has_placeholder(value):
            self.pieces.append(Slot(template.JSON_HEADER, value, name))
        else:
            octets = name.encode("ascii")
            self.pieces.append(b"%b: %b\r\n" % (octets, template.json_value(value, column=len(octets) + 2)))

    def annotations(self, settings: Settings) -> None:
        """Write tags and user variables, which stay in the delivered message unless suppressed."""
        if settings.variables and settings.shows("x-mailgun-variables"):
            self.json("X-Mailgun-Variables", json.dumps(settings.variables, ensure_ascii=False))
        if settings.tags and settings.shows("x-mailgun-tag"):
            for tag in settings.tags:
                self.raw(b"X-Mailgun-Tag: %b\r\n" % tag.encode("ascii"))
