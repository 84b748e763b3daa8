"""Errors as the API's clients expect them.

JSON ``{"message": ...}`` for everything but 401, which is the bare text ``Forbidden`` with a challenge; 403 repeats
its text under ``Error``, which one of the SDKs reads. A fault of ours is 503 with ``Retry-After``: nothing or
something may have been stored, and trying again (with an ``Idempotency-Key``) is right. Only a bug is a 500, and its
text says nothing.

Standards: RFC 9110 sections 10.2.3 (Retry-After), 11.6.1 (WWW-Authenticate), 15.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from pigeonry.domain.errors import PigeonryError
from pigeonry.doors.http.respond import JSON_TYPE, encode

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Answer", "answer_to", "on_bug", "on_http_exception", "on_pigeonry_error"]

RETRY_AFTER_S: Final = 5  # when the error does not know better: long enough for a store's hiccup to pass
_CHALLENGE: Final = (b"www-authenticate", b'Basic realm="MG API"')
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_JSON: Final = (b"content-type", JSON_TYPE)
_TEXTS: Final = {404: "Not Found", 405: "Method not allowed", 400: "Bad request"}

Answer = tuple[int, bytes, tuple[bytes, bytes], tuple[tuple[bytes, bytes], ...]]


def answer_to(error: PigeonryError) -> Answer:
    """Status, body, content type and further headers for an error."""
    status = error.http
    if status == 401:
        return status, b"Forbidden", _TEXT, (_CHALLENGE,)
    content = {"message": error.text}
    if status == 403:
        content["Error"] = error.text
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if status in (429, 503) or error.retry_after_s is not None:
        seconds = RETRY_AFTER_S if error.retry_after_s is None else max(1, math.ceil(error.retry_after_s))
        headers = ((b"retry-after", b"%d" % seconds),)
    return status, encode(content), _JSON, headers


async def on_pigeonry_error(_request: Request, error: Exception) -> Response:
    """Starlette's handler for our errors."""
    assert isinstance(error, PigeonryError)
    status, body, content_type, headers = answer_to(error)
    return _response(status, body, content_type, *headers)


async def on_http_exception(_request: Request, error: Exception) -> Response:
    """Starlette's handler for its own: an unknown path, a method that is not there."""
    assert isinstance(error, HTTPException)
    more = tuple((k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (error.headers or {}).items())
    text = _TEXTS.get(error.status_code, error.detail)
    return _response(error.status_code, encode({"message": text}), _JSON, *more)


def _response(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> Response:
    response = Response(body, status)
    response.raw_headers = [*headers, (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    return response


async def on_bug(_request: Request, _error: Exception) -> Response:
    """Starlette's handler for what nobody expected: it is logged by the server, and the client learns nothing."""
    return _response(500, encode({"message": "Internal Server Error"}), _JSON)
