"""The doors behind balancers: whose address counts, and what a balancer's word is worth."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from pigeonry.app.tls import make_self_signed
from support.process import free_port, until
from support.proxy import block, v4
from support.serving import Receiver, Serving, serving

BALANCER = "127.0.0.2"  # the whole of 127.0.0.0/8 is this machine: another address makes another peer
GATEWAY = "127.0.0.3"
CLIENT = "198.51.100.7"
LINE = f"PROXY TCP4 {CLIENT} 192.0.2.1 4711 25\r\n".encode()
BLOCK = v4(CLIENT, 4711)
SECURE = v4(CLIENT, 4711, b"\x20\x00\x05\x01\x00\x00\x00\x00")  # the client spoke TLS with the balancer


class Edge(NamedTuple):
    node: Serving
    receiver: Receiver
    ports: dict[str, int]
    key: str


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make_self_signed(cert, key, names=("node.test",), now=time.time())
    https, smtps = free_port(), free_port()
    more = {
        "http_more": f'tls_listen = ["127.0.0.1:{https}"]',
        "smtp_more": f'tls_listen = ["127.0.0.1:{smtps}"]',
        "more": f'[tls]\ncert = "{cert}"\nkey = "{key}"\n[edge]\nproxy_protocol_from = ["{BALANCER}/32"]\n'
        f'forwarded_from = ["{GATEWAY}/32", "192.0.2.0/24"]\n',
    }
    with serving(folder, workers=1, start=False, **more) as (node, receiver):
        node.config.write_text(node.config.read_text().replace('"127.0.0.0/8"', f'"{CLIENT}/32"'))
        node.start()
        ports = {"smtp": node.smtp, "smtps": smtps, "http": node.http, "https": https}
        node.command("domain", "add", "ours.test")
        yield Edge(node, receiver, ports, str(node.command("key", "create")["key"]))
        assert node.stop() == 0


def dial(port: int, header: bytes = b"", *, tls: bool = False, source: str = BALANCER) -> socket.socket:
    """A connection that begins with these octets."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
    plain.sendall(header)
    return anything().wrap_socket(plain) if tls else plain


def anything() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def hear(connection: socket.socket, *words: bytes) -> bytes:
    """What comes until one of these words is in it."""
    octets = b""
    while not any(word in octets for word in words):
        piece = connection.recv(65_536)
        assert piece, octets
        octets += piece
    return octets


def read_all(connection: socket.socket) -> bytes:
    """What comes until the end."""
    octets = b""
    while piece := connection.recv(65_536):
        octets += piece
    return octets


@pytest.mark.parametrize("header", [LINE, BLOCK], ids=["line", "block"])
@pytest.mark.parametrize("door", ["smtp", "smtps"])
def test_the_client_of_a_session_is_who_the_balancer_says(edge: Edge, door: str, header: bytes) -> None:
    recipient = f"{door}-{len(header)}@dest.test"
    with dial(edge.ports[door], header, tls=door == "smtps") as session:
        hear(session, b"220 ")
        session.sendall(b"EHLO c.test\r\nMAIL FROM:<a@other.test>\r\nRCPT TO:<%b>\r\nDATA\r\n" % recipient.encode())
        hear(session, b"\n354 ")  # the client may relay: it is its address that is trusted
        session.sendall(b"Subject: x\r\n\r\ntext\r\n.\r\n")
        assert session.recv(200).startswith(b"250 ")
    until(lambda: edge.receiver.by_recipient[recipient] == 1, "it is delivered")
    assert any(f"Received: from c.test ([{CLIENT}])".encode() in text for text in edge.receiver.texts)


@pytest.mark.parametrize("header", [LINE, BLOCK], ids=["line", "block"])
@pytest.mark.parametrize("door", ["http", "https"])
def test_the_client_of_a_request_is_who_the_balancer_says(edge: Edge, door: str, header: bytes) -> None:
    recipient = f"{door}-{len(header)}@dest.test"
    with dial(edge.ports[door], header, tls=door == "https") as connection:
        connection.sendall(post(edge.key, recipient))
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
    assert accepted(edge, recipient)["originating-ip"] == CLIENT


@pytest.mark.parametrize(
    ("source", "header", "client"),
    [(GATEWAY, b"", CLIENT), (BALANCER, v4("192.0.2.9", 1), CLIENT), ("127.0.0.1", b"", "127.0.0.1")],
    ids=["gateway", "gateway behind a balancer", "anybody"],
)
def test_a_gateways_fields_count_and_nobody_elses(edge: Edge, source: str, header: bytes, client: str) -> None:
    recipient = f"forwarded-{source}@dest.test"
    request = post(edge.key, recipient).replace(b"Host: h\r\n", b"Host: h\r\nX-Forwarded-For: %b\r\n" % CLIENT.encode())
    with dial(edge.ports["http"], header, source=source) as connection:
        connection.sendall(request)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
    assert accepted(edge, recipient)["originating-ip"] == client


