"""A wrapper for servers on the loopback: only programs of this machine and our own pages may ask.

A web page from anywhere can make a browser send requests to 127.0.0.1, and can let its own name resolve there (DNS
rebinding). So the ``Host`` must be one of ours, and an ``Origin``, which browsers add, must be the page's own server.

Standards: RFC 9110 section 7.2 (Host), RFC 6454 (Origin).
Trust: both headers come from outside, but no page can make a browser forge them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.doors.http.respond import encode, send_answer

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["LOOPBACK_HOSTS", "OriginCheck"]

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "[::1]", "localhost"})


class OriginCheck:
    """An ASGI application in front of another.

    Args:
        app: What answers when the check passes.
        hosts: Host names that requests may be for, lower case, without ports.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] = LOOPBACK_HOSTS) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse with 403."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1").lower()
            origin = headers.get(b"origin")
            if _name(host) not in self._hosts:
                await _refuse(send, "This server answers only under its own host names.")
                return
            if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
                await _refuse(send, "This server answers no pages of other servers.")
                return
        await self._app(scope, receive, send)


def _name(host: str) -> str:
    """The host without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


async def _refuse(send: Send, text: str) -> None:
    await send_answer(send, 403, encode({"message": text, "Error": text}))
