"""``GET /v3/domains/{domain}/messages/{key}``: a message as it is kept, parsed or raw, and its attachments.

A batch is kept once for all; it is shown as its first recipient gets it. What is shown is the message before signing.

Standards: RFC 9110 section 12.5.1 (Accept).
Trust: the caller sees its own domains' messages only. A message comes from outside: a file leaves with a type that no
browser shows in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

from starlette.responses import Response
from starlette.routing import Route

from pigeonry.compose.template import render
from pigeonry.domain.errors import NotFound
from pigeonry.domain.message import BodyKind, MessageKey
from pigeonry.doors.http.guard import own_domain
from pigeonry.doors.http.respond import base_url, json_response
from pigeonry.protocol.mime import headers, parser
from pigeonry.protocol.mime.encoded_words import decode
from pigeonry.protocol.mime.quotes import strip_quotes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from pigeonry.domain.message import Message, RecipientView
    from pigeonry.protocol.mime.parser import Part

__all__ = ["Messages", "routes"]

_DIGITS_MAX: Final = 4  # of an attachment's number; a message has 500 at most
_RAW_TYPES: Final = ("message/rfc2822", "message/rfc822")


class Messages(Protocol):
    """Reads messages (``QueueStore`` does)."""

    async def message(self, key: MessageKey) -> Message | None:
        """The message; None when there is none."""
        ...

    async def body(self, key: MessageKey) -> bytes | None:
        """Its octets; None when they are no longer kept."""
        ...

    async def recipients(self, key: MessageKey) -> Sequence[RecipientView]:
        """Its recipients."""
        ...


def routes(store: Messages) -> list[Route]:
    """The routes of stored messages.

    Args:
        store: Reads messages.
    """
    endpoint = _Endpoint(store)
    path = "/v3/domains/{domain}/messages/{key}"
    return [Route(path, endpoint.show), Route(f"{path}/attachments/{{number}}", endpoint.attachment)]


class _Endpoint:
    def __init__(self, store: Messages) -> None:
        self._store = store

    async def show(self, request: Request) -> Response:
        message, octets, recipients = await self._load(request)
        head = octets[: headers.head_length(octets)]
        shown: dict[str, Any] = {
            "recipients": ", ".join(recipients),
            "sender": message.reverse_path,
            "from": decode(headers.value(head, b"from") or b""),
            "subject": decode(headers.value(head, b"subject") or b""),
        }
        if any(kind in request.headers.get("accept", "") for kind in _RAW_TYPES):
            shown["body-mime"] = octets.decode("utf-8", "replace")
        else:
            _describe(shown, octets, head, url=base_url(request) + quote(request.url.path, safe="/@+"))
        return json_response(shown)

    async def attachment(self, request: Request) -> Response:
        _, octets, _ = await self._load(request)
        files = [part for part in parser.leaves(parser.parse(octets)) if not part.is_text]
        given = request.path_params["number"]
        # A route's own int would be given as many digits as come, and more than int() takes is a fault.
        number = int(given) if given.isascii() and given.isdigit() and len(given) <= _DIGITS_MAX else len(files)
        if number >= len(files):
            raise NotFound("Attachment not found")
        part = files[number]
        name = quote(part.filename or f"attachment-{number + 1}", safe="")
        return Response(
            parser.decoded(octets, part),
            headers={
                "content-type": _plain_type(part.content_type),
                "content-disposition": f"attachment; filename*=utf-8''{name}",
                "x-content-type-options": "nosniff",
                "cache-control": "no-store",
            },
        )

    async def _load(self, request: Request) -> tuple[Message, bytes, list[str]]:
        """The message, its octets as its first recipient gets them, and its recipients."""
        domain = own_domain(request, request.path_params["domain"])
        key = MessageKey.parse(request.path_params["key"])
        message = await self._store.message(key)
        # The account as well: the domain may have been somebody else's when the message came.
        if message is None or message.domain != domain.name or message.account != domain.account:
            raise NotFound("Message not found")
        octets = await self._store.body(key)
        if octets is None:
            raise NotFound("Message content is no longer kept")
        views = await self._store.recipients(key)
        if message.body_kind is BodyKind.TEMPLATE:
            first = views[0] if views else None
            address = first.pending.address if first else "recipient@invalid"
            octets = render(octets, address=address, variables=first.variables if first else b"")
        return message, octets, [view.pending.address for view in views]


def _describe(shown: dict[str, Any], octets: bytes, head: bytes, *, url: str) -> None:
    """Add what the message says to an answer."""
    root = parser.parse(octets)
    leaves = list(parser.leaves(root))
    plain = _first(octets, leaves, "text/plain")
    html = _first(octets, leaves, "text/html")
    written, signature = strip_quotes(plain)
    shown["body-plain"] = plain
    if html:
        shown["body-html"] = shown["stripped-html"] = html
    shown["stripped-text"] = written
    shown["stripped-signature"] = signature
    attachments: list[dict[str, Any]] = []
    by_content_id: dict[str, dict[str, Any]] = {}
    for part in leaves:
        if part.is_text:
            continue
        entry = {
            "url": f"{url}/attachments/{len(attachments)}",
            "name": part.filename or f"attachment-{len(attachments) + 1}",
            "content-type": part.content_type,
            "size": len(parser.decoded(octets, part)),
        }
        attachments.append(entry)
        if part.content_id:
            by_content_id.setdefault(f"<{part.content_id}>", entry)
    shown["attachments"] = attachments
    shown["content-id-map"] = by_content_id
    shown["message-url"] = url
    fields = [(name.decode("ascii"), decode(raw)) for name, raw in headers.fields(head)]
    shown["message-headers"] = fields
    for name, value in fields:
        shown.setdefault(name, value)


def _first(octets: bytes, leaves: list[Part], kind: str) -> str:
    return next((parser.text(octets, part) for part in leaves if part.is_text and part.content_type == kind), "")


def _plain_type(kind: str) -> str:
    """The type a file is served as: never one that a browser runs."""
    active = ("html", "xml", "svg", "javascript", "ecmascript")
    safe = kind.isascii() and kind.isprintable() and "/" in kind and not any(word in kind for word in active)
    return kind if safe else "application/octet-stream"
