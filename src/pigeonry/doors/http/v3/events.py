"""``GET /v3/{domain}/events``: what happened, page by page.

The URLs of further pages are absolute, for clients follow them as they are, and end with a token that says all: other
parameters beside it mean nothing. ``X-Pigeonry-Watermark`` (seconds since the Unix epoch) is an extension: all events
up to then were there to be found.

Trust: parameters and tokens come from outside; ``events.search`` refuses what it does not understand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from pigeonry.doors.http.guard import own_domain
from pigeonry.doors.http.respond import base_url, json_response
from pigeonry.events.show import splice

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from pigeonry.domain.tenant import SendingDomain
    from pigeonry.events.search import EventPage, EventSearch

__all__ = ["routes"]


def routes(search: EventSearch) -> list[Route]:
    """The resource's routes."""

    async def first(request: Request) -> Response:
        domain = own_domain(request, request.path_params["domain"])
        query = request.query_params
        parameters = {name: query.getlist(name) for name in query}
        question = search.question(domain.name, parameters)
        return _answer(request, domain.name, await search.page(question, since_us=_since_us(domain)))

    async def further(request: Request) -> Response:
        domain = own_domain(request, request.path_params["domain"])
        question = search.read_token(domain.name, request.path_params["token"])
        return _answer(request, domain.name, await search.page(question, since_us=_since_us(domain)))

    return [Route("/v3/{domain}/events", first), Route("/v3/{domain}/events/{token}", further)]


def _since_us(domain: SendingDomain) -> int:
    """Before it was made the domain may have been somebody else's."""
    return int(domain.created_at * 1e6)


def _answer(request: Request, domain: str, page: EventPage) -> Response:
    base = base_url(request)
    pages = f"{base}/v3/{domain}/events/"
    return json_response(
        {
            "items": [splice(octets, base_url=base) for octets in page.items],
            "paging": {
                "next": pages + page.next,
                "previous": pages + page.previous,
                "first": pages + page.first,
                "last": pages + page.last,
            },
        },
        headers={"x-pigeonry-watermark": f"{page.watermark:.6f}"},
    )
