"""Answers: status, headers and body the way the API's clients expect them.

``ASGI`` answers for the hot routes, Starlette responses for the rest; both have the same headers. A URL in a body is
absolute and uses the host that the client used.

Standards: RFC 9110 (status codes), RFC 9111 section 5.2.2.5 (no-store), RFC 7239's older cousins X-Forwarded-*.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Send

__all__ = ["JSON_TYPE", "base_url", "encode", "json_response", "send_answer"]

JSON_TYPE: Final = b"application/json; charset=utf-8"
_ENCODER: Final = msgspec.json.Encoder()
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_NO_STORE: Final = (b"cache-control", b"no-store")
_JSON_HEADER: Final = (b"content-type", JSON_TYPE)


def encode(content: Any) -> bytes:
    """Content as JSON octets."""
    return _ENCODER.encode(content)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer for a Starlette endpoint; structs of msgspec are welcome in it."""
    return Response(
        _ENCODER.encode(content),
        status,
        {"content-type": JSON_TYPE.decode(), "cache-control": "no-store", **(headers or {})},
    )


async def send_answer(
    send: Send,
    status: int,
    body: bytes,
    *,
    key: str = "",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    content_type: tuple[bytes, bytes] = _JSON_HEADER,
) -> None:
    """Answer on the ASGI level.

    Args:
        send: ASGI's.
        status: HTTP status.
        body: The whole body.
        key: Id of the API key that was used, for ``X-Mailgun-Key-Id``; empty when none was.
        headers: More headers.
        content_type: The body's type, as a header.
    """
    fields = [content_type, (b"content-length", b"%d" % len(body)), _NO_STORE, *headers]
    if key:
        fields.append((b"x-mailgun-key-id", key.encode("ascii", "replace")))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def base_url(request: Request) -> str:
    """Scheme and host as the client used them, without a slash at the end, such as ``https://api.example.org``.

    A host that is not one (it comes from outside and goes into URLs) is replaced by the server's address. What a
    gateway says of them is in the scope already, if it is trusted (``doors.http.forwarded``).
    """
    scheme = request.scope.get("scheme", "http")
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        address, port = request.scope.get("server") or ("127.0.0.1", None)
        host = f"{address}:{port}" if port else str(address)
    return f"{scheme}://{host}"