def post(key: str, recipient: str) -> bytes:
    """A message as a request that ends its connection."""
    body = urllib.parse.urlencode({"from": "a@ours.test", "to": recipient, "subject": "x", "text": "x"}).encode()
    login = base64.b64encode(f"api:{key}".encode())
    return (
        b"POST /v3/ours.test/messages HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Basic %b\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%b" % (login, len(body), body)
    )


def accepted(edge: Edge, recipient: str) -> dict[str, str]:
    """The event of a recipient's acceptance."""
    query = (
        f"GET /v3/ours.test/events?event=accepted&recipient={recipient} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    )
    login = base64.b64encode(f"api:{edge.key}".encode()).decode()
    found: list[dict[str, str]] = []

    def there() -> bool:
        with dial(edge.ports["http"], source="127.0.0.1") as connection:
            connection.sendall(f"{query}Authorization: Basic {login}\r\n\r\n".encode())
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            found[:] = json.loads(answer.partition(b"\r\n\r\n")[2])["items"]
        return bool(found)

    until(there, "the event is found")
    return found[0]


@pytest.mark.parametrize(
    ("door", "header", "scheme"), [("http", BLOCK, "http"), ("http", SECURE, "https"), ("https", BLOCK, "https")]
)
def test_urls_begin_as_the_client_has_asked(edge: Edge, door: str, header: bytes, scheme: str) -> None:
    login = base64.b64encode(f"api:{edge.key}".encode())
    with dial(edge.ports[door], header, tls=door == "https") as connection:
        connection.sendall(
            b"GET /v3/ours.test/events HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\nAuthorization: Basic %b\r\n\r\n"
            % login
        )
        answer = read_all(connection)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["paging"]["next"].startswith(f"{scheme}://api.test/v3/")


def test_tls_ended_at_the_balancer_counts_as_tls(edge: Edge) -> None:
    for header, offers in ((BLOCK, b"STARTTLS"), (SECURE, b"AUTH PLAIN")):
        with dial(edge.ports["smtp"], header) as session:
            hear(session, b"220 ")
            session.sendall(b"EHLO c.test\r\n")
            said = hear(session, b"\n250 ")
            assert [word in said for word in (b"STARTTLS", b"AUTH PLAIN")] == [
                word == offers for word in (b"STARTTLS", b"AUTH PLAIN")
            ]


@pytest.mark.parametrize("door", ["smtp", "smtps", "http", "https"])
def test_a_balancer_without_a_header_is_cut_off_unanswered_and_counted(edge: Edge, door: str) -> None:
    before = refused(edge, door)
    with dial(edge.ports[door]) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert cut_off(connection)
    assert refused(edge, door) == before + 1
    assert edge.node.lines("proxy_header_refused")[0]["peer"] == BALANCER


def cut_off(connection: socket.socket) -> bool:
    """Whether the connection ends without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def refused(edge: Edge, door: str) -> float:
    """Connections that were refused for their header."""
    with dial(edge.node.ops, source="127.0.0.1") as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        lines = read_all(connection).decode().splitlines()
    mine = [
        line for line in lines if line.startswith("pigeonry_proxy_headers_refused_total{") and f'door="{door}"' in line
    ]
    return sum(float(line.rpartition(" ")[2]) for line in mine)


def test_a_header_from_anybody_else_is_not_read(edge: Edge) -> None:
    for door, answer in (("smtp", b"\n500 "), ("http", b"HTTP/1.1 400 ")):
        with dial(edge.ports[door], LINE, source="127.0.0.1") as connection:
            hear(connection, answer)
    with dial(edge.ports["smtps"], LINE, source="127.0.0.1") as session, suppress(ConnectionResetError):
        assert b"220 " not in read_all(session)  # it is no TLS, and that is all


@pytest.mark.parametrize("door", ["smtp", "smtps"])
def test_who_comes_directly_needs_no_header(edge: Edge, door: str) -> None:
    with dial(edge.ports[door], tls=door == "smtps", source="127.0.0.1") as session:
        hear(session, b"220 ")
        session.sendall(b"EHLO c.test\r\nMAIL FROM:<a@other.test>\r\nRCPT TO:<r@dest.test>\r\n")
        hear(session, b"\n530 ")  # it is not trusted to relay


def test_a_balancers_own_connections_are_its_own(edge: Edge) -> None:
    for header in (block(0x20, 0, b""), b"PROXY UNKNOWN\r\n"):
        with dial(edge.ports["smtp"], header) as session:
            hear(session, b"220 ")
