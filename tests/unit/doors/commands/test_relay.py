"""Connections through another node: real sockets, real TLS between the nodes and inside it, and who would misuse them."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pigeonry.delivery.egress import Outlet
from pigeonry.delivery.lending import Lending
from pigeonry.domain.errors import BadRequest, NotAllowed, NotFound, NotOwner, PigeonryError
from pigeonry.domain.route import EgressSource
from pigeonry.doors.commands.far_dialer import FarDialer
from pigeonry.doors.commands.frames import frame
from pigeonry.doors.commands.peers import Peers
from pigeonry.doors.commands.relay import DIAL, RelayLimits, Relays
from pigeonry.doors.commands.wire import Command, encode_command
from pigeonry.net.dialer import TcpDialer
from pigeonry.net.environment import SystemClock
from pigeonry.ports.network import SourceGone
from pigeonry.ports.ownership import Member
from support.clusters import Called, called, calling, certificates, holds, raw, shown
from support.loops import on_both_loops

OURS = "127.0.0.12"
ABSENT = "192.0.2.77"
QUICK = RelayLimits(look_s=0.02, quiet_s=0.1)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("good"), "a", "b", "stranger", "mx")


class Receiver:
    """Greets, tells whom it sees, speaks TLS when asked to, and says everything back."""

    def __init__(self, good: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(good / "mx.crt", good / "mx.key")
        self.seen: list[str] = []
        self.heard = b""
        self.open = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.seen.append(writer.get_extra_info("peername")[0])
        writer.write(b"220 ready\r\n")
        try:
            while line := await reader.readline():
                self.heard += line
                writer.write(b"> " + line)
                if line == b"STARTTLS\r\n":
                    await writer.start_tls(self.context)
                elif line == b"QUIT\r\n":
                    writer.write(bytes(300_000) + b"bye\r\n")
                    break
        except OSError:
            pass
        finally:
            self.open -= 1
            writer.close()


class Node:
    """A node that lends, its receiver, and the one that borrows."""

    def __init__(self, good: Path, limits: RelayLimits) -> None:
        self.good = good
        self.clock = SystemClock()
        self.receiver = Receiver(good)
        self.outlets = {address: Outlet(EgressSource(address, address), math.inf) for address in (OURS, ABSENT)}
        self.outlets["127.0.0.13"] = Outlet(EgressSource("not-ours", "127.0.0.13"))
        self.outlets[""] = Outlet(EgressSource("", ""), math.inf)
        lending = Lending(self.outlets, hostname="a.test", may_reach=self.may_reach, clock=self.clock)
        self.relays = Relays(lending, dialer=TcpDialer(), clock=self.clock, limits=limits)
        self.peers: Peers = calling(shown(good, "b"))
        self.door: Called

    async def may_reach(self, address: str, port: int) -> bool:
        return address == "127.0.0.1" and port in {self.receiver.port, 1}

    async def member_of(self, node: str) -> Member | None:
        return self.door.member(node) if node == "a" else None

    def dialer(self, node: str = "a") -> FarDialer:
        near = TcpDialer(trust=lambda: ssl.create_default_context(cafile=str(self.good / "ca.crt")))
        return FarDialer(node, near=near, peers=self.peers, member_of=self.member_of)

    async def dial(self, *, address: str = "127.0.0.1", port: int = 0, source: str = OURS, node: str = "a") -> Session:
        session = Session()
        session.transport = await self.dialer(node).dial(
            lambda: session, address, port or self.receiver.port, source=source, timeout_s=5.0
        )
        return session


class Session(asyncio.Protocol):
    """A caller's end."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.arrived = b""
        self.names: tuple[Any, Any] = ("", "")
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.names = (transport.get_extra_info("sockname")[0], transport.get_extra_info("peername")[0])

    def data_received(self, data: bytes) -> None:
        self.arrived += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    async def hears(self, octets: bytes) -> None:
        await holds(lambda: octets in self.arrived)


@asynccontextmanager
async def lender(good: Path, limits: RelayLimits = QUICK) -> AsyncIterator[Node]:
    node = Node(good, limits)
    server = await asyncio.start_server(node.receiver.serve, "127.0.0.1", 0)
    node.receiver.port = server.sockets[0].getsockname()[1]
    async with server, called(shown(good, "a"), "b", relays=node.relays) as node.door:
        watch = asyncio.ensure_future(node.relays.run())
        try:
            yield node
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


