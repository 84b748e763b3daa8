"""A stage for delivery: virtual time, servers that follow a script, a store that is a list."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest
import structlog

from pigeonry.delivery.connection import Timeouts
from pigeonry.delivery.dispatcher import Dispatcher
from pigeonry.delivery.egress import Egress
from pigeonry.delivery.limits import DeliveryLimits
from pigeonry.delivery.opening import Opener
from pigeonry.delivery.policies import NO_POLICIES, Policies
from pigeonry.delivery.reach import everywhere
from pigeonry.delivery.routing import MxRouter, Router
from pigeonry.delivery.rulebook.book import EMPTY, RuleBook
from pigeonry.delivery.rulebook.rules import Provider
from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import DotSent, Message, MessageKey, Pending, RecipientView, Settle
from pigeonry.domain.message import RecipientState as State
from pigeonry.domain.outcome import Outcome
from pigeonry.ports.network import DnsFailure, MailExchanger, NoSuchDomain, TlsaAnswer, TlsPeer
from pigeonry.queue.ready import ReadyQueues
from pigeonry.quota.shares import Share
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededDice
from pigeonry.testing.loop import VirtualLoop
from pigeonry.testing.network import FakeDialer
from support.commits import followed

OFFERS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 1000000")
BODY = b"Subject: x\r\n\r\nhello\r\n.dotted\r\n"


class Script(msgspec.Struct):
    """What a server does. A reply of ``None`` is silence, ``CUT`` ends the connection instead of it."""

    offers: tuple[str, ...] = OFFERS
    replies: dict[str, bytes | None] = {}
    refuse: bool = False
    handshakes: list[bool | str] = []  # for each TLS handshake: whether it works, "unverified" for a bad certificate
    messages_max: int = 10_000  # then the connection is closed after the reply
    chain: tuple[bytes, ...] = ()


CUT = b"CUT"


class Server(asyncio.Protocol):
    """The server's side of one connection, pipelining-safe, that does as its script says."""

    def __init__(self, stage: Stage, script: Script) -> None:
        self.stage = stage
        self.script = script
        self.buffer = b""
        self.commands: list[bytes] = []
        self.in_data = False
        self.recipient = False
        self.taken = 0
        self.tls = False
        self.lost = False
        self.peer = ""
        self.asked_for = ""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.peer = transport.get_extra_info("peername")[0]
        self.say("GREETING", b"220 ready")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while not self.lost:
            if self.in_data:
                end = 0 if self.buffer.startswith(b".\r\n") else self.buffer.find(b"\r\n.\r\n") + 2
                if end == 1:
                    return
                content, self.buffer = self.buffer[:end], self.buffer[end + 3 :]
                self.in_data = False
                self.take(content)
            elif b"\r\n" in self.buffer:
                line, _, self.buffer = self.buffer.partition(b"\r\n")
                self.commands.append(line)
                self.obey(line.split(b" ", 1)[0].upper().decode())
            else:
                return

    def obey(self, verb: str) -> None:
        if verb == "EHLO":
            offers = [offer for offer in self.script.offers if not (self.tls and offer == "STARTTLS")]
            lines = [b"250-server.test", *[b"250-" + offer.encode() for offer in offers]]
            self.say("EHLO over TLS" if self.tls else "EHLO", b"\r\n".join([*lines, b"250 HELP"]))
        elif verb == "DATA":
            reply = self.script.replies.get("DATA", b"354 go on" if self.recipient else b"503 5.5.1 no recipient")
            self.in_data = bool(reply and reply.startswith(b"354"))
            self.put(reply)
        elif verb == "QUIT":
            self.say("QUIT", b"221 bye")
            if self.transport is not None:
                self.transport.close()
        else:
            reply = self.script.replies.get(verb, b"220 go" if verb == "STARTTLS" else b"250 2.0.0 ok")
            if verb == "RCPT":
                self.recipient = bool(reply and reply.startswith(b"2"))
            self.put(reply)

    def take(self, content: bytes) -> None:
        """The final dot is here."""
        if self.recipient and content:
            self.stage.arrived.append(content)
        self.taken += 1
        self.say("DOT", b"250 2.0.0 taken")
        if self.taken >= self.script.messages_max and self.transport is not None:
            self.transport.close()

    def say(self, stage: str, default: bytes | None) -> None:
        self.put(self.script.replies.get(stage, default))

    def put(self, reply: bytes | None) -> None:
        assert self.transport is not None
        if reply == CUT:
            self.transport.close()
            self.lost = True
        elif reply is None:
            self.lost = True  # silent from here on
        else:
            self.transport.write(reply + b"\r\n")


