"""uvicorn inside a loop of ours: no signal handlers, no access log, no headers that name the server.

One server has one application; the same one may stand behind several. It knows no TLS: what stands before its protocol
does, where there is any, and bounds who is at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from pigeonry.app.http_bounds import BoundedHttp, State
from pigeonry.app.sockets import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Sequence

__all__ = ["HttpServer"]

Before = Callable[[Callable[..., BoundedHttp]], asyncio.BufferedProtocol]

_TICKS_OF_SWEEP: Final = 10  # uvicorn ticks ten times a second


class _Quiet(uvicorn.Server):
    """Signals are the process's own business."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = self._state = State()
        self.opened = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.opened.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.stopping = True
        await super().shutdown(sockets=sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_OF_SWEEP == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, BoundedHttp):
                    connection.check_time(now)
        return await super().on_tick(counter)


def _behind(before: Before) -> Any:
    """What uvicorn makes its protocols with, where another one stands before each."""

    def made(**given: Any) -> asyncio.BufferedProtocol:
        return before(lambda source: BoundedHttp(**given, source=source))

    return made


class HttpServer:
    """Serves one ASGI application on sockets that already listen.

    Args:
        sockets: Closed when the server stops.
        keep_alive_s: Seconds that an idle connection is kept.
        before: Makes the protocol that stands before the HTTP protocol and then makes that one, given what makes it.
        connections_max: Over it requests are answered 503 at once; None for no bound of its own.
        drain_s: Seconds that requests in flight may take once ``stop`` was called.
    """

    def __init__(
        self,
        app: Any,
        sockets: Sequence[socket.socket],
        *,
        before: Before | None = None,
        keep_alive_s: float = 75.0,
        connections_max: int | None = None,
        drain_s: float = 30.0,
    ) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._sockets = list(sockets)
        self._server = _Quiet(
            uvicorn.Config(
                app,
                loop="none",
                http=BoundedHttp if before is None else _behind(before),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=connections_max,
                backlog=BACKLOG,
                timeout_keep_alive=int(keep_alive_s),
                timeout_graceful_shutdown=max(1, int(drain_s)),
            )
        )

    async def run(self) -> None:
        """Serve until ``stop``; then finish the requests in flight."""
        await self._server.serve(sockets=self._sockets)

    async def opened(self) -> None:
        """Return when connections are accepted."""
        await self._server.opened.wait()

    @property
    def connections(self) -> int:
        """Connections that stand now."""
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        """Accept no more; ``run`` returns when what is in flight was answered."""
        self._server.should_exit = True
