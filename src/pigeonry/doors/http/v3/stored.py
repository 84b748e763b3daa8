"""``GET /v3/domains/{domain}/messages/{key}``: a message as it is kept, parsed or raw, and its attachments.

A batch is kept once for all; it is shown as its first recipient gets it. What is shown is the message before signing.

Standards: RFC 9110 section 12.5.1 (Accept).
Trust: the caller sees its own domains' messages only. A message comes from outside: a file leaves with a type that no
browser shows in place. What is read takes memory until the client has it, so what may be read at once is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

from starlette.responses import Response
from starlette.routing import Route

from pigeonry.compose.template import render
from pigeonry.domain.errors import NotFound, Overloaded
from pigeonry.domain.message import BodyKind, MessageKey
from pigeonry.doors.http.guard import own_domain
from pigeonry.doors.http.respond import base_url, json_response
from pigeonry.protocol.mime import headers, parser
from pigeonry.protocol.mime.encoded_words import decode
from pigeonry.protocol.mime.quotes import strip_quotes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from pigeonry.domain.message import Message, RecipientView
    from pigeonry.protocol.mime.parser import Part

__all__ = ["Messages", "routes"]

READ_OCTETS_MAX: Final = 134_217_728  # 128 MiB of messages a worker being shown; the largest has 35 MiB
RETRY_AFTER_S: Final = 2.0  # seconds; most clients have a message in less
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


def routes(store: Messages, *, read_octets_max: int = READ_OCTETS_MAX) -> list[Route]:
    """The routes of stored messages.

    Args:
        store: Reads messages.
        read_octets_max: Octets of messages that may be on their way to clients together.
    """
    endpoint = _Endpoint(store, read_octets_max)
    path = "/v3/domains/{domain}/messages/{key}"
    return [Route(path, endpoint.show), Route(f"{path}/attachments/{{number}}", endpoint.attachment)]


class _Endpoint:
    def __init__(self, store: Messages, read_octets_max: int) -> None:
        self._store = store
        self._free = read_octets_max

    async def show(self, request: Request) -> Response:
        return await self._held(request, self._shown)

    async def attachment(self, request: Request) -> Response:
        return await self._held(request, self._attached)

    async def _held(
        self, request: Request, answer: Callable[[Request, Message, bytes, list[str]], Response]
    ) -> Response:
        """The answer made of a message, which holds its room until the client has it."""
        message = await self._find(request)
        size = message.summary.size
        if size > self._free:
            raise Overloaded("Too many large messages are being read. Try again.", retry_after_s=RETRY_AFTER_S)
        self._free -= size
        try:
            octets, recipients = await self._load(message)
            more = max(0, len(octets) - size)  # a batch's variables may make it larger than what is stored
            self._free -= more
            size += more
            return _Held(answer(request, message, octets, recipients), lambda: self._leave(size))
        except BaseException:
            self._leave(size)
            raise

    def _leave(self, size: int) -> None:
        self._free += size

    @staticmethod
    def _shown(request: Request, message: Message, octets: bytes, recipients: list[str]) -> Response:
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

    @staticmethod
    def _attached(request: Request, _message: Message, octets: bytes, _recipients: list[str]) -> Response:
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

    async def _find(self, request: Request) -> Message:
        domain = own_domain(request, request.path_params["domain"])
        message = await self._store.message(MessageKey.parse(request.path_params["key"]))
        # The account as well: the domain may have been somebody else's when the message came.
        if message is None or message.domain != domain.name or message.account != domain.account:
            raise NotFound("Message not found")
        return message

    async def _load(self, message: Message) -> tuple[bytes, list[str]]:
        """Its octets as its first recipient gets them, and its recipients."""
        octets = await self._store.body(message.key)
        if octets is None:
            raise NotFound("Message content is no longer kept")
        views = await self._store.recipients(message.key)
        if message.body_kind is BodyKind.TEMPLATE:
            first = views[0] if views else None
            address = first.pending.address if first else "recipient@invalid"
            octets = render(octets, address=address, variables=first.variables if first else b"")
        return octets, [view.pending.address for view in views]


class _Held(Response):
    """Another response, and what is to be done when the client has it or is gone."""

    def __init__(self, response: Response, done: Callable[[], None]) -> None:
        super().__init__()
        self._response = response
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._done()


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
            "size": parser.size(octets, part),
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
