"""The doors of one worker on their sockets: opened together, drained together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from pigeonry.app.asgi import HttpServer
from pigeonry.app.proxied import ProxyDoor
from pigeonry.app.sockets import BACKLOG
from pigeonry.domain.networks import Networks

if TYPE_CHECKING:
    import socket
    import ssl

    from pigeonry.app.settings import Settings
    from pigeonry.telemetry.log import Logger

__all__ = ["Doors", "SmtpSide"]


HANDSHAKE_S: Final = (
    15.0  # seconds for TLS on a port that begins with it, as for STARTTLS: a silent peer holds a socket
)


class SmtpSide(Protocol):
    """What the SMTP door offers to whoever opens its sockets (``doors.smtp.listener.SmtpDoor``)."""

    def protocol_factory(self, *, tls: bool) -> Callable[..., asyncio.Protocol]:
        """Makes the protocols of a listener, given what a balancer says of the client, where one does."""
        ...

    async def drain(self, within_s: float) -> bool:
        """End each session with 421 4.3.2 once no transaction is under way; whether all came to their end in time."""
        ...

    def stop(self) -> None:
        """End every session at once."""
        ...


class Doors:
    """HTTP and SMTP listeners of one worker.

    Args:
        http: The ASGI application.
        context: For the listeners inside TLS; None when there is no certificate.
    """

    def __init__(
        self, *, http: Any, smtp: SmtpSide, context: ssl.SSLContext | None, settings: Settings, log: Logger
    ) -> None:
        self._http = http
        self._smtp = smtp
        self._context = context
        self._settings = settings
        self._before = ProxyDoor(Networks(settings.edge.proxy_protocol_from), handshake_s=HANDSHAKE_S, log=log)
        self._web: list[HttpServer] = []
        self._mail: list[asyncio.Server] = []
        self._drained = asyncio.Event()

    async def run(self, sockets: Sequence[tuple[str, socket.socket]], *, opened: Callable[[], None]) -> None:
        """Serve until ``drain`` has ended; ``opened`` is called when every door accepts.

        Args:
            sockets: Listening sockets by door: ``http``, ``https``, ``smtp``, ``smtps``.
        """
        by_door: dict[str, list[socket.socket]] = {}
        for door, listening in sockets:
            by_door.setdefault(door, []).append(listening)
        await self._open_smtp(by_door)
        async with asyncio.TaskGroup() as group:
            for door, context in (("http", None), ("https", self._context)):
                if by_door.get(door):
                    self._web.append(self._web_server(door, by_door[door], context))
                    group.create_task(self._web[-1].run())
            for server in self._web:
                await server.opened()
            opened()
            await self._drained.wait()

    async def drain(self, within_s: float) -> bool:
        """Accept nothing more, finish requests and SMTP transactions; whether the latter ended in time."""
        for listener in self._mail:
            listener.close()
        for server in self._web:
            server.stop()
        return await self._smtp.drain(within_s)

    def ended(self) -> None:
        """Let ``run`` return; what still stands is cut."""
        self._before.stop()
        self._smtp.stop()
        self._drained.set()

    @property
    def web_connections(self) -> int:
        """HTTP connections that stand."""
        return sum(server.connections for server in self._web)

    @property
    def headers_refused(self) -> Mapping[tuple[str, str], int]:
        """Connections closed before their door had them, by door and reason."""
        return self._before.refused

    def _has_before(self, context: ssl.SSLContext | None) -> bool:
        """Whether something stands before the protocol of a listener: a header, or TLS."""
        return bool(self._before.trusted) or context is not None

    def _web_server(self, door: str, sockets: Sequence[socket.socket], context: ssl.SSLContext | None) -> HttpServer:
        http, before = self._settings.http, self._before
        return HttpServer(
            self._http,
            sockets,
            before=(lambda make: before.before(make, door=door, context=context)())
            if self._has_before(context)
            else None,
            keep_alive_s=http.keep_alive_s,
            connections_max=http.connections_max,
            drain_s=self._settings.node.drain_s,
        )

    async def _open_smtp(self, by_door: dict[str, list[socket.socket]]) -> None:
        loop = asyncio.get_running_loop()
        for door, context in (("smtp", None), ("smtps", self._context)):
            factory: Callable[[], Any] = self._smtp.protocol_factory(tls=context is not None)
            if self._has_before(context):
                factory = self._before.before(factory, door=door, context=context)
            for listening in by_door.get(door, ()):
                self._mail.append(await loop.create_server(factory, sock=listening, backlog=BACKLOG))
