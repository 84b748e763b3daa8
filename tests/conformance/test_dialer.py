"""The dialer over real sockets on loopback, with real TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pigeonry.net.dialer import TcpDialer
from pigeonry.ports.network import SourceGone, TlsPeer
from support.certificates import Certificate
from support.process import missing_part, need


class Peer(asyncio.Protocol):
    """Collects what arrives."""

    def __init__(self) -> None:
        self.arrived = b""
        self.more = asyncio.Event()
        self.made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True

    def data_received(self, data: bytes) -> None:
        self.arrived += data
        self.more.set()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for mx.test, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mx.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "mx.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
async def port(certificate: Path) -> AsyncIterator[int]:
    """A server that says READY, waits for a line, starts TLS and echoes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with await asyncio.start_server(serving(context), "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def serving(context: ssl.SSLContext) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"READY\r\n")
        try:
            await reader.readline()
            writer.write(b"GO\r\n")
            await writer.start_tls(context)
            writer.write(await reader.readline())
            await reader.read()
        except OSError:
            return
        finally:
            writer.close()

    return serve


async def upgraded(
    dialer: TcpDialer, port: int, name: str, *, verify: bool, keep_chain: bool = False
) -> tuple[bytes, TlsPeer]:
    peer = Peer()
    transport = await dialer.dial(lambda: peer, "127.0.0.1", port, source="127.0.0.1", timeout_s=5.0)
    assert peer.made
    await peer.more.wait()
    assert peer.arrived == b"READY\r\n"
    peer.more.clear()
    transport.write(b"TLS\r\n")
    await peer.more.wait()
    peer.more.clear()
    transport, tls = await dialer.start_tls(
        transport, peer, server_name=name, verify=verify, timeout_s=5.0, keep_chain=keep_chain
    )
    transport.write(b"hello\r\n")
    await peer.more.wait()
    transport.abort()
    return peer.arrived, tls


async def test_connection_is_encrypted_with_any_certificate(port):
    arrived, tls = await upgraded(TcpDialer(), port, "mx.test", verify=False)
    assert arrived == b"READY\r\nGO\r\nhello\r\n"
    assert tls.version.startswith("TLSv1")
    assert not tls.verified


async def test_certificate_is_verified_against_the_roots(port, certificate):
    def trust() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(certificate))

    _, tls = await upgraded(TcpDialer(trust=trust), port, "mx.test", verify=True)
    assert tls.verified


@pytest.mark.parametrize(("trusted", "name"), [(False, "mx.test"), (True, "other.test")])
async def test_certificate_that_does_not_verify_ends_the_connection(port, certificate, trusted, name):
    def trust() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(certificate)) if trusted else ssl.create_default_context()

    with pytest.raises(ssl.SSLCertVerificationError):
        await upgraded(TcpDialer(trust=trust), port, name, verify=True)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_chain_is_what_the_server_showed(loop, tmp_path):
    root = Certificate("root", authority=True)
    leaf = Certificate("mx.test", issuer=Certificate("middle", issuer=root, authority=True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.write(tmp_path / "chain.pem"))

    async def asked() -> list[TlsPeer]:
        async with await asyncio.start_server(serving(context), "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return [
                (await upgraded(TcpDialer(), port, "mx.test", verify=False, keep_chain=keep))[1]
                for keep in (True, False)
            ]

    with asyncio.Runner(loop_factory=loop) as runner:
        kept, dropped = runner.run(asked())
    assert kept.chain == leaf.chain
    assert dropped.chain == ()


async def test_refused_connection_is_an_os_error():
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(OSError, match="Connect"):
        await TcpDialer().dial(Peer, "127.0.0.1", port, source="", timeout_s=5.0)


async def test_the_source_is_seen_at_the_other_end():
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.put_nowait(writer.get_extra_info("peername")[0])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for source in ("127.0.0.31", "127.0.0.32"):
            transport = await TcpDialer().dial(Peer, "127.0.0.1", port, source=source, timeout_s=5.0)
            assert transport.get_extra_info("sockname")[0] == source
            assert await seen.get() == source
            transport.abort()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_source_that_is_not_ours_is_said_to_be_gone(loop):
    async def dial() -> None:
        await TcpDialer().dial(Peer, "127.0.0.1", 25, source="192.0.2.77", timeout_s=5.0)

    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(SourceGone):
        runner.run(dial())


def test_an_address_is_ours_while_it_is_on_an_interface():
    dialer = TcpDialer()
    assert [dialer.has_address(address) for address in ("127.0.0.1", "127.9.9.9", "192.0.2.77", "2001:db8::77")] == [
        True,
        True,
        False,
        False,
    ]


def test_an_address_is_not_ours_because_it_can_be_bound():
    """``ip_nonlocal_bind``, as on hosts with keepalived: every address can be bound there."""
    need("unshare", "ip")
    script = """
        ip link set lo up && ip address add 192.0.2.5/32 dev lo && ip address add 2001:db8::5/128 dev lo nodad &&
        ip route add default dev lo && echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind &&
        echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind && exec "$0" -c "$1"
    """
    program = """
import socket
from pigeonry.net.dialer import TcpDialer
for address in ("192.0.2.5", "2001:db8::5", "192.0.2.6", "2001:db8::6"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    socket.socket(family, socket.SOCK_DGRAM).bind((address, 0))
    print(TcpDialer().has_address(address))
"""
    command = ["unshare", "--map-root-user", "--net", "sh", "-c", script, sys.executable, program]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if "unshare" in ran.stderr:
        missing_part("a kernel that lets us make a network namespace")
    assert (ran.stdout.split(), ran.stderr) == (["True", "True", "False", "False"], "")