class Dialer(FakeDialer):
    """Whose TLS handshakes go as the script of the address says."""

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        *,
        server_name: str,
        verify: bool,
        timeout_s: float,
        keep_chain: bool = False,
    ) -> tuple[asyncio.Transport, TlsPeer]:
        await asyncio.sleep(0.01)
        server = transport.peer.get_protocol()
        server.asked_for = server_name
        how = server.script.handshakes.pop(0) if server.script.handshakes else True
        if how == "unverified" and verify:
            transport.reset()
            raise ssl.SSLCertVerificationError("self-signed")
        if how is False:
            transport.reset()
            raise ssl.SSLError("no")
        server.tls = True
        return transport, TlsPeer("TLSv1.3", "X", verify, chain=server.script.chain if keep_chain else ())


class Names:
    """A resolver that is two tables."""

    def __init__(self) -> None:
        self.exchangers: dict[str, tuple[MailExchanger, ...] | type[Exception]] = {}
        self.hosts: dict[str, tuple[str, ...] | type[Exception]] = {}
        self.asked: list[str] = []
        self.tlsas: dict[str, TlsaAnswer | type[DnsFailure]] = {}

    async def mx(self, domain: str) -> tuple[MailExchanger, ...]:
        self.asked.append(domain)
        return await self._found(self.exchangers, domain)

    async def addresses(self, host: str) -> tuple[str, ...]:
        return (host,) if host[0].isdigit() else await self._found(self.hosts, host)

    async def txt(self, name: str) -> tuple[str, ...]:
        raise NoSuchDomain(name)

    async def tlsa(self, host: str, port: int) -> TlsaAnswer | None:
        found = self.tlsas.get(host)
        if isinstance(found, type):
            raise found(host)
        return found

    async def _found(self, table: dict[str, Any], name: str) -> Any:
        await asyncio.sleep(0.01)
        found = table.get(name, NoSuchDomain)
        if isinstance(found, tuple):
            return found
        assert issubclass(found, NoSuchDomain | DnsFailure)
        raise found(name)


