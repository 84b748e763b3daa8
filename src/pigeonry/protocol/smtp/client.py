"""The client's side of an SMTP session, one message for one recipient at a time.

Whoever drives it feeds it octets (``receive``), writes what ``take_output`` gives and acts on the events::

    greeting --> EHLO (HELO) --> Ready --> begin --> SendBody --> body, complete, final dot --> Finished
                    ^               |                   |         (follow)                         |
                    +-- secured <-- start_tls           +--> Finished (refused at MAIL, RCPT, DATA)|
                                    ^                                                              |
                                    +--------------------------------------------------------------+

MAIL, RCPT and DATA are one group where PIPELINING is offered, and ``follow`` lets the group of the next message leave
together with the final dot of the one before. Every message that was begun comes to one ``Finished`` or ``Lost``, in
order. ``Finished`` tells what the server said of the message, by the first reply that refused it. ``Lost`` tells that
it will never be known: the session broke. Whether that leaves the message in doubt shows in the stage (``Stage.DOT``).

Standards: RFC 5321 (sections 3, 4.1, 4.2); RFC 1870 (SIZE); RFC 2920 (PIPELINING; section 3.1: a lone dot when DATA is
accepted although nobody is to receive); RFC 3207 (STARTTLS; section 4.2: nothing learnt before TLS counts after it);
RFC 3461 (DSN parameters); RFC 6152 (8BITMIME); RFC 6531 (SMTPUTF8).
Trust: the server may be anyone's and say anything at any time. Nothing it says is acted upon but reply codes and
EHLO keywords; what came in before TLS was up is thrown away. Paths come from our own store and are checked again for
control characters, so that no command can be smuggled in by an address.
"""

from __future__ import annotations

import re
from collections import deque
from enum import IntEnum
from typing import Final

import msgspec

from pigeonry.domain.reply import Reply
from pigeonry.protocol.smtp.reply_parser import RemoteProtocolError, ReplyParser

__all__ = [
    "Capabilities",
    "Event",
    "Finished",
    "LocalProtocolError",
    "Lost",
    "NotWelcome",
    "Ready",
    "SendBody",
    "SmtpClient",
    "Stage",
    "TlsAgreed",
    "TlsRefused",
    "Transaction",
    "parse_capabilities",
]


class LocalProtocolError(Exception):
    """Our own side called for something that cannot be said now: a bug of ours, or an address with control octets."""


class Stage(IntEnum):
    """What a reply answers, in the order of a session."""

    GREETING = 0
    EHLO = 1
    HELO = 2
    STARTTLS = 3
    IDLE = 4
    RSET = 5
    MAIL = 6
    RCPT = 7
    DATA = 8
    BODY = 9
    """354 was given, the final dot has not left."""
    DOT = 10
    """The final dot is on its way or there: no reply now means in doubt."""
    EMPTY = 11
    """A lone dot was sent to end a DATA that should have been refused."""
    QUIT = 12
    CLOSED = 13


class Capabilities(msgspec.Struct, frozen=True):
    """What the server offers.

    Args:
        size_octets_max: The largest message it takes, 0 when it gave no limit.
    """

    extended: bool = False
    pipelining: bool = False
    starttls: bool = False
    eight_bit_mime: bool = False
    smtputf8: bool = False
    dsn: bool = False
    require_tls: bool = False
    size: bool = False
    size_octets_max: int = 0


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """The envelope of one message for one recipient, in octets as they go into the commands.

    Args:
        reverse_path: Without angle brackets; empty is the null reverse-path.
        size: Octets of the message, for SIZE.
        envelope_id, dsn_return, notify, original: The DSN parameters of RFC 3461 in xtext, sent where DSN is offered.
    """

    reverse_path: bytes
    forward_path: bytes
    size: int
    eight_bit: bool = False
    smtputf8: bool = False
    envelope_id: bytes = b""
    dsn_return: bytes = b""
    notify: bytes = b""
    original: bytes = b""


class Ready(msgspec.Struct, frozen=True, gc=False):
    """The session stands: ``SmtpClient.capabilities`` says what it can do."""


class NotWelcome(msgspec.Struct, frozen=True):
    """The server does not want a session: ``reply`` is its greeting or its answer to HELO."""

    stage: Stage
    reply: Reply


class TlsAgreed(msgspec.Struct, frozen=True, gc=False):
    """Start the TLS handshake now, then call ``secured``."""


class TlsRefused(msgspec.Struct, frozen=True):
    """STARTTLS was offered and then refused; the session goes on in clear if the driver wants that."""

    reply: Reply


class SendBody(msgspec.Struct, frozen=True, gc=False):
    """Write the body; call ``complete`` in the moment in which its final dot is written."""


