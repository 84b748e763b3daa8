"""An SMTP door on transports of memory, with everything behind it in the test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pigeonry.domain.errors import PigeonryError, StoreBusy
from pigeonry.domain.message import Accept, BodyRef, Message, MessageKey
from pigeonry.domain.submission import Submission
from pigeonry.domain.tenant import Caller, SendingDomain
from pigeonry.doors.smtp import SmtpDoor, SmtpDoorConfig
from pigeonry.doors.smtp.connection import Connection
from support.commits import Running

KEY = MessageKey(1, 20_000, 7)
NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 +0000
EHLO = b"EHLO client.test\r\n"
ENVELOPE = b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@dest.test>\r\n"
LOGIN = b"AUTH PLAIN AHBvc3RtYXN0ZXJAb3VyLnRlc3QAc2VjcmV0\r\n"  # postmaster@our.test, secret
WRONG_LOGIN = b"AUTH PLAIN AHBvc3RtYXN0ZXJAb3VyLnRlc3QAd3Jvbmc=\r\n"


class Clock:
    """Time that stands until it is moved; sleeping moves it."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class Ids:
    def octets(self, count: int) -> bytes:
        return bytes(range(count))


class Spool:
    """A spool in memory."""

    def __init__(self) -> None:
        self.octets = b""
        self.finished = self.discarded = False
        self.full = False

    @property
    def length(self) -> int:
        return len(self.octets)

    def write(self, octets: bytes | memoryview) -> None:
        if self.full:
            raise StoreBusy("The disk is full")
        self.octets += octets

    async def finish(self) -> bytes | BodyRef:
        await asyncio.sleep(0)
        self.finished = True
        return BodyRef(1, 2, -1, len(self.octets), 3)

    def discard(self) -> None:
        self.discarded = True


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__({"peername": (address, 4711)})
        self.written = b""
        self.closed = self.eof = self.aborted = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Client:
    """One client of the door."""

    def __init__(self, bench: Bench, *, address: str = "127.0.0.1", tls: bool = False) -> None:
        self.connection: Connection = bench.door.protocol_factory(tls=tls)()
        self.transport = Transport(address)
        self.connection.connection_made(self.transport)

    async def say(self, octets: bytes) -> list[str]:
        """Code and enhanced status, or first word, of each reply to these octets, once nothing moves any more."""
        start = len(self.transport.written)
        self.connection.data_received(octets)
        for _ in range(12):
            await asyncio.sleep(0)
        lines = self.transport.written[start:].decode().splitlines()
        return [" ".join(line.split(" ")[:2]) for line in lines if line[3:4] == " "]

    def lose(self) -> None:
        self.connection.connection_lost(None)


class Bench:
    """The door and what stands behind it."""

    def __init__(self, *, domains: dict[str, SendingDomain] | None = None, **settings: object) -> None:
        self.taken: list[Submission] = []
        self.deadlines: list[float] = []
        self.error: BaseException | None = None
        self.asks = False
        self.gate: asyncio.Event | None = None
        self.shed: str | None = None
        self.spools: list[Spool] = []
        self.spool_full = False
        self.logins: dict[tuple[str, str], Caller] = {
            ("postmaster@our.test", "secret"): Caller("acct", "postmaster@our.test", "sending", "our.test")
        }
        self.login_error: PigeonryError | Exception | None = None
        self.domains = {"our.test": SendingDomain("1" * 24, "our.test", "acct", 0.0)} if domains is None else domains
        self.clock = Clock()
        options = {
            "hostname": "mx.test",
            "trusted_networks": ("127.0.0.0/8",),
            "allow_plain_auth": True,
            **settings,
        }
        self.door = SmtpDoor(
            SmtpDoorConfig(**options),  # type: ignore[arg-type]
            intake=self,
            login=self._login,
            domains=self.domains.get,
            spool=self._spool,
            clock=self.clock,
            ids=Ids(),
            reason_to_shed=lambda: self.shed,
        )

    async def client(self, *, address: str = "127.0.0.1", login: bool = False, tls: bool = False) -> Client:
        """A client that has said EHLO."""
        client = Client(self, address=address, tls=tls)
        await client.say(EHLO)
        if login:
            assert await client.say(LOGIN) == ["235 2.7.0"]
        return client

    async def send(self, text: bytes, *, login: bool = False, envelope: bytes = ENVELOPE) -> list[str]:
        """One message from one client; the replies to its text."""
        client = await self.client(address="192.0.2.1" if login else "127.0.0.1", login=login)
        said = await client.say(envelope + b"DATA\r\n" + text + b".\r\n")
        return said[said.index(next(reply for reply in said if reply.startswith("354"))) + 1 :]

    async def stored(self, text: bytes, *, login: bool = False, envelope: bytes = ENVELOPE) -> bytes:
        """What is stored of a text, without the trace line."""
        assert await self.send(text, login=login, envelope=envelope) == ["250 2.0.0"]
        body = self.taken[-1].body
        assert isinstance(body, bytes)
        assert body.startswith(b"Received: from ")
        return body.split(b"+0000\r\n", 1)[1]

    def waits(self) -> bool:
        return self.asks

    def begin(self, make, *, octets: int, deadline: float, told) -> Running:
        async def taking() -> None:
            made = make()
            await self.accept(made, deadline=deadline)
            accepts.append(Accept(Message(KEY, "", "", "", made.summary, 0.0, 0.0), made.body, made.recipients, ()))

        accepts: list[Accept] = []
        running = Running(taking())
        running.then(lambda error: told(accepts[0] if accepts else None, error))
        return running

    async def accept(self, submission: Submission, *, deadline: float) -> MessageKey:
        self.deadlines.append(deadline - self.clock.time)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.taken.append(submission)
        return KEY

    async def _login(self, login: str, password: str) -> Caller | None:
        if self.login_error is not None:
            raise self.login_error
        return self.logins.get((login, password))

    def _spool(self) -> Spool:
        spool = Spool()
        spool.full = self.spool_full
        self.spools.append(spool)
        return spool


Refusing = Callable[[Bench], None]