@on_both_loops
async def test_the_receiver_sees_the_lenders_address_and_the_caller_knows_it(good: Path) -> None:
    async with lender(good) as node:
        session = await node.dial()
        assert session.names == (OURS, "127.0.0.1")
        await session.hears(b"220 ready\r\n")
        session.transport.writelines([b"EHLO ", b"x\r\n"])
        await session.hears(b"> EHLO x\r\n")
        assert node.receiver.seen == [OURS]
        assert (len(node.relays), node.door.door.connections) == (1, 0)
        session.transport.write(b"QUIT\r\n")
        await session.hears(b"bye\r\n")  # all of it, though the receiver closed behind it
        await holds(lambda: session.lost and not len(node.relays) and not node.receiver.open)


@on_both_loops
async def test_what_the_caller_said_last_arrives_though_it_closed(good: Path) -> None:
    async with lender(good) as node:
        session = await node.dial()
        session.transport.write(b"last\r\n")
        session.transport.close()
        await holds(lambda: node.receiver.heard == b"last\r\n" and not len(node.relays))


@on_both_loops
async def test_tls_runs_from_the_caller_to_the_receiver(good: Path) -> None:
    async with lender(good) as node:
        dialer, session = node.dialer(), Session()
        plain = await dialer.dial(lambda: session, "127.0.0.1", node.receiver.port, source=OURS, timeout_s=5.0)
        plain.write(b"STARTTLS\r\n")
        await session.hears(b"> STARTTLS\r\n")
        transport, peer = await dialer.start_tls(plain, session, server_name="mx", verify=True, timeout_s=5.0)
        assert peer.verified
        transport.write(b"secret\r\n")
        await session.hears(b"> secret\r\n")
        transport.abort()


def test_a_certificate_that_does_not_fit_is_found_out_by_the_caller(good: Path) -> None:
    """On the loop of nodes alone: the one of Python 3.11 cannot end TLS inside TLS in its handshake."""
    uvloop.run(expect_a_misfit(good))


async def expect_a_misfit(good: Path) -> None:
    async with lender(good) as node:
        dialer, session = node.dialer(), Session()
        plain = await dialer.dial(lambda: session, "127.0.0.1", node.receiver.port, source=OURS, timeout_s=5.0)
        plain.write(b"STARTTLS\r\n")
        await session.hears(b"> STARTTLS\r\n")
        with pytest.raises(ssl.SSLCertVerificationError):
            await dialer.start_tls(plain, session, server_name="other", verify=True, timeout_s=5.0)
        await holds(lambda: not len(node.relays))


@on_both_loops
async def test_a_connection_ends_with_the_lease_and_nothing_more_is_passed_on(good: Path) -> None:
    async with lender(good) as node:
        session, silent = await node.dial(), await node.dial()
        await session.hears(b"220 ready\r\n")
        node.outlets[OURS].until = -math.inf
        session.transport.write(b"too late\r\n")
        await holds(lambda: session.lost and silent.lost)
        await holds(lambda: not node.receiver.open)
        assert node.receiver.heard == b""
        with pytest.raises(SourceGone):
            await node.dial()


@on_both_loops
async def test_a_member_no_more_is_cut_off(good: Path) -> None:
    async with lender(good) as node:
        session = await node.dial()
        await session.hears(b"220 ready\r\n")
        node.door.members.clear()
        await holds(lambda: session.lost)
        with pytest.raises(SourceGone):
            await node.dial()


@on_both_loops
async def test_silence_is_bounded(good: Path) -> None:
    async with lender(good, RelayLimits(look_s=0.02, idle_s=0.0)) as node:
        session = await node.dial()
        await holds(lambda: session.lost)


@on_both_loops
async def test_there_are_so_many_and_no_more(good: Path) -> None:
    async with lender(good, RelayLimits(look_s=0.02, relays_max=2)) as node:
        first, _ = await node.dial(), await node.dial()
        with pytest.raises(SourceGone, match="Too many"):
            await node.dial()
        assert node.relays.refused == 1
        first.transport.abort()
        await holds(lambda: len(node.relays) == 1)
        await node.dial()


@on_both_loops
async def test_a_receiver_that_is_not_there_is_told_as_if_it_were_dialled_here(good: Path) -> None:
    async with lender(good) as node:
        with pytest.raises(ConnectionRefusedError):
            await node.dial(port=1)
        with pytest.raises(SourceGone):  # the lender's lease is for an address that it lost
            await node.dial(source=ABSENT)
        with pytest.raises(SourceGone):
            await node.dial(node="c")
        assert len(node.relays) == 0