class Finished(msgspec.Struct, frozen=True):
    """The server has spoken on the message: delivered when ``stage`` is DOT and the reply is positive."""

    stage: Stage
    reply: Reply


class Lost(msgspec.Struct, frozen=True):
    """The session broke while ``stage`` was waited for; ``IDLE`` when no message was under way."""

    stage: Stage
    description: str


Event = Ready | NotWelcome | TlsAgreed | TlsRefused | SendBody | Finished | Lost

_READY: Final = Ready()
_SEND_BODY: Final = SendBody()
_TLS_AGREED: Final = TlsAgreed()
_UNSAFE: Final = re.compile(rb"[\x00-\x20\x7f]")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_MAIL: Final = Stage.MAIL  # looked up once: reading a member of an enumeration costs as much as the comparison
_RCPT: Final = Stage.RCPT
_DATA: Final = Stage.DATA
_DOT: Final = Stage.DOT
_GROUP: Final = (_MAIL, _RCPT, _DATA)
_NOT_OFFERED: Final = Lost(_MAIL, "The session ended with the message before.")
_KEYWORDS_MAX: Final = 64  # lines of an EHLO reply that are looked at


def parse_capabilities(text: str) -> Capabilities:
    """What the lines of an EHLO reply offer; the first line is the server's name."""
    keywords: dict[str, str] = {}
    for line in text.split("\n")[1:_KEYWORDS_MAX]:
        keyword, _, parameters = line.strip().partition(" ")
        keywords.setdefault(keyword.upper(), parameters.strip())
    limit = keywords.get("SIZE", "")
    return Capabilities(
        extended=True,
        pipelining="PIPELINING" in keywords,
        starttls="STARTTLS" in keywords,
        eight_bit_mime="8BITMIME" in keywords,
        smtputf8="SMTPUTF8" in keywords,
        dsn="DSN" in keywords,
        require_tls="REQUIRETLS" in keywords,
        size="SIZE" in keywords,
        size_octets_max=int(limit) if limit.isascii() and limit.isdecimal() and len(limit) <= 20 else 0,
    )


