"""``/livez``, ``/readyz`` and ``/metrics`` as one plain ASGI application.

Alive: the process turns its loop; a restart would not help one that answers. Ready: it takes mail now; a load
balancer should send none while it does not. Metrics: Prometheus text exposition format 0.0.4.

Trust: whoever reaches the listener may read all of it; it changes nothing and takes no body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

__all__ = ["METRICS_TYPE", "OpsDoor", "Readiness"]

Readiness = Callable[[], tuple[bool, dict[str, Any]]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = b"application/json"


class OpsDoor:
    """The ASGI application of an ops listener.

    Args:
        readiness: Whether mail is taken now, and a JSON object that says what of.
        metrics: Gives the exposition.
    """

    def __init__(self, *, readiness: Readiness, metrics: Callable[[], Awaitable[bytes]]) -> None:
        self._readiness = readiness
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        del receive
        if scope["type"] != "http":
            return
        status, kind, body = await self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, method: str, path: str) -> tuple[int, bytes, bytes]:
        if method not in {"GET", "HEAD"}:
            return 405, _JSON, b'{"message":"Method not allowed"}\n'
        if path == "/livez":
            return 200, _JSON, b'{"alive":true}\n'
        if path == "/readyz":
            ready, facts = self._readiness()
            return 200 if ready else 503, _JSON, msgspec.json.encode({"ready": ready, **facts}) + b"\n"
        if path == "/metrics":
            return 200, METRICS_TYPE, await self._metrics()
        return 404, _JSON, b'{"message":"Not found"}\n'