@on_both_loops
async def test_a_node_that_drains_ends_what_is_quiet_and_waits_for_a_reply(good: Path) -> None:
    async with lender(good) as node:
        quiet, busy = await node.dial(), await node.dial()
        await quiet.hears(b"220 ready\r\n")
        await busy.hears(b"220 ready\r\n")
        busy.transport.write(b"no line yet")
        await holds(lambda: any(not relay.from_receiver for relay in node.relays._relays))
        draining = asyncio.ensure_future(node.relays.drain())
        await holds(lambda: quiet.lost)
        with pytest.raises(SourceGone, match="about to stop"):
            await node.dial()
        assert not busy.lost
        assert not draining.done()
        busy.transport.write(b"\r\n")
        await busy.hears(b"> no line yet\r\n")
        await holds(lambda: busy.lost and draining.done())


MISUSES: list[tuple[Callable[[int], Any], type[PigeonryError]]] = [
    (lambda port: {"source": "127.0.0.13", "address": "127.0.0.1", "port": port}, NotOwner),
    (lambda port: {"source": "", "address": "127.0.0.1", "port": port}, NotOwner),
    (lambda port: {"source": "0.0.0.0", "address": "127.0.0.1", "port": port}, NotOwner),
    (lambda port: {"source": OURS, "address": "127.0.0.2", "port": port}, NotAllowed),
    (lambda port: {"source": OURS, "address": "localhost", "port": port}, NotAllowed),
    (lambda port: {"source": OURS, "address": "127.0.0.1", "port": port + 1}, NotAllowed),
    (lambda _: {"source": OURS, "address": "127.0.0.1", "port": "25"}, BadRequest),
    (lambda _: {"source": OURS}, BadRequest),
    (lambda _: None, BadRequest),
    (lambda _: [OURS, "127.0.0.1", 25], BadRequest),
]


@on_both_loops
async def test_a_member_that_has_gone_wrong_gets_no_further_than_mail_does(good: Path) -> None:
    async with lender(good) as node:
        for number, (argument, refusal) in enumerate(MISUSES, 1):
            async with raw(node.door.port, shown(good, "b")) as peer:
                await peer.hear()
                with pytest.raises(refusal):
                    await peer.ask(DIAL, argument(node.receiver.port))
                assert await peer.hear() is None
            assert node.relays.refused == number
        assert node.receiver.seen == []
        assert len(node.relays) == 0


@on_both_loops
async def test_who_is_no_member_gets_nothing(good: Path) -> None:
    async with lender(good) as node:
        async with raw(node.door.port, shown(good, "stranger")) as peer:
            argument = {"source": OURS, "address": "127.0.0.1", "port": node.receiver.port}
            peer.say(frame(encode_command(Command(DIAL, argument))))
            with pytest.raises(NotAllowed):
                await peer.hear()
            assert await peer.hear() is None
        assert node.receiver.seen == []
        assert (len(node.relays), node.relays.refused) == (0, 0)


@on_both_loops
async def test_who_does_not_lend_knows_no_such_command(good: Path) -> None:
    async with called(shown(good, "a"), "b") as node, raw(node.port, shown(good, "b")) as peer:
        await peer.hear()
        with pytest.raises(NotFound):
            await peer.ask(DIAL, {"source": OURS, "address": "127.0.0.1", "port": 25})


@on_both_loops
async def test_octets_that_make_no_sense_from_a_lender_are_no_connection(good: Path) -> None:
    async def nonsense(_: Command) -> Any:
        return {"address": 7}

    async with called(shown(good, "a"), "b", act=nonsense) as door:

        async def member_of(node: str) -> Member | None:
            return door.member(node)

        dialer = FarDialer("a", near=TcpDialer(), peers=calling(shown(good, "b")), member_of=member_of)
        with pytest.raises(SourceGone):
            await dialer.dial(Session, "127.0.0.1", 25, source=OURS, timeout_s=5.0)


async def test_a_drain_ends_when_the_last_one_could_not_be_made() -> None:
    asked, decided = asyncio.Event(), asyncio.Event()

    class Undecided:
        async def lend(self, source: str, address: str, port: int) -> Callable[[], bool]:
            asked.set()
            await decided.wait()
            raise NotOwner("not ours")

    class Caller:
        def write(self, octets: bytes) -> None:
            pass

    async def known() -> bool:
        return True

    relays = Relays(Undecided(), dialer=TcpDialer(), clock=SystemClock())
    wanted = {"source": "127.0.0.13", "address": "127.0.0.1", "port": 25}
    serving = asyncio.ensure_future(
        relays.serve(Command(DIAL, wanted), asyncio.StreamReader(), Caller(), is_known=known)  # type: ignore[arg-type]
    )
    await asked.wait()
    draining = asyncio.ensure_future(relays.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    decided.set()
    async with asyncio.timeout(10):
        await asyncio.gather(serving, draining)
