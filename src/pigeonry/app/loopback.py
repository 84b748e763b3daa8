"""Keeps a development listener to this machine: who asks by another name, or from another page, is refused.

A listener on loopback is still reachable from any web page that the developer opens: by its name made to resolve to
127.0.0.1 (DNS rebinding), or by a form or a fetch that does not need to read the answer. The Host header tells the
first, Origin and Sec-Fetch-Site the second.

Standards: RFC 9110 section 7.2 (Host), RFC 6454 section 7 (Origin), RFC 6761 section 6.3 (localhost), the Fetch
Metadata Request Headers of W3C.
Trust: all three headers come from outside; a browser does not let a page choose them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

__all__ = ["LoopbackOnly", "is_loopback"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST: Final = re.compile(rb"(?:[a-z0-9-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\]", re.IGNORECASE)
_OWN_SITES: Final = frozenset({b"same-origin", b"same-site", b"none"})
_REFUSED: Final = b'{"message":"This development server answers to loopback names and its own pages only"}\n'


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is this machine's own."""
    return host == "::1" or _HOST.fullmatch(host.encode("ascii", "replace")) is not None


class LoopbackOnly:
    """An ASGI application around another.

    Args:
        app: Asked when the request comes from this machine's own pages and programs.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer 403."""
        if scope["type"] != "http" or _own(scope["headers"]):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_REFUSED))]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSED})


def _own(headers: list[tuple[bytes, bytes]]) -> bool:
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not _HOST.fullmatch(_without_port(hosts[0])):
        return False
    for name, value in headers:
        if name == b"origin" and value.partition(b"://")[2].lower() != hosts[0].lower():
            return False
        if name == b"sec-fetch-site" and value not in _OWN_SITES:
            return False
    return True


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host
