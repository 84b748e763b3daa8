"""The SMTP door on a real socket against clients that others wrote: smtplib, swaks, smtp-source."""

from __future__ import annotations

import asyncio
import shutil
import smtplib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage

import pytest
import uvloop

from pigeonry.app.tls import make_self_signed, server_context
from pigeonry.domain.networks import Networks
from support.process import need, need_perl
from support.smtp_door import Bench

TIME_S = 30.0


class Running:
    """A door in a thread of its own, on the loop it is made for."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._ready = threading.Event()
        self._context = context
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(TIME_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.bench = Bench(allow_plain_auth=False, trusted_networks=("127.0.0.2/32",))
        door = self.bench.door
        door.tls = self._context
        door.service = type(door.service)(hostname="mx.test", limits=door.config.limits, starttls=True, auth=True)
        plain = await self._loop.create_server(door.protocol_factory(tls=False), "127.0.0.1", 0)
        tls = await self._loop.create_server(door.protocol_factory(tls=True), "127.0.0.1", 0, ssl=self._context)
        self.port, self.tls_port = plain.sockets[0].getsockname()[1], tls.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        plain.close()
        tls.close()
        door.stop()
        await asyncio.sleep(0.05)

    def call(self, function: Callable[[], None]) -> None:
        """Run something on the door's loop."""
        self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        self.call(self._stop.set)
        self._thread.join(TIME_S)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make_self_signed(cert, key, names=("mx.test",), now=time.time())
    return server_context(str(cert), str(key))


@pytest.fixture
def door(context: ssl.SSLContext) -> Iterator[Running]:
    running = Running(context)
    yield running
    running.stop()


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def message() -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "ada@our.test", "b@dest.test", "Grüße"
    made.set_content(".dot\n..two\nä\n")
    return made


def test_smtplib_by_starttls(door: Running) -> None:
    with smtplib.SMTP("127.0.0.1", door.port, timeout=TIME_S) as client:
        assert client.ehlo()[0] == 250
        assert not client.has_extn("auth")
        assert client.starttls(context=unverified())[0] == 220
        client.login("postmaster@our.test", "secret")
        assert client.send_message(message(), mail_options=["BODY=8BITMIME"]) == {}
        assert client.send_message(message()) == {}
    made = door.bench.taken
    assert len(made) == 2
    assert made[0].summary.headers.subject == "Grüße"
    assert b" with ESMTPSA id " in made[0].body  # type: ignore[operator]
    assert b"\r\n.dot\r\n..two\r\n" in made[0].body  # type: ignore[operator]


def test_smtplib_by_implicit_tls(door: Running) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", door.tls_port, timeout=TIME_S, context=unverified()) as client:
        client.user, client.password = "postmaster@our.test", "secret"
        client.ehlo()
        assert client.auth("LOGIN", client.auth_login)[0] == 235
        client.send_message(message())
    assert len(door.bench.taken) == 1


def test_a_wrong_password_and_a_stranger_are_refused(door: Running) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", door.tls_port, timeout=TIME_S, context=unverified()) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.login("postmaster@our.test", "wrong")
        assert caught.value.smtp_code == 535
    with smtplib.SMTP("127.0.0.1", door.port, timeout=TIME_S) as client, pytest.raises(smtplib.SMTPSenderRefused) as no:
        client.send_message(message())
    assert no.value.smtp_code == 530


