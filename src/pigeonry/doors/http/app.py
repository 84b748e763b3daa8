"""The HTTP door: one ASGI application for the whole API.

The routes that carry the load (``POST /v3/{domain}/messages`` and ``messages.mime``) are matched here by hand and
served as plain ASGI; everything else goes through a Starlette router with one module for each resource. Every answer is
JSON, but for two texts that clients compare against: 401 ``Forbidden`` and ``GET /`` ``Mailgun Magnificent API``.

Standards: RFC 9110 (HTTP semantics), RFC 7617 (Basic).
Trust: everything comes from outside. No cookie is read, so no browser can be made to act for anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pigeonry.domain.errors import PigeonryError
from pigeonry.doors.http.errors import answer_to, on_bug, on_http_exception, on_pigeonry_error
from pigeonry.doors.http.guard import CALLER, GUARD, Guard
from pigeonry.doors.http.respond import encode, send_answer
from pigeonry.doors.http.v3 import stored
from pigeonry.doors.http.v3.messages import MessagesEndpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from pigeonry.admission.gate import Gate
    from pigeonry.doors.http.guard import Domains, Keys
    from pigeonry.doors.http.v3.messages import Accept, Reject
    from pigeonry.ports.body_store import BodyStore
    from pigeonry.ports.coordinator import Coordinator
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.ports.queue_store import QueueStore

__all__ = ["HttpDoor"]

_ROOT_TEXT: Final = "Mailgun Magnificent API"  # by which clients recognise a base URL
_ALLOWED: Final = (b"allow", b"GET, HEAD, POST, PUT, DELETE, OPTIONS")
_LOG: Final = structlog.stdlib.get_logger("pigeonry.doors.http")


class HttpDoor:
    """The ASGI application.

    Args:
        keys: Who holds which API key.
        domains: The sending domains.
        accept, reject: ``Intake``'s.
        store: For messages as stored and for idempotency.
        bodies: Takes large bodies.
        coordinator: Keeps requests with one idempotency key apart.
        clock: Time.
        ids: Random octets.
        gate: Whether there is room; shared by all doors of the worker.
        hostname: Who we are in trace lines.
        extra_routes: Further resources; they find the caller by ``guard.caller_of``.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        domains: Domains,
        accept: Accept,
        reject: Reject,
        store: QueueStore,
        bodies: BodyStore,
        coordinator: Coordinator,
        clock: Clock,
        ids: IdSource,
        gate: Gate,
        hostname: str,
        extra_routes: Sequence[Route] = (),
    ) -> None:
        self._guard = Guard(keys=keys, domains=domains)
        self._messages = MessagesEndpoint(
            guard=self._guard,
            gate=gate,
            accept=accept,
            reject=reject,
            store=store,
            bodies=bodies,
            coordinator=coordinator,
            clock=clock,
            ids=ids,
            hostname=hostname,
        )
        self._router = Starlette(
            routes=[
                Route("/", _root),
                # Never reached by POST: here so that other methods are a 405, and not a 404.
                Route("/v3/{domain}/messages", _root, methods=["POST"]),
                Route("/v3/{domain}/messages.mime", _root, methods=["POST"]),
                *stored.routes(store),
                *extra_routes,
            ],
            exception_handlers={
                PigeonryError: on_pigeonry_error,
                HTTPException: on_http_exception,
                Exception: on_bug,
            },
        )
        self._router.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's lifespan."""
        if scope["type"] == "http":
            method = scope["method"]
            if method == "POST":
                path: str = scope["path"]
                if path[:4] == "/v3/":
                    name, _, resource = path[4:].partition("/")
                    if name and resource in ("messages", "messages.mime"):
                        await self._post(scope, receive, send, name, mime=resource == "messages.mime")
                        return
            elif method == "OPTIONS":
                await send({"type": "http.response.start", "status": 204, "headers": [_ALLOWED]})
                await send({"type": "http.response.body"})  # and no content-length: RFC 9110 section 8.6
                return
            scope[GUARD] = self._guard
            send = _with_key(scope, send)
        await self._router(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send, name: str, *, mime: bool) -> None:
        try:
            await self._messages.post(scope, receive, send, name=name, mime=mime)
        except PigeonryError as error:
            status, body, content_type, more = answer_to(error)
            await send_answer(send, status, body, headers=more, content_type=content_type)
        except Exception:  # noqa: BLE001  # a bug of ours must still be an answer, and is logged
            _LOG.exception("http.bug", route="messages")
            await send_answer(send, 500, encode({"message": "Internal Server Error"}))


async def _root(_request: Request) -> PlainTextResponse:
    return PlainTextResponse(_ROOT_TEXT)


def _with_key(scope: Scope, send: Send) -> Send:
    """``send`` that names the API key in the answer, once somebody asked who is calling."""

    async def sending(message: Message) -> None:
        caller: Any = scope.get(CALLER)
        if caller is not None and message["type"] == "http.response.start":
            key = (b"x-mailgun-key-id", caller.key.encode("ascii", "replace"))
            message = {**message, "headers": [*message.get("headers", ()), key]}
        await send(message)

    return sending
