"""The inbox: pages that show what the sink captured, and the same as JSON.

No script or style stands in a page; the policy sent with it allows none. A message's HTML is shown in a sandboxed
frame that is served with a policy of its own: no script, no form, nothing fetched from anywhere but the message.

Trust: reached by whoever may reach the development listener (loopback, Host and Origin checked before this). What
it shows came from anyone.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pigeonry.capture.view import PICTURES, header_text, part_octets, split_headers, view

if TYPE_CHECKING:
    import jinja2
    from starlette.requests import Request

    from pigeonry.capture.box import Box, Captured

__all__ = ["EventsOf", "routes"]

EventsOf = Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]]

PAGE: Final = 100  # messages of one page
TEXT_OCTETS_MAX: Final = 2 * 1024 * 1024  # of one body shown in a page; the raw message has the rest
DIGITS_MAX: Final = 18  # of a message's number: SQLite's largest has 19
VIEWS: Final = ("html", "text", "headers", "raw", "events")

_PAGES: Final = Path(__file__).parent / "pages"
_ASSETS: Final[Mapping[str, str]] = {
    "inbox.css": "text/css",
    "inbox.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_FRAME_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
_SAFE: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def routes(box: Box, *, events_of: EventsOf, try_it: str) -> list[Route]:
    """The inbox's routes, all under ``/inbox``.

    Args:
        events_of: The events of a message by its Message-ID (without angle brackets), the oldest first, as the
            events API shows them.
        try_it: The command line that an empty inbox suggests.
    """
    inbox = _Inbox(box, events_of=events_of, try_it=try_it)
    return [
        Route("/", inbox.front, methods=["GET"]),
        Route("/inbox", inbox.page, methods=["GET"]),
        Route("/inbox/assets/{name}", inbox.asset, methods=["GET"]),
        Route("/inbox/clear", inbox.clear, methods=["POST"]),
        Route("/inbox/api/messages", inbox.listed, methods=["GET"]),
        Route("/inbox/api/messages", inbox.cleared, methods=["DELETE"]),
        Route("/inbox/api/messages/{number}", inbox.described, methods=["GET"]),
        Route("/inbox/{number}", inbox.message, methods=["GET"]),
        Route("/inbox/{number}/frame", inbox.frame, methods=["GET"]),
        Route("/inbox/{number}/raw", inbox.raw, methods=["GET"]),
        Route("/inbox/{number}/parts/{part}", inbox.part, methods=["GET"]),
    ]


class _Inbox:
    """The routes' endpoints."""

    def __init__(self, box: Box, *, events_of: EventsOf, try_it: str) -> None:
        self._box = box
        self._events_of = events_of
        self._try_it = try_it

    async def front(self, request: Request) -> Response:
        del request
        return RedirectResponse("/inbox", status_code=302, headers=_SAFE)

    async def page(self, request: Request) -> Response:
        return await self._render(request, None, {})

    async def message(self, request: Request) -> Response:
        number = _number(request.path_params["number"])
        found = await self._box.get(number)
        if found is None:
            return Response("There is no such message.\n", status_code=404, media_type="text/plain", headers=_SAFE)
        mail, octets = found
        parts = view(octets)
        wanted = request.query_params.get("view", "")
        chosen = wanted if wanted in VIEWS else "html" if parts.html is not None else "text"
        shown: dict[str, Any] = {
            "view": chosen,
            "views": VIEWS,
            "parts": parts.parts,
            "has_html": parts.html is not None,
        }
        if chosen == "text":
            shown["text"] = (parts.text or "")[:TEXT_OCTETS_MAX]
        elif chosen == "headers":
            shown["headers"] = [(name, header_text(value)) for name, value in split_headers(octets)]
        elif chosen == "raw":
            shown["text"] = octets[:TEXT_OCTETS_MAX].decode("utf-8", "replace")
        elif chosen == "events":
            shown["events"] = await self._events(mail)
        return await self._render(request, mail, shown)

    async def frame(self, request: Request) -> Response:
        found = await self._box.get(_number(request.path_params["number"]))
        html = None if found is None else view(found[1], pictures=True).html
        headers = {**_SAFE, "content-security-policy": _FRAME_POLICY}
        if html is None:
            return Response("", status_code=404, media_type="text/html", headers=headers)
        return Response(f'<base target="_blank">{html}', media_type="text/html", headers=headers)

    async def raw(self, request: Request) -> Response:
        number = _number(request.path_params["number"])
        found = await self._box.get(number)
        if found is None:
            return Response("", status_code=404, headers=_SAFE)
        headers = {**_SAFE, "content-disposition": f'attachment; filename="message-{number}.eml"'}
        return Response(found[1], media_type="message/rfc822", headers=headers)

    async def part(self, request: Request) -> Response:
        found = await self._box.get(_number(request.path_params["number"]))
        piece = None if found is None else part_octets(found[1], _number(request.path_params["part"]))
        if piece is None:
            return Response("", status_code=404, headers=_SAFE)
        kind, name, octets = piece
        image = kind in PICTURES
        plain = "".join(mark if mark.isascii() and mark.isprintable() and mark not in '"\\;' else "_" for mark in name)
        headers = {
            **_SAFE,
            "content-security-policy": "default-src 'none'; sandbox",
            "content-disposition": f'{"inline" if image else "attachment"}; filename="{plain}"',
        }
        return Response(octets, media_type=kind if image else "application/octet-stream", headers=headers)

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _ASSETS:
            return Response("", status_code=404, headers=_SAFE)
        return Response((_PAGES / name).read_bytes(), media_type=_ASSETS[name], headers=_SAFE)

    async def clear(self, request: Request) -> Response:
        del request
        await self._box.clear()
        return RedirectResponse("/inbox", status_code=303, headers=_SAFE)

    async def cleared(self, request: Request) -> Response:
        del request
        await self._box.clear()
        return _json({"message": "The inbox is empty"})

    async def listed(self, request: Request) -> Response:
        before = request.query_params.get("before", "")
        mails = await self._box.newest(before=_number(before) if before else None, limit=PAGE)
        return _json({"items": mails})

    async def described(self, request: Request) -> Response:
        number = _number(request.path_params["number"])
        found = await self._box.get(number)
        if found is None:
            return _json({"message": "There is no such message"}, status=404)
        mail, octets = found
        parts = view(octets)
        described = msgspec.to_builtins(mail)
        described |= {"text": parts.text, "html": parts.html, "parts": parts.parts}
        described |= {"headers": split_headers(octets), "events": await self._events(mail)}
        return _json(described)

    async def _events(self, mail: Captured) -> Sequence[Mapping[str, Any]]:
        return await self._events_of(mail.message_id) if mail.message_id else ()

    async def _render(self, request: Request, mail: Captured | None, shown: Mapping[str, Any]) -> Response:
        before = request.query_params.get("before", "")
        mails = await self._box.newest(before=_number(before) if before else None, limit=PAGE)
        page = (
            _pages()
            .get_template("inbox.html")
            .render(
                mails=mails, mail=mail, try_it=self._try_it, more=mails[-1].id if len(mails) == PAGE else 0, **shown
            )
        )
        return Response(page, media_type="text/html", headers={**_SAFE, "content-security-policy": _PAGE_POLICY})


def _number(text: str) -> int:
    """A number from a path or query; -1, which is none of a message or part, when it is not one of ours."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX else -1


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=_SAFE)


@functools.cache
def _pages() -> jinja2.Environment:
    """The templates, loaded when the first page is asked for."""
    import jinja2  # noqa: PLC0415  # nobody should wait for it who opens no page

    made = jinja2.Environment(loader=jinja2.FileSystemLoader(_PAGES), autoescape=True, undefined=jinja2.StrictUndefined)
    made.filters["clock"] = lambda at: dt.datetime.fromtimestamp(at, tz=dt.UTC).strftime("%H:%M:%S")
    made.filters["iso"] = lambda at: dt.datetime.fromtimestamp(at, tz=dt.UTC).isoformat(timespec="milliseconds")
    made.filters["pretty"] = lambda value: msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    made.filters["size"] = _size
    return made


def _size(octets: int) -> str:
    if octets < 1024:
        return f"{octets} B"
    return f"{octets / 1024:.1f} KB" if octets < 1024 * 1024 else f"{octets / 1024 / 1024:.1f} MB"