class SmtpClient:
    """One session.

    Args:
        hostname: Our name for EHLO: a fully-qualified domain name or an address literal.
    """

    __slots__ = (
        "_encrypted",
        "_expected",
        "_failure",
        "_held",
        "_hostname",
        "_needs_reset",
        "_output",
        "_parser",
        "_state",
        "capabilities",
    )

    def __init__(self, *, hostname: str) -> None:
        self.capabilities = Capabilities()
        self._hostname = hostname.encode("ascii")
        self._parser = ReplyParser()
        self._expected: deque[Stage] = deque((Stage.GREETING,))
        self._held: deque[tuple[Stage, bytes]] = deque()
        self._output = b""
        self._failure: Finished | None = None
        self._needs_reset = False
        self._encrypted = False
        self._state = Stage.GREETING

    @property
    def stage(self) -> Stage:
        """What the session is at: the reply it waits for, BODY, IDLE or CLOSED."""
        return self._expected[0] if self._expected else self._state

    @property
    def idle(self) -> bool:
        """Whether a message may begin now."""
        return self._state is Stage.IDLE

    @property
    def closed(self) -> bool:
        """Whether the session is over: close the connection."""
        return self._state is Stage.CLOSED

    def take_output(self) -> bytes:
        """What is to be written now; empty when nothing is."""
        output = self._output
        self._output = b""
        return output

    def receive(self, octets: bytes) -> list[Event]:
        """Take octets from the server; returns the events they complete. Never raises for what the server sent."""
        events: list[Event] = []
        if self._state is Stage.STARTTLS and not self._expected:
            return events  # in clear, after TLS was agreed on: nobody's words
        self._parser.feed(octets)
        try:
            while self._state is not Stage.CLOSED and (reply := self._parser.next_reply()) is not None:
                self._take(reply, events)
        except RemoteProtocolError as error:
            self._break(str(error), events)
        return events

    def lost(self, description: str) -> list[Event]:
        """The connection ended, or a deadline passed: what that means for the message under way."""
        events: list[Event] = []
        if self._state is not Stage.CLOSED:
            self._break(description, events)
        return events

    def start_tls(self) -> None:
        """Ask for TLS.

        Raises:
            LocalProtocolError: Not now, not offered, or there is TLS already.
        """
        if self._state is not Stage.IDLE or self._encrypted or not self.capabilities.starttls:
            raise LocalProtocolError("STARTTLS cannot be said now.")
        self._state = Stage.STARTTLS
        self._say(Stage.STARTTLS, b"STARTTLS\r\n")

    def secured(self) -> None:
        """The handshake is done: greet anew; what was known of the server is forgotten."""
        if self._state is not Stage.STARTTLS or self._expected:
            raise LocalProtocolError("No TLS was agreed on.")
        self._parser.discard()
        self._encrypted = True
        self.capabilities = Capabilities()
        self._greet()

    def begin(self, transaction: Transaction) -> None:
        """Start a message: MAIL, RCPT and DATA.

        Raises:
            LocalProtocolError: A message is under way, or a path holds what no command may hold.
        """
        if self._state is not Stage.IDLE:
            raise LocalProtocolError("No message can begin now.")
        mail, rcpt = self._commands(transaction)
        self._state = Stage.MAIL
        if self.capabilities.pipelining:
            if self._needs_reset:
                self._say(Stage.RSET, b"RSET\r\n")
            self._output += b"%b%bDATA\r\n" % (mail, rcpt)
            self._expected += _GROUP
        else:
            self._held += ((Stage.MAIL, mail), (Stage.RCPT, rcpt), (Stage.DATA, b"DATA\r\n"))
            if self._needs_reset:
                self._say(Stage.RSET, b"RSET\r\n")
            else:
                self._say(*self._held.popleft())
        self._needs_reset = False

    def complete(self) -> None:
        """The final dot is being written by the driver, which gives it out right after this.

        Raises:
            LocalProtocolError: No body is being sent (any more).
        """
        if self._state is not Stage.BODY:
            raise LocalProtocolError("No body is being sent.")
        self._state = Stage.DOT
        self._expected.append(Stage.DOT)

    def follow(self, transaction: Transaction) -> None:
        """Start the next message behind a final dot that is just being written (RFC 2920 section 3.1).

        Its envelope is to be written right after that dot. Should the session end with the dot's reply, or before
        it, the message comes to ``Lost`` with ``Stage.MAIL``: it was not offered.

        Raises:
            LocalProtocolError: No dot was just written, PIPELINING is not offered, or a path holds what no command may
                hold. Nothing has changed then.
        """
        if self.stage is not _DOT or len(self._expected) != 1 or not self.capabilities.pipelining:
            raise LocalProtocolError("No message can follow now.")
        self._output += b"%b%bDATA\r\n" % self._commands(transaction)
        self._expected += _GROUP

    def quit(self) -> None:
        """Say goodbye. The connection may be closed as soon as that is written."""
        if self._state is Stage.IDLE:
            self._state = Stage.QUIT
            self._say(Stage.QUIT, b"QUIT\r\n")

    def _commands(self, transaction: Transaction) -> tuple[bytes, bytes]:
        capabilities = self.capabilities
        mail = b"MAIL FROM:<%b>" % _safe(transaction.reverse_path)
        rcpt = b"RCPT TO:<%b>" % _safe(transaction.forward_path)
        if capabilities.size:
            mail += b" SIZE=%d" % transaction.size
        if transaction.eight_bit and capabilities.eight_bit_mime:
            mail += b" BODY=8BITMIME"
        if transaction.smtputf8 and capabilities.smtputf8:
            mail += b" SMTPUTF8"
        if capabilities.dsn:
            if transaction.dsn_return:
                mail += b" RET=" + _safe(transaction.dsn_return)
            if transaction.envelope_id:
                mail += b" ENVID=" + _safe(transaction.envelope_id)
            if transaction.notify:
                rcpt += b" NOTIFY=" + _safe(transaction.notify)
            if transaction.original:
                rcpt += b" ORCPT=" + _safe(transaction.original)
        return mail + b"\r\n", rcpt + b"\r\n"

    def _say(self, stage: Stage, octets: bytes) -> None:
        self._expected.append(stage)
        self._output += octets

    def _greet(self) -> None:
        self._state = Stage.EHLO
        self._say(Stage.EHLO, b"EHLO " + self._hostname + b"\r\n")

    def _take(self, reply: Reply, events: list[Event]) -> None:
        if not self._expected:
            self._unasked(reply, events)
            return
        stage = self._expected.popleft()
        if stage is _MAIL or stage is _RCPT:
            if reply.code != 250 or self._held:
                self._envelope(stage, reply, events)
        elif stage is _DATA:
            self._data(reply, events)
        elif stage is _DOT:
            self._dot(reply, events)
        else:
            self._session(stage, reply, events)

    def _envelope(self, stage: Stage, reply: Reply, events: list[Event]) -> None:
        if 200 <= reply.code < 300:
            if self._held:
                self._say(*self._held.popleft())
            return
        if reply.code < 400:
            self._break("The server answered the envelope with a reply that asks for more.", events)
            return
        if self._failure is None:
            self._failure = Finished(stage, reply)
            self._needs_reset = stage is Stage.RCPT
        if reply.code == 421:
            self._finish(events, closed=True)
        elif not self._expected:
            self._held.clear()
            self._finish(events, closed=False)

    def _data(self, reply: Reply, events: list[Event]) -> None:
        if reply.code == 354:
            if self._failure is None:
                self._state = Stage.BODY
                events.append(_SEND_BODY)
            else:
                self._say(Stage.EMPTY, b".\r\n")
            return
        if reply.code < 400:
            self._break("The server answered DATA with a reply that is neither 354 nor a refusal.", events)
            return
        if self._failure is None:
            self._failure = Finished(Stage.DATA, reply)
            self._needs_reset = True
        self._finish(events, closed=reply.code == 421)

    def _dot(self, reply: Reply, events: list[Event]) -> None:
        followed = bool(self._expected)
        if 300 <= reply.code < 400:
            events.append(Lost(Stage.DOT, "The server answered the message with a reply that asks for more."))
        else:
            events.append(Finished(Stage.DOT, reply))
            if reply.code != 421:
                self._state = Stage.MAIL if followed else Stage.IDLE
                return
        self._state = Stage.CLOSED
        self._expected.clear()
        if followed:
            events.append(_NOT_OFFERED)

    def _session(self, stage: Stage, reply: Reply, events: list[Event]) -> None:
        if stage is Stage.GREETING:
            if reply.code == 220:
                self._greet()
            else:
                self._turned_away(stage, reply, events)
        elif stage is Stage.EHLO or stage is Stage.HELO:
            self._hello(stage, reply, events)
        elif stage is Stage.STARTTLS:
            if reply.code == 220:
                self._parser.discard()
                events.append(_TLS_AGREED)
            elif reply.code == 421:
                self._turned_away(stage, reply, events)
            else:
                self._state = Stage.IDLE
                events.append(TlsRefused(reply))
        elif stage is Stage.RSET:
            if reply.code != 250:
                self._finish_reset(reply, events)
            elif self._held:
                self._say(*self._held.popleft())
        elif stage is Stage.EMPTY:
            self._needs_reset = False
            self._finish(events, closed=not 200 <= reply.code < 600 or reply.code == 421)
        else:
            self._state = Stage.CLOSED

    def _hello(self, stage: Stage, reply: Reply, events: list[Event]) -> None:
        if reply.code == 250:
            self.capabilities = parse_capabilities(reply.text) if stage is Stage.EHLO else Capabilities()
            self._state = Stage.IDLE
            events.append(_READY)
        elif stage is Stage.EHLO and reply.permanent and not self._encrypted:
            self._state = Stage.HELO
            self._say(Stage.HELO, b"HELO " + self._hostname + b"\r\n")
        else:
            self._turned_away(stage, reply, events)

    def _turned_away(self, stage: Stage, reply: Reply, events: list[Event]) -> None:
        self._state = Stage.CLOSED
        self._expected.clear()
        events.append(NotWelcome(stage, reply))

    def _finish_reset(self, reply: Reply, events: list[Event]) -> None:
        """RSET cannot be refused by a sane server: the message was not offered, the session is over."""
        self._state = Stage.CLOSED
        self._expected.clear()
        self._held.clear()
        if reply.code >= 400:
            events.append(Finished(Stage.RSET, reply))
        else:
            events.append(Lost(Stage.RSET, "The server answered RSET with a reply that asks for more."))

    def _finish(self, events: list[Event], *, closed: bool) -> None:
        failure = self._failure
        assert failure is not None, "a message finishes here only when it was refused"
        self._failure = None
        self._state = Stage.CLOSED if closed else Stage.IDLE
        if closed:
            self._expected.clear()
            self._held.clear()
        events.append(failure)

    def _unasked(self, reply: Reply, events: list[Event]) -> None:
        """A reply that nothing asked for: a farewell, or a server out of step."""
        if self._state is Stage.BODY and reply.code >= 400:
            self._state = Stage.CLOSED
            events.append(Finished(Stage.BODY, reply))
        elif reply.code >= 400:
            self._break(f"The server closed the session ({reply.code}).", events)
        else:
            self._break("The server sent a reply that nothing asked for.", events)

    def _break(self, description: str, events: list[Event]) -> None:
        """The session is over. A refusal that was given before stands."""
        stage = self.stage
        followed = stage is _DOT and len(self._expected) > 1
        self._state = Stage.CLOSED
        self._expected.clear()
        self._held.clear()
        failure, self._failure = self._failure, None
        events.append(failure if failure is not None else Lost(stage, description))
        if followed:
            events.append(_NOT_OFFERED)


def _safe(octets: bytes) -> bytes:
    # A space is legal in a quoted local part only.
    if _UNSAFE.search(octets) and (_CONTROL.search(octets) or not octets.startswith(b'"')):
        raise LocalProtocolError("A path or parameter holds a control character or a bare space.")
    return octets
