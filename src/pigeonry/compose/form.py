"""What a client asked for, in one shape whatever it was written in: fields by name, files, a ready-made message."""

from __future__ import annotations

import msgspec

__all__ = ["Form", "Upload"]


class Upload(msgspec.Struct):
    """A file that came with a request, already in the form in which it will leave.

    Args:
        field: ``attachment`` or ``inline``.
        filename: As given; may be empty.
        content_type: As given; may be empty.
        size: Octets, decoded.
        lines: Its base64 lines, in pieces.
    """

    field: str
    filename: str
    content_type: str
    size: int
    lines: list[bytes]


class Form(msgspec.Struct):
    """A request's parameters.

    Args:
        fields: Values by name, in the order in which they came. Names have no ``[]`` at their end.
        uploads: The files of ``attachment`` and ``inline``.
        message: The octets of ``message`` (messages.mime), with CRLF line ends only; None when there were none.
    """

    fields: dict[str, list[str]]
    uploads: list[Upload] = []
    message: bytes | bytearray | None = None

    def one(self, name: str) -> str | None:
        """The first value of a field; None when it was not given."""
        values = self.fields.get(name)
        return values[0] if values else None

    def joined(self, name: str) -> str:
        """All values of a field as one comma list; empty when it was not given."""
        values = self.fields.get(name)
        return "" if not values else values[0] if len(values) == 1 else ", ".join(v for v in values if v)
