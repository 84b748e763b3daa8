"""What one HTTP connection may cost: octets of a head and of a request, requests waiting, time for each, connections.

uvicorn bounds how many requests are worked on, and how long an answered connection is kept, by a timer for each
answer. It has no bound for a client that never ends its head, sends a body nobody reads, writes requests faster than
they are answered, or does not read its answers. Those are here: counted as octets arrive, and judged by one sweep a
second over all connections, which ends idle ones as well.

A request that asks for another protocol (Java's client does so each time) is read as if it had not asked. The parser
would take its body for the other protocol's octets: the body was lost, or read as the next request.

Standards: RFC 9110 sections 7.8 (Upgrade, which a server may ignore) and 15.5.22, RFC 6585 section 5 (431), RFC 9112
section 9.3.2 (pipelining), section 7.1.2 (trailers, which are read over).
Trust: the peer may be anyone; nothing here waits for a login.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pigeonry.app.http_exchange import Exchange

if TYPE_CHECKING:
    from pigeonry.protocol.proxy import Source

__all__ = ["BoundedHttp", "State"]

HEAD_OCTETS_MAX: Final = 65_536  # request line and headers, to the next read; our own clients send under 2 KB
REQUEST_OCTETS_MAX: Final = 67_108_864  # 64 MiB: the largest form is 26 MiB, twice that when it is badly chunked
HEAD_S: Final = 20.0  # from the connection, or the first octet of a further request, to the end of the head
BODY_S: Final = 90.0  # for the body; the messages API gives up before, with an answer
LAST_S: Final = 1.0  # for a request that is on its way when the server stops: more than the way takes
UNREAD_S: Final = 60.0  # for a peer to read on when its answer fills the buffers, or to take the end of it
PIPELINED_MAX: Final = 32  # requests that wait behind the one being answered; each costs some 3 KB
SPARE_CONNECTIONS: Final = 256  # over those that are served, which get a 503 to read; more are closed unread

_HEAD_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)


class State(ServerState):
    """What the connections of one server share: uvicorn's, and whether the server stops.

    Who was still at its TLS handshake when the others were told to end learns it here.
    """

    stopping = False


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with bounds. ``check_time`` is to be called about once a second.

    Args:
        source: What a trusted balancer says of the client; None: whoever is connected is the client.
    """

    _until = math.inf  # by when what is being received must be there
    _unread_until = math.inf  # by when the peer must have read on
    _idle_until = math.inf  # by when an answered connection must have its next request
    _octets = 0  # of the request being received
    _in_head = True
    _last = False  # whether this is the last request to be answered: the server stops

    def __init__(self, *given: Any, source: Source | None = None, **named: Any) -> None:
        super().__init__(*given, **named)
        self._source = source

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it when there are too many."""
        super().connection_made(transport)
        source = self._source
        if source is not None:
            if source.address:
                self.client = source.address, source.port
            if source.secure:
                self.scheme = "https"
        self._until = self.loop.time() + HEAD_S
        limit = self.limit_concurrency
        if limit is not None and len(self.connections) > limit + SPARE_CONNECTIONS:
            transport.abort()
        elif isinstance(self.server_state, State) and self.server_state.stopping:
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        """Take octets, and end a request that has too many."""
        self._idle_until = math.inf
        self._octets += len(data)
        self._read(data)
        if self._in_head:
            if self._octets > HEAD_OCTETS_MAX:
                self._refuse_head()
        elif self._octets > REQUEST_OCTETS_MAX:
            self.transport.abort()

    def check_time(self, now: float) -> None:
        """Cut the connection if it is overdue; ``now`` by the loop's clock."""
        if now >= self._until or now >= self._unread_until:
            self.transport.abort()
        elif now >= self._idle_until:
            self._idle_until = math.inf
            self.transport.close()
        elif self._unread_until == math.inf and self.transport.is_closing():
            self._unread_until = now + UNREAD_S

    def shutdown(self) -> None:
        """The server stops: the answer under way is the last one, or that to a request which is just on its way.

        Whoever is silent now may be speaking already: a connection that is closed on him is a request that failed.
        """
        self._last = True
        if self._is_silent():
            self.loop.call_later(LAST_S, self._close_if_silent)
        else:
            super().shutdown()

    def _is_silent(self) -> bool:
        """Whether nothing is being answered, and no body is on its way."""
        served = self.cycle is None or self.cycle.response_complete
        return served and (self._in_head or self._until == math.inf)

    def _close_if_silent(self) -> None:
        if self._is_silent() and not self.transport.is_closing():
            self.transport.close()

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._unread_until = self.loop.time() + UNREAD_S
        super().pause_writing()

    def resume_writing(self) -> None:
        """The peer has read."""
        self._unread_until = math.inf
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._octets = 0
        self._in_head = True
        self._until = self.loop.time() + HEAD_S
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there. Trailers must not join the headers, which are being read already."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return
        self._in_head = False
        self._until = self.loop.time() + BODY_S
        before = self.cycle
        self.cycle, app = self._exchange()
        self.headers = []
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, app)
            return
        self.flow.pause_reading()
        self.pipeline.appendleft((self.cycle, app))
        if len(self.pipeline) > PIPELINED_MAX:
            raise _TooManyRequests

    def _exchange(self) -> tuple[Exchange, Any]:
        """The request whose head is there, and who answers it."""
        parser, scope = self.parser, self.scope
        version = parser.get_http_version()
        url = httptools.parse_url(self.url)
        scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        scope["raw_path"] = url.path
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["query_string"] = url.query or b""
        limit = self.limit_concurrency
        busy = limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit)
        exchange = Exchange(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive() and not self._last,
            on_response=self.on_response_complete,
        )
        return exchange, service_unavailable if busy else self.app

    def on_response_complete(self) -> None:
        """An answer is on its way: the next request, if there is one already."""
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_until = self.loop.time() + self.timeout_keep_alive

    def on_message_complete(self) -> None:
        """All of it is there."""
        if self.parser.should_upgrade():
            return
        self._until = math.inf
        self._octets = 0
        super().on_message_complete()

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            version, method = self.parser.get_http_version().encode("ascii"), self.parser.get_method()
            headers = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
            head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(headers))
            self.parser = httptools.HttpRequestParser(self)
            self._read(head + data[upgrade.args[0] :])

    def _refuse_head(self) -> None:
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.write(_HEAD_TOO_LARGE)
        self.transport.close()


class _TooManyRequests(Exception):
    """Makes the parser stop; the peer is answered 400."""
