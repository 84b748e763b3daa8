"""``GET /v1/pigeonry/messages/{key}/why``: what became of a message, and what holds each recipient that waits.

The owner of the message is asked, on whichever node it is; the last attempt of each recipient comes from its events.

Trust: the caller sees the messages of its own domains only; what is another's is not found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from starlette.routing import Route

from pigeonry.domain.errors import NotFound
from pigeonry.domain.message import MessageKey
from pigeonry.doors.http.guard import caller_of, own_domain
from pigeonry.doors.http.respond import json_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from pigeonry.domain.message import Message
    from pigeonry.events.search import EventSearch

__all__ = ["routes"]

EVENTS_MAX: Final = 300  # the newest of a message that are looked at: the last attempts of a hundred recipients
_ATTEMPTS: Final = "delivered OR failed"


class Messages(Protocol):
    """Reads messages (``QueueStore`` does)."""

    async def message(self, key: MessageKey) -> Message | None:
        """The message; None when there is none."""
        ...


class _Event(msgspec.Struct, rename="kebab"):
    event: str
    recipient: str
    timestamp: float
    severity: str = ""
    delivery_status: dict[str, Any] = {}


_decode: Final = msgspec.json.Decoder(_Event).decode


def routes(
    store: Messages, search: EventSearch, *, ask: Callable[[MessageKey, str], Awaitable[Sequence[dict[str, Any]]]]
) -> list[Route]:
    """The resource's route.

    Args:
        store: Reads messages.
        search: Finds events.
        ask: Asks the owner of a message, on behalf of an account, how its recipients stand.
    """

    async def why(request: Request) -> Response:
        caller_of(request)  # before anything is looked for
        key = MessageKey.parse(request.path_params["key"])
        message = await store.message(key)
        if message is None:
            raise NotFound("Message not found")
        try:
            domain = own_domain(request, message.domain)
        except NotFound:
            raise NotFound("Message not found") from None
        if domain.account != message.account:  # The domain was somebody else's when the message came.
            raise NotFound("Message not found")
        standing = await ask(key, domain.account)
        last = await _last_attempts(search, message)
        items = [{**each, "last-attempt": last.get(each["recipient"])} for each in standing]
        return json_response({"items": items})

    return [Route("/v1/pigeonry/messages/{key}/why", why)]


async def _last_attempts(search: EventSearch, message: Message) -> dict[str, Any]:
    """What the receivers said last, by recipient."""
    parameters = {
        "message-id": [message.summary.headers.message_id],
        "event": [_ATTEMPTS],
        "ascending": ["no"],
        "limit": [str(EVENTS_MAX)],
    }
    page = await search.page(search.question(message.domain, parameters))
    found: dict[str, Any] = {}
    for octets in page.items:
        event = _decode(octets)
        told = {
            "event": event.event,
            "severity": event.severity,
            "timestamp": event.timestamp,
            **event.delivery_status,
        }
        found.setdefault(event.recipient, told)
    return found
