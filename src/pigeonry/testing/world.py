"""A small world of mail servers that do everything a mail server can do to us.

Each server speaks SMTP as its own, independent reading of the standard has it, keeps what it took responsibility for,
and is unreliable as the dice say: it refuses connections, resets them at any stage, stays silent, answers 4yz and
5yz, or takes a message and loses the reply. What it took is known here whatever became of the reply: the test asks
this world what was really delivered.

Standards: RFC 5321; RFC 2920 (PIPELINING); RFC 3030 (CHUNKING); RFC 3207 (STARTTLS).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.ports.network import MailExchanger
from pigeonry.testing.network import WireEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.testing.dice import SeededDice

__all__ = ["Arrival", "FakeMx", "Temper", "World"]

STAGES: Final = ("connect", "EHLO", "MAIL", "RCPT", "DATA", "body", "dot", "reply")
"""Where a connection may break; ``dot`` is before the message was taken, ``reply`` is after."""


class Temper(msgspec.Struct, frozen=True, kw_only=True):
    """How likely things go wrong, each from 0.0 to 1.0.

    Args:
        refuse: A connection is refused.
        silent: Packets are lost, so that connecting times out.
        greet_4yz: The greeting is 421.
        broken: A connection breaks at one of its stages.
        stalls: Where it would break it stays silent instead.
        defer: A command is answered 4yz.
        reject: A recipient is answered 5yz.
        dns: A look-up fails.
        tls: A handshake fails.
        slow_s: Seconds that a reply may take.
    """

    refuse: float = 0.0
    silent: float = 0.0
    greet_4yz: float = 0.0
    broken: float = 0.0
    stalls: float = 0.3
    defer: float = 0.0
    reject: float = 0.0
    dns: float = 0.0
    tls: float = 0.0
    slow_s: float = 0.05


class Arrival(msgspec.Struct, frozen=True):
    """A message that a server took responsibility for.

    Args:
        at: Virtual time.
        recipient: One of its forward-paths.
        content: Its octets, dots unstuffed.
        source: The address that it came from.
    """

    at: float
    recipient: str
    content: bytes
    source: str


class World:
    """All mail servers, at addresses from 198.51.100.1 on.

    Args:
        loop: Whose time passes.
        dice: Decide on everything.
        temper: How unreliable the servers are; may be changed while time passes.
        sites: Number of domains ``site0.test``, ``site1.test`` ... each with one or two servers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, dice: SeededDice, temper: Temper, *, sites: int) -> None:
        self.loop = loop
        self.dice = dice
        self.temper = temper
        self.arrivals: list[Arrival] = []
        self.on_dot: Callable[[tuple[str, ...], bytes], None] | None = None
        """Told of every message that is complete at a server, before it decides on it."""
        self.on_line: Callable[[str], None] | None = None
        """Told of everything that servers hear and decide, for the trace."""
        self.exchangers: dict[str, list[MailExchanger]] = {}
        self.hosts: dict[str, list[str]] = {}
        for number in range(sites):
            servers = dice.count(1, 2)
            domain = f"site{number}.test"
            self.exchangers[domain] = [MailExchanger(10 * n, f"mx{n}.{domain}") for n in range(servers)]
            for n in range(servers):
                self.hosts[f"mx{n}.{domain}"] = [f"198.51.100.{1 + 2 * number + n}"]

    def domains(self) -> list[str]:
        """The domains there are."""
        return list(self.exchangers)

    def note(self, text: str) -> None:
        """Add to the trace."""
        if self.on_line is not None:
            self.on_line(text)

    def answer(self, address: str, port: int) -> asyncio.Protocol | None:
        """A server at this address, unless it refuses."""
        if self.dice.chance(self.temper.refuse):
            self.note(f"refuse {address}:{port}")
            return None
        return FakeMx(self, address)

    def silent(self, address: str) -> bool:
        """Whether connecting to it times out."""
        if self.dice.chance(self.temper.silent):
            self.note(f"silent {address}")
            return True
        return False

    def handshake_fails(self, address: str) -> bool:
        """Whether TLS fails with it."""
        if self.dice.chance(self.temper.tls):
            self.note(f"tls fails {address}")
            return True
        return False

    def secured(self, server: asyncio.Protocol) -> None:
        """TLS stands: the session begins anew."""
        assert isinstance(server, FakeMx), "it was made here"
        server.secured()