@pytest.mark.parametrize("size", [200_000, 3_000_000, 20_000_000])
def test_a_large_message_comes_in_whole(door: Running, size: int) -> None:
    text = b"From: ada@our.test\r\n\r\n" + b"".join(b".%075d\r\n" % number for number in range(size // 78))
    with smtplib.SMTP("127.0.0.1", door.port, timeout=TIME_S, source_address=("127.0.0.2", 0)) as client:
        client.sendmail("a@sender.test", ["b@dest.test"], text)
    made = door.bench.taken[0]
    stored = made.body if isinstance(made.body, bytes) else door.bench.spools[0].octets
    assert stored.split(b"\r\n\r\n", 1)[1] == text.split(b"\r\n\r\n", 1)[1]


def test_octets_behind_starttls_are_not_obeyed(door: Running) -> None:
    with socket.create_connection(("127.0.0.1", door.port), TIME_S) as plain:
        plain.recv(1000)
        plain.sendall(b"EHLO c\r\n")
        plain.recv(1000)
        plain.sendall(b"STARTTLS\r\nMAIL FROM:<evil@sender.test>\r\n")
        assert plain.recv(1000).startswith(b"503 5.5.1")
        assert plain.recv(1000) == b""


def test_a_failed_handshake_costs_nobody_else(door: Running) -> None:
    with socket.create_connection(("127.0.0.1", door.port), TIME_S) as plain:
        plain.recv(1000)
        plain.sendall(b"EHLO c\r\n")
        plain.recv(1000)
        plain.sendall(b"STARTTLS\r\n")
        assert plain.recv(1000).startswith(b"220")
        plain.sendall(b"this is no handshake\r\n")
        while plain.recv(1000):
            pass
    test_smtplib_by_starttls(door)
    end = time.monotonic() + TIME_S
    while door.bench.door.connections and time.monotonic() < end:
        time.sleep(0.01)
    assert not door.bench.door.connections
    assert not door.bench.door.tasks


def test_everything_sent_at_once_and_the_connection_half_closed(door: Running) -> None:
    with socket.create_connection(("127.0.0.1", door.port), TIME_S, source_address=("127.0.0.2", 0)) as plain:
        plain.sendall(b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@dest.test>\r\nDATA\r\n\r\nx\r\n.\r\n")
        plain.shutdown(socket.SHUT_WR)
        said = b""
        while piece := plain.recv(1000):
            said += piece
    assert said.endswith(b"250 2.0.0 Great success AAEAAE4gAAAAAAAAAAAABw\r\n")


def test_a_drained_door_says_why_it_closes(door: Running) -> None:
    with smtplib.SMTP("127.0.0.1", door.port, timeout=TIME_S) as client:
        client.ehlo()
        ended: list[asyncio.Task[None]] = []
        door.call(lambda: ended.append(asyncio.ensure_future(door.bench.door.drain(60.0))))
        assert client.getreply()[0] == 421
        assert client.sock is None or client.sock.recv(10) == b""


def test_swaks_with_starttls_and_a_login(door: Running) -> None:
    need("swaks")
    need_perl("Net::SSLeay")
    for method in ("PLAIN", "LOGIN"):
        done = subprocess.run(
            [
                *("swaks", "--server", f"127.0.0.1:{door.port}", "--tls", "--auth", method, "--pipeline"),
                *("--auth-user", "postmaster@our.test", "--auth-password", "secret"),
                *("--from", "ada@our.test", "--to", "b@dest.test,c@dest.test", "--header", "X-Mailgun-Tag: swaks"),
            ],
            capture_output=True,
            timeout=TIME_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        assert b"Great success" in done.stdout
    assert [len(made.recipients) for made in door.bench.taken] == [2, 2]
    assert door.bench.taken[0].tags == ("swaks",)


@pytest.mark.parametrize("options", [[], ["-d"]])
def test_smtp_source_with_many_sessions(door: Running, options: list[str]) -> None:
    need("smtp-source")
    program = shutil.which("smtp-source", path="/usr/sbin:/usr/bin") or "smtp-source"
    # smtp-source cannot choose its own address: trust the one it has.
    door.bench.door.clients._trusted = Networks(("127.0.0.1/32",))
    subprocess.run(
        [*(program, *options, "-s", "20", "-m", "500", "-l", "4096"), f"127.0.0.1:{door.port}"],
        timeout=TIME_S,
        check=True,
    )
    assert len(door.bench.taken) == 500
    assert all(isinstance(made.body, bytes) and len(made.body) > 4_000 for made in door.bench.taken)
