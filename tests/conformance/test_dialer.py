"""The dialer over real sockets on loopback, with real TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pigeonry.net.dialer import TcpDialer


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

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def upgraded(dialer: TcpDialer, port: int, name: str, *, verify: bool) -> tuple[bytes, object]:
    peer = Peer()
    transport = await dialer.dial(lambda: peer, "127.0.0.1", port, source="127.0.0.1", timeout_s=5.0)
    assert peer.made
    await peer.more.wait()
    assert peer.arrived == b"READY\r\n"
    peer.more.clear()
    transport.write(b"TLS\r\n")
    await peer.more.wait()
    peer.more.clear()
    transport, tls = await dialer.start_tls(transport, peer, server_name=name, verify=verify, timeout_s=5.0)
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


async def test_refused_connection_is_an_os_error():
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(OSError, match="Connect"):
        await TcpDialer().dial(Peer, "127.0.0.1", port, source="", timeout_s=5.0)
