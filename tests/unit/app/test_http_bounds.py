import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from pigeonry.app import http_bounds
from pigeonry.app.http_bounds import (
    BODY_S,
    HEAD_OCTETS_MAX,
    HEAD_S,
    PIPELINED_MAX,
    REQUEST_OCTETS_MAX,
    SPARE_CONNECTIONS,
    UNREAD_S,
    BoundedHttp,
    State,
)

Client = Callable[[], "Peer"]
KEPT_S = 10


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted = self.closing = True

    def pause_reading(self) -> None:
        """Never asked to stop in a test."""

    def resume_reading(self) -> None:
        """As above."""


class Peer:
    """A client on one connection."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        self.wire = Wire()
        self.protocol = BoundedHttp(config, state, {})
        self.protocol.connection_made(self.wire)
        self.begun = asyncio.get_running_loop().time()

    def send(self, octets: bytes) -> None:
        self.protocol.data_received(octets)

    def cut_after(self, seconds: float) -> bool:
        self.protocol.check_time(self.begun + seconds + 1.0)
        return self.wire.aborted


async def _answer(_scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def connect() -> Client:
    config = uvicorn.Config(_answer, http=BoundedHttp, ws="none", lifespan="off", log_config=None, limit_concurrency=4)
    config.timeout_keep_alive = KEPT_S
    config.load()
    state = State()
    return lambda: Peer(config, state)


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_head_that_grows_without_end_is_refused(connect: Client) -> None:
    peer = connect()
    peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n")
    while not peer.wire.closing:
        peer.send(b"x-filler: " + b"a" * 1000 + b"\r\n")
        assert len(peer.protocol.headers) < HEAD_OCTETS_MAX / 1000 + 2
    assert peer.wire.written.startswith(b"HTTP/1.1 431 ")


async def test_a_request_line_that_grows_without_end_is_refused(connect: Client) -> None:
    peer = connect()
    peer.send(b"GET /")
    for _ in range(HEAD_OCTETS_MAX // 1000 + 2):
        peer.send(b"a" * 1000)
    assert peer.wire.closing


ASKED = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize("before", [b"", ASKED[:10], ASKED, ASKED + ASKED[:10]])
async def test_who_has_come_before_the_server_stops_is_answered_once(connect: Client, before: bytes) -> None:
    peer = connect()
    peer.send(before)
    await _turns()
    peer.protocol.shutdown()
    assert not peer.wire.closing
    peer.send((ASKED + ASKED)[len(before) :] if before.startswith(ASKED) else ASKED[len(before) :] + ASKED)
    await _turns()
    assert peer.wire.written.count(b"connection: close\r\n") == 1
    assert peer.wire.written.endswith(b"ok")
    assert peer.wire.closing


async def test_a_stopping_server_soon_closes_what_is_silent(connect: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bounds, "LAST_S", 0.0)
    idle, silent = connect(), connect()
    idle.send(ASKED)
    await _turns()
    for peer in (idle, silent):
        peer.protocol.shutdown()
    assert not idle.wire.closing
    assert not silent.wire.closing
    await _turns()
    assert idle.wire.closing
    assert silent.wire.closing


async def test_who_comes_to_a_server_that_stops_is_answered_once(connect: Client) -> None:
    connect().protocol.server_state.stopping = True  # type: ignore[attr-defined]
    peer = connect()
    peer.send(ASKED + ASKED)
    await _turns()
    assert peer.wire.written.count(b"connection: close\r\n") == 1
    assert peer.wire.closing


async def test_a_silent_connection_is_cut(connect: Client) -> None:
    assert not connect().cut_after(HEAD_S - 2)
    assert connect().cut_after(HEAD_S)


async def test_a_head_in_drops_is_cut_however_steady_they_come(connect: Client) -> None:
    peer = connect()
    for octet in b"GET / HTTP/1.1\r\nhost: a\r\nx":
        peer.send(bytes([octet]))
    assert peer.cut_after(HEAD_S)


async def test_a_body_in_drops_is_cut_even_when_the_request_was_answered(connect: Client) -> None:
    peer = connect()
    peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\na")
    await _turns()
    assert peer.wire.written.endswith(b"ok")
    peer.send(b"b")
    assert not peer.cut_after(HEAD_S)
    assert peer.cut_after(BODY_S)


async def test_a_body_without_end_is_cut(connect: Client) -> None:
    peer = connect()
    peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    await _turns()
    piece = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
    for _ in range(REQUEST_OCTETS_MAX // len(piece) + 1):
        peer.send(piece)
    assert peer.wire.aborted


async def test_trailers_do_not_join_the_headers(connect: Client) -> None:
    peer = connect()
    peer.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    headers = peer.protocol.scope["headers"]
    peer.send(b"0\r\nauthorization: Basic x\r\n\r\n")
    assert headers == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


async def test_requests_may_wait_but_not_in_any_number(connect: Client) -> None:
    few, many = connect(), connect()
    few.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * PIPELINED_MAX)
    many.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 5000)
    assert len(many.protocol.pipeline) <= PIPELINED_MAX + 1
    assert many.wire.closing
    for _ in range(PIPELINED_MAX):
        await _turns()
    assert few.wire.written.count(b"200 OK") == PIPELINED_MAX


async def test_an_answered_connection_waits_for_its_next_request(connect: Client) -> None:
    peer = connect()
    for _ in range(3):
        peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await _turns()
    assert peer.wire.written.count(b"200 OK") == 3
    peer.begun = asyncio.get_running_loop().time()
    assert not peer.cut_after(KEPT_S - 2)
    assert not peer.wire.closing
    assert not peer.cut_after(KEPT_S)
    assert peer.wire.closing


async def test_a_request_keeps_an_answered_connection(connect: Client) -> None:
    peer = connect()
    peer.send(ASKED)
    await _turns()
    peer.send(ASKED[:10])
    assert not peer.cut_after(KEPT_S)
    assert not peer.wire.closing


async def test_a_peer_that_does_not_read_its_answer_is_cut(connect: Client) -> None:
    peer = connect()
    peer.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    peer.protocol.pause_writing()
    peer.protocol.resume_writing()
    assert not peer.cut_after(UNREAD_S)
    peer.protocol.pause_writing()
    assert peer.cut_after(UNREAD_S)
    peer.protocol.connection_lost(None)
    await _turns()


async def test_a_peer_that_does_not_take_the_end_is_cut(connect: Client) -> None:
    peer = connect()
    peer.send(b"nonsense\r\n\r\n")
    assert peer.wire.written.startswith(b"HTTP/1.1 400 ")
    assert not peer.cut_after(1)
    assert peer.cut_after(1 + UNREAD_S)


async def test_connections_over_all_bounds_are_closed_unread(connect: Client) -> None:
    peers = [connect() for _ in range(4 + SPARE_CONNECTIONS + 1)]
    assert [peer.wire.aborted for peer in peers[-2:]] == [False, True]
    assert peers[0].protocol._until < math.inf


@pytest.mark.parametrize("cut", [0, 1, 40, 120, 151, 160])
@pytest.mark.parametrize("body", ["content-length: 32\r\n\r\n", "transfer-encoding: chunked\r\n\r\n20\r\n"])
async def test_a_body_is_a_body_though_the_request_asks_for_another_protocol(body: str, cut: int) -> None:
    seen: list[tuple[str, list[tuple[bytes, bytes]], bytes]] = []

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        octets, more = b"", True
        while more:
            event = await receive()
            octets, more = octets + event.get("body", b""), event.get("more_body", False)
        seen.append((scope["path"], scope["headers"], octets))
        await _answer(scope, receive, send)

    config = uvicorn.Config(app, http=BoundedHttp, ws="none", lifespan="off", log_config=None)
    config.load()
    peer = Peer(config, State())
    inner = b"GET /inner HTTP/1.1\r\nhost: a\r\n\r\n"
    asked = b"POST /outer HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    octets = asked + body.encode() + inner
    if "chunked" in body:
        octets += b"\r\n0\r\n\r\n"
    octets += b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"
    peer.send(octets[:cut])
    peer.send(octets[cut:])
    await _turns()
    assert [(path, octets) for path, _, octets in seen] == [("/outer", inner), ("/next", b"")]
    assert [name for name, _ in seen[0][1]][:2] == [b"host", b"connection"]
    assert peer.wire.written.count(b"HTTP/1.1 200 ") == 2


async def test_a_tunnel_is_refused(connect: Client) -> None:
    peer = connect()
    peer.send(b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await _turns()
    assert peer.wire.written.startswith(b"HTTP/1.1 400 ")
    assert peer.wire.closing
