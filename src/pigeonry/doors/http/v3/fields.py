"""Parameters of the small resources: a body in any of the three forms, with those of the query, one value each.

Trust: hostile. A body here is small; more than ``BODY_OCTETS_MAX`` is refused before it is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect

from pigeonry.domain.errors import BadRequest, TooLarge
from pigeonry.doors.http.forms import FormReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

__all__ = ["Fields", "page_of", "read_fields"]

BODY_OCTETS_MAX: Final = 65_536  # settings, not content
SKIP_MAX: Final = 10_000_000  # so that a page's place is a number and not a way to spend memory on digits
_YES: Final = frozenset({"yes", "true", "1", "on", "y", "t"})
_NO: Final = frozenset({"no", "false", "0", "off", "n", "f"})


class Fields:
    """Values by name: the first of each counts."""

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        self._values = values

    def text(self, name: str, default: str = "") -> str:
        """A value without the space around it."""
        values = self._values.get(name)
        return values[0].strip() if values else default

    def exact(self, name: str) -> str:
        """A value as it was given, such as a password; empty when there was none."""
        values = self._values.get(name)
        return values[0] if values else ""

    def required(self, name: str) -> str:
        """A value that must be there.

        Raises:
            BadRequest: It is not.
        """
        value = self.text(name)
        if not value:
            raise BadRequest(f"Parameter {name} is required.")
        return value

    def flag(self, name: str) -> bool | None:
        """Yes or no in any of the ways clients write it; None when it was not given.

        Raises:
            BadRequest: It is neither.
        """
        value = self.text(name).lower()
        if value in _YES:
            return True
        if value in _NO:
            return False
        if not value:
            return None
        raise BadRequest(f"Parameter {name} is neither yes nor no.")

    def choice(self, name: str, allowed: Mapping[str, str]) -> str | None:
        """What ``allowed`` makes of the value; None when it was not given.

        Raises:
            BadRequest: It allows no such value.
        """
        value = self.text(name).lower()
        if not value:
            return None
        if value not in allowed:
            raise BadRequest(f"Parameter {name} must be one of: {', '.join(allowed)}.")
        return allowed[value]

    def number(self, name: str, *, default: int, least: int, most: int) -> int:
        """A whole number.

        Raises:
            BadRequest: It is none, or out of range.
        """
        value = self.text(name)
        if not value:
            return default
        # eleven digits are more than any limit, and int() is never given more
        if not (value.isascii() and value.isdigit() and len(value) <= 11 and least <= int(value) <= most):
            raise BadRequest(f"Parameter {name} must be a number from {least} to {most}.")
        return int(value)


async def read_fields(request: Request) -> Fields:
    """The parameters of a request's body and query; in doubt the body's count.

    Raises:
        BadRequest: The body is malformed or not complete.
        TooLarge: It is over ``BODY_OCTETS_MAX``.
    """
    length = 0

    def grow(octets: int) -> None:
        nonlocal length
        length += octets
        if length > BODY_OCTETS_MAX:
            raise TooLarge(f"The request is larger than {BODY_OCTETS_MAX} octets.")

    headers = request.headers
    reader = FormReader(
        content_type=headers.get("content-type", "").encode("latin-1"),
        content_encoding=headers.get("content-encoding", "").encode("latin-1"),
        grow=grow,
    )
    try:
        async for octets in request.stream():
            reader.feed(octets)
    except ClientDisconnect:
        raise BadRequest("The request is not complete.") from None
    return Fields(reader.finish(request.scope["query_string"]).fields)


def page_of(fields: Fields, *, default: int, most: int) -> tuple[int, int]:
    """``skip`` and ``limit`` of a list.

    Raises:
        BadRequest: One is no number or out of range.
    """
    limit = fields.number("limit", default=default, least=1, most=most)
    return fields.number("skip", default=0, least=0, most=SKIP_MAX), limit
