import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from pigeonry.app.http_bounds import BoundedHttp

Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Send], Awaitable[None]]
ASKED = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps each write by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


def begin(*fields: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(fields)}


def body(octets: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": octets, "more_body": more}


def answering(*messages: dict[str, Any]) -> App:
    async def app(_scope: Any, _receive: Any, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def answered(app: App, asked: bytes = ASKED) -> Wire:
    config = uvicorn.Config(app, http=BoundedHttp, ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    wire = Wire()
    protocol = BoundedHttp(config, state, {})
    protocol.connection_made(wire)
    protocol.data_received(asked)
    for _ in range(10):
        await asyncio.sleep(0)
    return wire


TWO = (b"content-length", b"2")


async def test_an_answer_that_is_there_as_a_whole_leaves_in_one_write() -> None:
    wire = await answered(answering(begin((b"x-a", b"b"), TWO), body(b"ok")))
    assert wire.writes == [b"HTTP/1.1 200 OK\r\ndate: today\r\nx-a: b\r\ncontent-length: 2\r\n\r\nok"]
    assert not wire.closing


async def test_who_wants_no_further_answer_is_told_so_and_closed() -> None:
    wire = await answered(
        answering(begin(TWO), body(b"ok")), ASKED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    )
    assert wire.writes == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"]
    assert wire.closing


@pytest.mark.parametrize(
    ("messages", "asked", "written"),
    [
        ((begin(), body(b"ok")), ASKED, b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ((begin(TWO), body(b"o", more=True), body(b"k")), ASKED, b"content-length: 2\r\n\r\nok"),
        ((begin(TWO), body(b"ok")), ASKED.replace(b"GET", b"HEAD"), b"content-length: 2\r\n\r\n"),
        ((begin(status=204), body()), ASKED, b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n"),
        ((begin(TWO, (b"Connection", b"close")), body(b"ok")), ASKED, b"connection: close\r\n\r\nok"),
    ],
)
async def test_an_answer_out_of_the_ordinary_leaves_as_it_is(
    messages: tuple[dict[str, Any], ...], asked: bytes, written: bytes
) -> None:
    wire = await answered(answering(*messages), asked)
    assert b"".join(wire.writes).endswith(written)


async def test_a_bug_before_the_body_is_still_an_answer() -> None:
    async def app(_scope: Any, _receive: Any, send: Send) -> None:
        await send(begin(TWO))
        raise RuntimeError

    wire = await answered(app)
    assert b"".join(wire.writes).startswith(b"HTTP/1.1 500 ")
    assert wire.closing


@pytest.mark.parametrize(
    "messages",
    [
        (begin(TWO, (b"x-a", b"b\r\nx-c: d")), body(b"ok")),
        (begin(TWO), body(b"too long")),
        (begin(TWO), begin(TWO)),
        (body(b"ok"),),
    ],
)
async def test_nothing_malformed_is_written(messages: tuple[dict[str, Any], ...]) -> None:
    wire = await answered(answering(*messages))
    written = b"".join(wire.writes)
    assert b"x-c" not in written
    assert not written.endswith((b"ok", b"too long"))
