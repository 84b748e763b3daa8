"""The header before a door's protocol, on real transports of both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from pigeonry.app import proxied
from pigeonry.app.proxied import ProxyDoor
from pigeonry.app.tls import make_self_signed, server_context
from pigeonry.domain.networks import Networks
from pigeonry.protocol.proxy import Source
from support.proxy import v4

HEADER = v4("198.51.100.7", 4711)
CLIENT = Source("198.51.100.7", 4711)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


class Echo(asyncio.Protocol):
    """A door that repeats what it hears, and greets."""

    def __init__(self, source: Source | None) -> None:
        self.source = source
        self.heard = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"hello\n")

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.transport.write(data)

    def connection_lost(self, reason: Exception | None) -> None:
        self.lost.set_result(reason)


class Place:
    """A listener, what its doors were made with, and a client."""

    def __init__(self, trusted: str) -> None:
        self.proxy = ProxyDoor(Networks([trusted]), handshake_s=5.0, log=structlog.get_logger())
        self.made: list[Echo] = []

    def make(self, source: Source | None) -> Echo:
        self.made.append(Echo(source))
        return self.made[-1]

    async def dial(self, tls: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def place(trusted: str = "127.0.0.1/32", context: ssl.SSLContext | None = None) -> AsyncIterator[Place]:
    made = Place(trusted)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(made.proxy.before(made.make, door="smtp", context=context), "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.proxy.stop()
        for door in made.made:
            door.transport.abort()
            await door.lost


def test_what_follows_a_header_is_the_doors_however_it_is_split(run: Callable[[Any], Any]) -> None:
    async def every_split() -> None:
        async with place() as there:
            stream = HEADER + b"said\n"
            for cut in range(len(stream) + 1):
                reader, writer = await there.dial()
                writer.write(stream[:cut])
                await asyncio.sleep(0)
                if cut < len(stream):
                    writer.write(stream[cut:])
                assert await reader.readline() == b"hello\n"
                assert await reader.readline() == b"said\n"
                writer.close()
            assert {door.source for door in there.made} == {CLIENT}
            assert {door.heard for door in there.made} == {b"said\n"}
            assert not there.proxy.waiting

    run(every_split())


@pytest.mark.parametrize("header", [b"EHLO x\r\n", b"PROXY TCP4 x\r\nEHLO x\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_header_ends_the_connection_without_an_answer(run: Callable[[Any], Any], header: bytes) -> None:
    async def wrong() -> None:
        async with place() as there:
            reader, writer = await there.dial()
            writer.write(header)
            assert await silence(reader)
            assert there.proxy.refused == {("smtp", "malformed"): 1}
            assert (there.made, there.proxy.waiting) == ([], {})
            writer.close()

    run(wrong())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def silence(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def test_a_header_that_does_not_come_in_time_ends_the_connection(
    run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxied, "HEADER_S", 0.01)

    async def late() -> None:
        async with place() as there:
            reader, writer = await there.dial()
            writer.write(HEADER[:-1])
            assert await silence(reader)
            assert there.proxy.refused == {("smtp", "late"): 1}
            writer.close()

    run(late())


def test_who_leaves_before_his_header_is_forgotten_and_counted_by_nobody(run: Callable[[Any], Any]) -> None:
    async def gone() -> None:
        async with place() as there:
            _, writer = await there.dial()
            await until(lambda: len(there.proxy.waiting) == 1)
            writer.close()
            await until(lambda: not there.proxy.waiting)
            assert there.proxy.refused == {}

    run(gone())


def test_connections_that_wait_are_bounded_and_all_are_cut_at_the_end(
    run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxied, "WAITING_MAX", 2)

    async def crowd() -> None:
        async with place() as there:
            first = await there.dial()
            await until(lambda: len(there.proxy.waiting) == 1)
            others = [await there.dial() for _ in range(2)]
            assert await silence(first[0])  # who has taken longest gives way
            assert there.proxy.refused == {("smtp", "crowded"): 1}
            there.proxy.stop()
            for reader, writer in others:
                assert await silence(reader)
                writer.close()
            first[1].close()

    run(crowd())


def test_from_anybody_else_every_octet_is_the_doors(run: Callable[[Any], Any]) -> None:
    async def direct() -> None:
        async with place("192.0.2.0/24") as there:
            reader, writer = await there.dial()
            assert await reader.readline() == b"hello\n"
            writer.write(HEADER + b"\n")
            await reader.readexactly(len(HEADER) + 1)
            assert [(door.source, door.heard) for door in there.made] == [(None, HEADER + b"\n")]
            writer.close()

    run(direct())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder: Path = tmp_path_factory.mktemp("tls")
    make_self_signed(folder / "cert", folder / "key", names=("node.test",), now=time.time())
    return str(folder / "cert"), str(folder / "key")


def test_tls_begins_behind_the_header_even_in_the_same_segment(
    run: Callable[[Any], Any], certificate: tuple[str, str]
) -> None:
    async def hidden() -> None:
        async with place(context=server_context(*certificate)) as there:
            said = await through_tls(there.port, HEADER, b"said\n")
            assert said == b"hello\nsaid\n"
            assert [(door.source, door.heard) for door in there.made] == [(CLIENT, b"said\n")]
            assert not there.proxy.waiting

    run(hidden())


async def through_tls(port: int, header: bytes, text: bytes, *, early: bool = False) -> bytes:
    """Speak TLS by hand: the header leaves with the first octets of the handshake, the text with the last ones.

    Args:
        early: Whether those first octets are there before the server has taken the connection.
    """
    connected = None
    if early:
        connected = socket.create_connection(("127.0.0.1", port))
        connected.setblocking(False)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    if connected is not None:
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        connected.send(header + outgoing.read())
        reader, writer = await asyncio.open_connection(sock=connected)
    else:
        writer.write(header)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(65_536))
    tls.write(text)
    writer.write(outgoing.read())
    said = b""
    while len(said) < len(b"hello\n") + len(text):
        try:
            said += tls.read()
        except ssl.SSLWantReadError:
            incoming.write(await reader.read(65_536))
    writer.close()
    return said


def test_from_anybody_else_tls_begins_at_once_however_early_its_first_octets_are(
    run: Callable[[Any], Any], certificate: tuple[str, str]
) -> None:
    async def direct() -> None:
        async with place("192.0.2.0/24", context=server_context(*certificate)) as there:
            for early in (False, True, True):
                assert await through_tls(there.port, b"", b"said\n", early=early) == b"hello\nsaid\n"
            assert [(door.source, door.heard) for door in there.made] == [(None, b"said\n")] * 3
            assert not there.proxy.waiting

    run(direct())


@pytest.mark.parametrize("trusted", ["127.0.0.1/32", "192.0.2.0/24"], ids=["balancer", "direct"])
def test_who_is_silent_in_his_handshake_gives_way_to_the_quick_and_does_not_last(
    run: Callable[[Any], Any], certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch, trusted: str
) -> None:
    monkeypatch.setattr(proxied, "WAITING_MAX", 2)
    header = HEADER if trusted.startswith("127") else b""

    async def silent() -> None:
        async with place(trusted, server_context(*certificate)) as there:
            peers = []
            for _ in range(2):
                peers.append(await there.dial())
                peers[-1][1].write(header)
                await until(lambda: len(there.proxy.waiting) == len(peers))
            assert await through_tls(there.port, header, b"said\n") == b"hello\nsaid\n"
            assert await silence(peers[0][0])
            assert there.proxy.refused == {("smtp", "crowded"): 1}
            assert len(there.proxy.waiting) == 1
            there.proxy.handshake_s = 0.02
            late, writer = await there.dial()
            writer.write(header)
            assert await silence(late)
            for _, each in [*peers, (late, writer)]:
                each.close()

    run(silent())


def test_a_failed_handshake_leaves_nothing_behind(run: Callable[[Any], Any], certificate: tuple[str, str]) -> None:
    async def failed() -> None:
        async with place(context=server_context(*certificate)) as there:
            reader, writer = await there.dial()
            writer.write(HEADER + b"EHLO c.test\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert b"hello" not in await reader.read()
            await until(lambda: not there.proxy.waiting)
            assert there.made == []
            writer.close()

    run(failed())