class Store:
    """Commits after a moment; ``faults`` are raised by the next ones."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.commits: list[DotSent] = []
        self.faults: list[BaseException] = []
        self.views: dict[int, RecipientView] = {}
        self.commit_s = 0.05

    @followed
    async def commit(self, transition: Any, *, deadline: float) -> None:
        await asyncio.sleep(self.commit_s)
        if self.faults:
            raise self.faults.pop(0)
        self.commits.append(transition)
        self.stage.trace.append("dot-sent")
        self.stage.passed("dot-sent")

    async def message(self, key: MessageKey) -> Message | None:
        found = self.stage.messages.get(key.serial)
        return None if found is None else found[0]

    async def recipient(self, pending: Pending) -> RecipientView | None:
        return self.views.get(pending.serial)


class Stage:
    """Everything that a test of delivery needs; ``play`` runs it on virtual time."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.dice = SeededDice("delivery")
        self.names = Names()
        self.scripts: dict[str, Script] = {}
        self.servers: list[Server] = []
        self.arrived: list[bytes] = []
        self.trace: list[str] = []
        self.addresses: set[str] = set()
        self.dialer = Dialer(self.loop, self, self.dice, spy=self.spy, addresses=self.addresses)
        self.written: list[bytes] = []
        self.store = Store(self)
        self.ready = ReadyQueues()
        self.outcomes: dict[int, Outcome] = {}
        self.told: dict[int, Message] = {}
        self.settlements: list[int] = []
        self.postponed: list[int] = []
        self.forgotten: list[int] = []
        self.aside: list[int] = []
        self.looks = 0
        self.cancelled: set[int] = set()
        self.messages: dict[int, tuple[Message, bytes]] = {}
        self.in_memory = True
        self.paused = False
        self.points: dict[str, list[asyncio.Event]] = {}
        self.settle_s = 0.05
        self.reach: Callable[[str], bool] = everywhere
        self.count = 0
        self.router: Router = MxRouter(self.names, clock=self.clock, dice=self.dice)
        self.signers: tuple[Any, ...] = ()
        self.domains: dict[str, Any] = {}
        self.egress: Egress | None = None
        self.book = EMPTY
        self.elsewhere: dict[str, Dialer] = {}
        """What connects by way of another node."""
        self.policies: Policies = NO_POLICIES

    # the network's side

    def answer(self, address: str, port: int) -> asyncio.Protocol | None:
        script = self.scripts.get(address)
        if script is None or script.refuse:
            return None
        server = Server(self, script)
        self.servers.append(server)
        return server

    def silent(self, address: str) -> bool:
        return False

    def handshake_fails(self, address: str) -> bool:
        return False

    def secured(self, server: asyncio.Protocol) -> None:
        raise AssertionError

    def spy(self, number: int, octets: bytes) -> None:
        self.written.append(octets)
        if octets.endswith(b"DATA\r\n"):
            self.passed("DATA")
        if octets.startswith(b".\r\n") or b"\r\n.\r\n" in octets:
            self.trace.append("dot")
            self.passed("dot")

    def knows(self, *providers: Provider) -> None:
        """Deliver by a rule book of these providers."""
        self.book = RuleBook(providers)
        self.router = MxRouter(self.names, clock=self.clock, dice=self.dice, book=self.book)

    def site(self, domain: str = "to.test", address: str = "198.51.100.1", **script: Any) -> Script:
        """A domain with one mail server."""
        host = f"mx.{domain}"
        self.names.exchangers[domain] = (MailExchanger(10, host),)
        self.names.hosts[host] = (address,)
        self.scripts[address] = Script(**script)
        return self.scripts[address]

    def passed(self, point: str) -> None:
        for waiting in self.points.pop(point, []):
            waiting.set()

    async def until(self, point: str) -> None:
        """Wait until delivery comes by: ``DATA`` was written, ``dot-sent`` is durable, the ``dot`` was written."""
        waiting = asyncio.Event()
        self.points.setdefault(point, []).append(waiting)
        await waiting.wait()

    # the queue's side

    async def get(self, key: MessageKey) -> tuple[Message, bytes]:
        return self.messages[key.serial]

    def kept(self, key: MessageKey) -> tuple[Message, bytes] | None:
        return self.messages[key.serial] if self.in_memory else None

    def settle(self, make: Callable[[], Settle], *, deadline: float, then: Callable[[], None]) -> None:
        settle = make()

        def end() -> None:
            self.settlements.append(settle.pending.serial)
            then()

        self.loop.call_later(self.settle_s, end)

    async def settled(self, settle: Settle, *, deadline: float) -> None:
        await asyncio.sleep(self.settle_s)
        self.settlements.append(settle.pending.serial)

    def claim(self, pending: Pending) -> bool:
        return pending.serial not in self.cancelled

    def postpone(self, pending: Pending, *, seconds: float) -> None:
        self.postponed.append(pending.serial)

    def forget(self, key: MessageKey, serial: int) -> None:
        self.forgotten.append(serial)

    def set_aside(self, pending: Pending) -> None:
        self.aside.append(pending.serial)

    def look_again(self) -> None:
        self.looks += 1

    def settlement(self, pending: Pending, message: Message, outcome: Outcome, now: float) -> Settle:
        self.outcomes[pending.serial] = outcome
        self.told[pending.serial] = message
        return Settle(pending, State.DELIVERED, b"")

    def pending(self, address: str = "user@to.test", *, body: bytes = BODY, **more: Any) -> Pending:
        """A recipient of a message of its own."""
        self.count += 1
        key = MessageKey(0, 1, self.count)
        self.messages[self.count] = (
            Message(
                key=key,
                account="acct",
                domain="send.test",
                reverse_path=more.pop("reverse_path", "bounce@send.test"),
                summary=EventMessage(MessageHeaders("1@send.test"), len(body)),
                accepted_at=0.0,
                expires_at=more.pop("expires_at", 1e12),
                **more,
            ),
            body,
        )
        message = self.messages[self.count][0]
        return Pending(
            key, self.count, 1, address, 0.0, "acct", message.domain, message.options.pool, message.expires_at
        )

    # delivery

    def opener(self) -> Opener:
        return Opener(
            resolver=self.names,
            dialer=self.dialer,
            clock=self.clock,
            hostname="me.test",
            timeouts=Timeouts(),
            reach=self.reach,
            through=self.elsewhere.__getitem__,
        )

    def dispatcher(
        self, *, ready: ReadyQueues | None = None, shares: Callable[[str, int], Share] = Share, **limits: Any
    ) -> Dispatcher:
        return Dispatcher(
            ready=ready or self.ready,
            content=self,
            scheduler=self,
            store=self.store,  # type: ignore[arg-type]
            router=self.router,
            opener=self.opener(),
            settlement=self.settlement,
            signers=lambda _: self.signers,
            domain=self.domains.get,
            render=lambda stored, *, address, variables: stored + address.encode() + variables + b"\r\n",
            clock=self.clock,
            dice=self.dice,
            log=structlog.get_logger(),
            limits=DeliveryLimits(**limits),
            shares=shares,
            egress=self.egress,
            policies=self.policies,
            book=self.book,
        )

    def deliver(self, *pendings: Pending, seconds: float = 30.0, **limits: Any) -> None:
        """Dispatch them all and let so much time pass."""

        async def main() -> None:
            dispatcher = self.dispatcher(**limits)
            async with running(dispatcher):
                for pending in pendings:
                    dispatcher.dispatch(pending)
                await asyncio.sleep(seconds)

        self.play(main())

    def play(self, main: Coroutine[Any, Any, None]) -> None:
        self.loop.play(main)


class running:  # noqa: N801
    """A dispatcher that runs for as long as the block."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher

    async def __aenter__(self) -> Dispatcher:
        self.task = asyncio.ensure_future(self.dispatcher.run())
        await asyncio.sleep(0)
        return self.dispatcher

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.loop.close()


@pytest.fixture
def run_dispatcher() -> Callable[[Dispatcher], running]:
    return running