class FakeMx(asyncio.Protocol):
    """One connection to a mail server."""

    def __init__(self, world: World, address: str) -> None:
        self._world = world
        self._address = address
        self._dice = world.dice
        self._temper = world.temper
        self._transport: WireEnd | None = None
        self._buffer = bytearray()
        self._breaks_at = self._dice.choose(STAGES) if self._dice.chance(self._temper.broken) else ""
        self._stalled = False
        self._offers_tls = self._dice.chance(0.2)
        self._secure = False
        self._reverse_path: str | None = None
        self._recipients: list[str] = []
        self._in_data = False
        self._chunk_left = 0
        self._chunk_last = False
        self._content = bytearray()
        self._busy_until = 0.0

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or not."""
        assert isinstance(transport, WireEnd)
        self._transport = transport
        if transport.is_closing() or self._broken("connect"):
            return
        if self._dice.chance(self._temper.greet_4yz):
            self._reply("421 4.3.2 mx.test not now")
            self._close_soon()
        else:
            self._reply("220 mx.test ESMTP")

    def data_received(self, data: bytes) -> None:
        """Octets of the client: lines, or a message."""
        if self._stalled:
            return
        self._buffer += data
        while self._buffer and not self._stalled and self._step():
            pass

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the reason does not matter
        """It is over; an unfinished message is forgotten."""
        self._stalled = True

    def secured(self) -> None:
        """TLS stands."""
        self._secure = True
        self._reset()

    def _step(self) -> bool:
        """Handle what the buffer begins with; False when more is needed."""
        if self._in_data:
            return self._take_data()
        if self._chunk_left or self._chunk_last:
            return self._take_chunk()
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._buffer[:end]).decode("utf-8", "replace")
        del self._buffer[: end + 2]
        self._command(line)
        return True

    # -- commands

    def _command(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        verb = verb.upper()
        self._world.note(f"{self._address} {line}")
        if self._broken(verb):
            return
        if verb in {"MAIL", "RCPT", "DATA"} and self._dice.chance(self._temper.defer):
            self._reply("451 4.3.0 try again later")
            if verb == "DATA":
                self._reset()
            return
        handler = {
            "EHLO": self._ehlo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "BDAT": self._bdat,
            "RSET": self._rset,
            "STARTTLS": self._starttls,
            "QUIT": self._quit,
        }.get(verb)
        if handler is None:
            self._reply("500 5.5.1 what?")
        else:
            handler(rest)

    def _ehlo(self, _rest: str) -> None:
        self._reset()
        extensions = ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "SIZE 10000000"]
        if self._offers_tls and not self._secure:
            extensions.append("STARTTLS")
        lines = [f"250-{word}" for word in ["mx.test", *extensions[:-1]]]
        self._reply("\r\n".join([*lines, f"250 {extensions[-1]}"]))

    def _mail(self, rest: str) -> None:
        if self._reverse_path is not None:
            self._reply("503 5.5.1 one at a time")
            return
        self._reverse_path = rest[rest.index("<") + 1 : rest.index(">")]
        self._reply("250 2.1.0 ok")

    def _rcpt(self, rest: str) -> None:
        recipient = rest[rest.index("<") + 1 : rest.index(">")]
        if self._reverse_path is None:
            self._reply("503 5.5.1 MAIL first")
        elif self._dice.chance(self._temper.reject):
            self._reply("550 5.1.1 no such mailbox")
        else:
            self._recipients.append(recipient)
            self._reply("250 2.1.5 ok")

    def _data(self, _rest: str) -> None:
        if not self._recipients:
            self._reply("554 5.5.1 no valid recipients")
            return
        self._in_data = True
        self._reply("354 go on")

    def _bdat(self, rest: str) -> None:
        words = rest.split()
        self._chunk_left = int(words[0])
        self._chunk_last = len(words) > 1 and words[1].upper() == "LAST"

    def _rset(self, _rest: str) -> None:
        self._reset()
        self._reply("250 2.0.0 ok")

    def _starttls(self, _rest: str) -> None:
        self._reply("220 2.0.0 go on")

    def _quit(self, _rest: str) -> None:
        self._reply("221 2.0.0 bye")
        self._close_soon()

    # -- content

    def _take_data(self) -> bool:
        if self._broken("body"):
            return False
        if self._buffer.startswith(b".\r\n"):
            end, skip = 0, 3
        else:
            end = self._buffer.find(b"\r\n.\r\n")
            if end < 0:
                return False
            end, skip = end + 2, 3
        content = bytes(self._buffer[:end])
        del self._buffer[: end + skip]
        self._in_data = False
        if content.startswith(b"."):
            content = content[1:]
        self._complete(content.replace(b"\r\n.", b"\r\n"))
        return True

    def _take_chunk(self) -> bool:
        if self._broken("body"):
            return False
        taken = self._buffer[: self._chunk_left]
        del self._buffer[: len(taken)]
        self._content += taken
        self._chunk_left -= len(taken)
        if self._chunk_left:
            return False
        if self._chunk_last:
            self._chunk_last = False
            self._complete(bytes(self._content))
        else:
            self._reply("250 2.0.0 chunk")
        return True

    def _complete(self, content: bytes) -> None:
        """The octet that completes the message is here."""
        recipients = tuple(self._recipients)
        assert self._transport is not None
        source = str(self._transport.get_extra_info("peername")[0])
        if self._world.on_dot is not None:
            self._world.on_dot(recipients, content)
        self._reset()
        if self._broken("dot"):
            return
        if self._dice.chance(self._temper.defer):
            self._reply("452 4.2.2 no room just now")
            return
        for recipient in recipients:
            self._world.note(f"took {recipient} from {source}")
            self._world.arrivals.append(Arrival(self._world.loop.time(), recipient, content, source))
        if not self._broken("reply"):
            self._reply("250 2.0.0 taken")

    # -- answers

    def _reset(self) -> None:
        self._reverse_path = None
        self._recipients = []
        self._content = bytearray()

    def _broken(self, stage: str) -> bool:
        """Whether the connection breaks here, or falls silent."""
        if stage != self._breaks_at:
            return False
        self._breaks_at = ""
        self._stalled = True
        assert self._transport is not None
        if self._dice.chance(self._temper.stalls):
            self._world.note(f"{self._address} stalls at {stage}")
        else:
            self._world.note(f"{self._address} breaks at {stage}")
            self._transport.reset()
        return True

    def _reply(self, text: str) -> None:
        """Answer after a while, in order."""
        loop = self._world.loop
        transport = self._transport
        assert transport is not None
        self._busy_until = max(self._busy_until, loop.time() + self._dice.random() * self._temper.slow_s)
        octets = f"{text}\r\n".encode()
        self._at(self._busy_until, lambda: transport.write(octets))

    def _close_soon(self) -> None:
        assert self._transport is not None
        self._stalled = True
        self._at(self._busy_until, self._transport.close)

    def _at(self, when: float, action: Callable[[], None]) -> None:
        # A microsecond later each time: timers of the same moment come in no particular order.
        self._busy_until = when + 1e-6
        self._world.loop.call_at(self._busy_until, action)
