"""The server's side of an SMTP session: octets in, events out, reply back. No socket, no clock.

Whoever drives it feeds it octets (``receive``), writes what ``take_output`` gives, and acts on the events one at a
time. ``MailGiven``, ``CredentialsGiven`` and ``MessageGiven`` wait for ``accept`` or ``refuse``, ``TextGiven`` and
``TextAbandoned`` for ``resume``; until then nothing more is read, so a pipelining client is answered in order::

    CONNECTED --EHLO--> GREETED --MAIL--> MAIL --RCPT--> RCPT --DATA--> DATA --CRLF.CRLF--> ANSWER --> GREETED
        ^                |  |                             |  ^                               ^
        |                |  +--AUTH--> CHALLENGE          |  +-> CHUNKS <--BDAT--> CHUNK ----+ (LAST)
        +--- secured -- TLS (STARTTLS)                    +--RSET--> GREETED

``ALLOWED`` says which command is taken in which state. Every session ends: errors, logins, transactions and commands
that lead to no message are counted (``service.Limits``).

Decisions: only CRLF ends a line and only CRLF.CRLF ends DATA. A message with a bare CR or LF is read to its end and
refused with 550 5.6.11. Octets behind STARTTLS in the same read came unprotected, from anyone: they are dropped,
STARTTLS is refused and the session ends. PLAIN and LOGIN protect nothing of what follows them, so commands behind AUTH
are simply answered in order.

Standards: RFC 5321 (SMTP; section 4.1.4 order of commands, 4.5.3.1 limits), RFC 1870 (SIZE), RFC 2034 and RFC 3463
(ENHANCEDSTATUSCODES), RFC 2920 (PIPELINING), RFC 3030 (CHUNKING), RFC 3207 (STARTTLS), RFC 3461 (DSN), RFC 4954
(AUTH; section 4 for cancelling and line length), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8).
Trust: the client may be anyone and send anything. Memory held for it is bounded by ``data.HELD_OCTETS_MAX``, the
longest line, the recipients, and one read; replies never repeat its octets.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Final

from pigeonry.protocol.smtp import server_replies as replies
from pigeonry.protocol.smtp.data import TextReceiver
from pigeonry.protocol.smtp.grammar import (
    CommandError,
    ForwardPath,
    ReversePath,
    parse_chunk,
    parse_hello,
    parse_mail,
    parse_rcpt,
)
from pigeonry.protocol.smtp.password_exchange import MECHANISMS, PasswordExchange
from pigeonry.protocol.smtp.server_events import (
    CredentialsGiven,
    Event,
    MailGiven,
    MessageGiven,
    SessionEnded,
    TextAbandoned,
    TextGiven,
    TlsAsked,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.domain.reply import Reply
    from pigeonry.protocol.smtp.service import Service

__all__ = [
    "ALLOWED",
    "CredentialsGiven",
    "Event",
    "MailGiven",
    "MessageGiven",
    "SessionEnded",
    "SmtpServer",
    "State",
    "TextAbandoned",
    "TextGiven",
    "TlsAsked",
]

LINE_OCTETS_MAX: Final = 512  # RFC 5321 section 4.5.3.1.4, with its CRLF
MAIL_LINE_OCTETS_MAX: Final = 512 + 26 + 17 + 10 + 107 + 500  # SIZE, BODY, SMTPUTF8, DSN, AUTH: what each RFC adds
RCPT_LINE_OCTETS_MAX: Final = 512 + 10 + 528  # RFC 6531 section 3.4 and RFC 3461 section 4 (NOTIFY, ORCPT)
AUTH_LINE_OCTETS_MAX: Final = 12_288  # RFC 4954 section 4

_LINE_OCTETS_OF: Final = {b"MAIL": MAIL_LINE_OCTETS_MAX, b"RCPT": RCPT_LINE_OCTETS_MAX, b"AUTH": AUTH_LINE_OCTETS_MAX}
_ALONE: Final = re.compile(rb"[\r\n\x00]")  # what no line may hold
_OTHER_PROTOCOLS: Final = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH"})


class State(IntEnum):
    """Where a session stands. Up to CHUNKS, the next octets are a command."""

    CONNECTED = 0
    GREETED = 1
    MAIL = 2
    RCPT = 3
    CHUNKS = 4
    CHALLENGE = 5
    DATA = 6
    CHUNK = 7
    ANSWER = 8
    """The driver owes an answer to an event."""
    TLS = 9
    ENDED = 10


# Members by names of the module: an attribute of an enum class costs Python 3.11 a call each time.
_CONNECTED: Final = State.CONNECTED
_GREETED: Final = State.GREETED
_MAIL: Final = State.MAIL
_RCPT: Final = State.RCPT
_CHUNKS: Final = State.CHUNKS
_CHALLENGE: Final = State.CHALLENGE
_DATA: Final = State.DATA
_CHUNK: Final = State.CHUNK
_ANSWER: Final = State.ANSWER
_TLS: Final = State.TLS
_ENDED: Final = State.ENDED

_AT_ANY_TIME: Final = frozenset({State.CONNECTED, State.GREETED, State.MAIL, State.RCPT, State.CHUNKS})

ALLOWED: Final[dict[bytes, frozenset[State]]] = {
    b"EHLO": _AT_ANY_TIME,
    b"HELO": _AT_ANY_TIME,
    b"STARTTLS": frozenset({State.GREETED}),
    b"AUTH": frozenset({State.GREETED}),
    b"MAIL": frozenset({State.GREETED}),
    b"RCPT": frozenset({State.MAIL, State.RCPT}),
    b"DATA": frozenset({State.RCPT}),
    b"BDAT": frozenset({State.RCPT, State.CHUNKS}),
    b"RSET": _AT_ANY_TIME,
    b"NOOP": _AT_ANY_TIME,
    b"VRFY": _AT_ANY_TIME,
    b"EXPN": _AT_ANY_TIME,
    b"HELP": _AT_ANY_TIME,
    b"QUIT": _AT_ANY_TIME,
}
"""Which command is taken in which state; anywhere else it is 503 5.5.1."""


_ABANDONED: Final = TextAbandoned()
_NO_EXCHANGE: Final = PasswordExchange(b"PLAIN")  # stands until AUTH begins one


class SmtpServer:
    """One session.

    Args:
        service: What the listener shares.
        secure: Whether TLS was up before the first octet.
        trusted: Whether the client may send without AUTH.
    """

    __slots__ = (
        "_at",
        "_chunk_last",
        "_chunk_left",
        "_chunk_refusal",
        "_chunk_state",
        "_chunks_refused",
        "_draining",
        "_errors",
        "_excess_recipients",
        "_exchange",
        "_forward_paths",
        "_given",
        "_idle_commands",
        "_input",
        "_logins",
        "_output",
        "_reverse_path",
        "_service",
        "_skipping",
        "_text",
        "_transactions",
        "authenticated",
        "extended",
        "hello",
        "secure",
        "state",
        "trusted",
    )

    def __init__(self, service: Service, *, secure: bool, trusted: bool) -> None:
        self._service = service
        self.secure = secure
        self.trusted = trusted
        self.authenticated = False
        self.hello = ""
        self.extended = False
        self.state = _CONNECTED
        self._input = b""
        self._at = 0
        self._output = b""
        self._skipping = self._draining = self._given = False
        self._reverse_path: ReversePath | None = None
        self._forward_paths: list[ForwardPath] = []
        self._text: TextReceiver | None = None
        self._chunk_left = 0
        self._chunk_last = self._chunks_refused = False
        self._chunk_refusal: Reply | None = None
        self._chunk_state = _CONNECTED
        self._exchange = _NO_EXCHANGE
        self._errors = self._idle_commands = self._excess_recipients = self._logins = self._transactions = 0

    @property
    def held(self) -> int:
        """Octets that wait until the driver answers: it should stop reading when they are many."""
        return len(self._input) - self._at

    @property
    def reverse_path(self) -> ReversePath:
        """What MAIL said, while a transaction is open."""
        assert self._reverse_path is not None, "there is no transaction"
        return self._reverse_path

    def take_output(self) -> bytes:
        """What is to be written now."""
        output = self._output
        self._output = b""
        return output

    def greet(self) -> None:
        """Say who we are."""
        self._output += self._service.greeting

    def receive(self, octets: bytes) -> Event | None:
        """Take octets from the client; the next event, or None when there is none yet."""
        if self._input:
            octets = self._input[self._at :] + octets
        elif self.state <= _CHUNKS and LINE_OCTETS_MAX >= len(octets) == octets.find(b"\r\n") + 2 > 1:
            # One command, whole, as clients without PIPELINING send them: nothing to hold, nothing to loop over.
            return self._read_line(octets[:-2])
        self._input, self._at = octets, 0
        if self.state == _DATA:
            return self._read_text() or self._advance()
        if self.state >= _TLS:
            # Plain octets where TLS should begin, or after the end: nobody may rely on them.
            ended = self.state == _ENDED
            self._drop_input()
            return None if ended else self._end(None)
        return self._advance()

    def accept(self, reply: bytes = replies.OK) -> Event | None:
        """Agree to what the last event asked for, and go on.

        Args:
            reply: The encoded positive reply to a message; MAIL and AUTH have their own.
        """
        assert self.state == _ANSWER, "nothing was asked"
        if self._text is not None:
            self._output += reply
            self._idle_commands = 0
            self._close_transaction()
        elif self._reverse_path is not None:
            self._output += replies.SENDER_OK
            self.state = _MAIL
        else:
            self._output += replies.AUTHENTICATED
            self.authenticated = True
            self.state = _GREETED
        return self._advance()

    def refuse(self, reply: Reply) -> Event | None:
        """Decline what the last event asked for, and go on; 421 ends the session."""
        assert self.state == _ANSWER, "nothing was asked"
        login = self._reverse_path is None
        self._close_transaction()
        if reply.code == 421:
            return self._end(reply)
        self._output += reply.octets()
        return (self._count_login() if login else None) or self._advance()

    def resume(self) -> Event | None:
        """Go on after ``TextGiven`` or ``TextAbandoned``."""
        return self._advance()

    def secured(self) -> None:
        """TLS is up: forget what was learnt without it (RFC 3207 section 4.2)."""
        assert self.state == _TLS, "TLS was not asked for"
        self.secure = True
        self.authenticated = False
        self.hello = ""
        self.state = _CONNECTED

    def drain(self) -> Event | None:
        """End the session with 421 4.3.2 where no transaction is under way: now, or at the end of the one there is.

        A client in a transaction may go on with it for as long as the driver lets it.
        """
        self._draining = True
        return self._end(replies.CLOSING) if self.state <= _GREETED else None

    def time_out(self, reply: Reply) -> Event | None:
        """End the session now, whatever it is about, unless the answer to a message is owed."""
        return self._end(reply) if self.state != _ANSWER else None

    # --- reading

    def _advance(self) -> Event | None:
        while True:
            state = self.state
            if self._draining and state <= _GREETED:
                return self._end(replies.CLOSING)
            if self._at >= len(self._input):
                self._drop_input()
                return None
            if state >= _ANSWER:
                return None
            if state <= _CHALLENGE:
                end = self._input.find(b"\r\n", self._at)
                if end < 0:
                    self._hold_line()
                    return None
                line = self._input[self._at : end]
                self._at = end + 2
                event = self._read_line(line)
            elif state == _DATA:
                event = self._read_text()
            else:
                event = self._read_chunk()
            if event is not None:
                return event

    def _hold_line(self) -> None:
        """Keep the beginning of a line, but no more of one that is already too long."""
        held = self._input[self._at :]
        if self._skipping or len(held) > self._line_max(held[:4].upper()):
            self._skipping = True
            held = b"\r" if held.endswith(b"\r") else b""
        self._input, self._at = held, 0

    def _line_max(self, start: bytes) -> int:
        if self.state == _CHALLENGE:
            return AUTH_LINE_OCTETS_MAX
        return _LINE_OCTETS_OF.get(start, LINE_OCTETS_MAX)

    def _read_line(self, line: bytes) -> Event | None:
        if self._skipping or (len(line) > LINE_OCTETS_MAX - 2 and len(line) > self._line_max(line[:4].upper()) - 2):
            return self._fail_line()
        if self.state == _CHALLENGE:
            return self._read_response(line)
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        command = self._COMMANDS.get(verb)
        if command is None:
            return self._fail_unknown(verb)
        if self.state not in ALLOWED[verb] and verb != b"BDAT":
            return self._fail(self._out_of_order(verb))
        try:
            return command(self, argument)
        except CommandError as error:
            return self._fail(error.reply)

    def _fail_line(self) -> Event | None:
        self._skipping = False
        if self.state == _CHALLENGE:
            self.state = _GREETED
        return self._fail(replies.LINE_TOO_LONG)

    def _fail_unknown(self, verb: bytes) -> Event | None:
        if verb in _OTHER_PROTOCOLS:
            return self._end(replies.NOT_SMTP)
        return self._fail(replies.BAD_LINE if _ALONE.search(verb) else replies.UNKNOWN)

    def _out_of_order(self, verb: bytes) -> Reply:
        if self.state == _CONNECTED:
            return replies.HELLO_FIRST
        if self.state == _GREETED:
            return replies.MAIL_FIRST
        if self.state == _MAIL and verb in {b"DATA", b"BDAT"}:
            return replies.RCPT_FIRST
        return replies.NESTED

    # --- commands, each with its argument

    def _ehlo(self, argument: bytes) -> Event | None:
        self.hello = parse_hello(argument)
        self.extended = True
        return self._restart(self._service.extended_hello_reply(secure=self.secure))

    def _helo(self, argument: bytes) -> Event | None:
        self.hello = parse_hello(argument)
        self.extended = False
        return self._restart(self._service.hello_reply)

    def _rset(self, argument: bytes) -> Event | None:
        if argument.strip(b" "):
            return self._fail(replies.NO_ARGUMENT)
        return self._restart(replies.OK)

    def _restart(self, reply: bytes) -> Event | None:
        given = self._given
        self._close_transaction()
        if ended := self._count_command():
            return ended
        self._output += reply
        return _ABANDONED if given else None

    def _noop(self, argument: bytes) -> Event | None:
        return self._say(replies.OK, argument)

    def _vrfy(self, argument: bytes) -> Event | None:
        return self._say(replies.CANNOT_VERIFY, argument)

    def _help(self, argument: bytes) -> Event | None:
        return self._say(replies.HELP, argument)

    def _say(self, reply: bytes, argument: bytes) -> Event | None:
        if _ALONE.search(argument):
            return self._fail(replies.BAD_LINE)
        if ended := self._count_command():
            return ended
        self._output += reply
        return None

    def _expn(self, _argument: bytes) -> Event | None:
        return self._fail(replies.NOT_OFFERED)

    def _quit(self, argument: bytes) -> Event | None:
        if argument.strip(b" "):
            return self._fail(replies.NO_ARGUMENT)
        self._output += replies.BYE
        self._end(None)
        return SessionEnded(quit=True)

    def _starttls(self, argument: bytes) -> Event | None:
        if not self._service.starttls or self.secure:
            return self._fail(replies.NOT_OFFERED)
        if argument.strip(b" "):
            return self._fail(replies.NO_ARGUMENT)
        if self._at < len(self._input):
            return self._end(replies.TLS_GROUPED)
        self._output += replies.READY_FOR_TLS
        self.state = _TLS
        return TlsAsked()

    def _mail(self, argument: bytes) -> Event | None:
        if not (self.trusted or self.authenticated):
            return self._fail(replies.AUTH_REQUIRED)
        limits = self._service.limits
        if self._transactions >= limits.transactions_max:
            return self._end(replies.ENOUGH_TRANSACTIONS)
        reverse_path = parse_mail(argument)
        if reverse_path.size > limits.message_octets_max:
            return self._fail(replies.TOO_LARGE)
        self._transactions += 1
        self._idle_commands += 1
        if self._idle_commands > limits.idle_commands_max:
            return self._end(replies.ENOUGH_COMMANDS)
        self._reverse_path = reverse_path
        self.state = _ANSWER
        return MailGiven(reverse_path)

    def _rcpt(self, argument: bytes) -> Event | None:
        assert self._reverse_path is not None
        paths, limit = self._forward_paths, self._service.limits.recipients_max
        path = parse_rcpt(argument, smtputf8=self._reverse_path.smtputf8, hostname=self._service.hostname)
        if len(paths) >= limit:
            self._excess_recipients += 1
            if self._excess_recipients > limit:
                return self._end(replies.ENOUGH_COMMANDS)
            self._output += replies.TOO_MANY_RECIPIENTS.octets()
            return None
        paths.append(path)
        self._output += replies.RECIPIENT_OK
        self.state = _RCPT
        return None

    def _data(self, argument: bytes) -> Event | None:
        if argument.strip(b" "):
            return self._fail(replies.NO_ARGUMENT)
        self._text = self._receiver()
        self._output += replies.GO_AHEAD
        self.state = _DATA
        return None

    def _bdat(self, argument: bytes) -> Event | None:
        """A chunk's octets are read whatever we think of it: else they would be taken for commands."""
        try:
            size, last = parse_chunk(argument)
        except CommandError as error:
            return self._end(error.reply)
        if not size and (ended := self._count_command()):
            return ended
        self._chunk_left, self._chunk_last = size, last
        self._chunk_refusal = self._reason_against_chunk(size)
        if self._chunk_refusal is not None:
            self._chunk_state = self.state
        elif self._text is None:
            self._text = self._receiver()
        self.state = _CHUNK
        return self._finish_chunk() if not size else None

    def _reason_against_chunk(self, size: int) -> Reply | None:
        if self.state not in ALLOWED[b"BDAT"]:
            return self._out_of_order(b"BDAT")
        if self._chunks_refused:
            return replies.CHUNKS_REFUSED
        if size + (self._text.received if self._text else 0) > self._service.limits.message_octets_max:
            self._chunks_refused = True
            return replies.TOO_LARGE
        return None

    def _receiver(self) -> TextReceiver:
        limits = self._service.limits
        return TextReceiver(octets_max=limits.message_octets_max, line_octets_max=limits.text_line_octets_max)

    def _auth(self, argument: bytes) -> Event | None:
        if not self._service.auth:
            return self._fail(replies.NOT_OFFERED)
        if self.authenticated:
            return self._fail(replies.AUTH_DONE)
        if not self._service.offers_auth(secure=self.secure):
            return self._fail(replies.AUTH_NEEDS_TLS)
        mechanism, _, initial = argument.strip(b" ").partition(b" ")
        if mechanism.upper() not in MECHANISMS:
            return self._fail(replies.AUTH_UNKNOWN)
        self._exchange = PasswordExchange(mechanism.upper())
        if initial:
            return self._read_response(initial)
        self._challenge()
        return None

    def _challenge(self) -> None:
        self._output += self._exchange.challenge()
        self.state = _CHALLENGE

    def _read_response(self, line: bytes) -> Event | None:
        self.state = _GREETED
        if line == b"*":
            return self._count_login() or self._fail(replies.AUTH_CANCELLED)
        try:
            credentials = self._exchange.respond(line)
        except CommandError as error:
            return self._count_login() or self._fail(error.reply)
        if credentials is None:
            self._challenge()
            return None
        self.state = _ANSWER
        return CredentialsGiven(*credentials)

    # --- text

    def _read_text(self) -> Event | None:
        assert self._text is not None
        end = self._text.feed(self._input, self._at)
        if end >= 0:
            self._at = end
            return self._finish_text()
        self._drop_input()
        return self._take_text()

    def _read_chunk(self) -> Event | None:
        end = min(len(self._input), self._at + self._chunk_left)
        piece = memoryview(self._input)[self._at : end]
        self._chunk_left -= end - self._at
        self._at = end
        if self._chunk_refusal is None:
            assert self._text is not None
            self._text.feed_chunk(piece)
            if event := self._take_text():
                return event
        return self._finish_chunk() if not self._chunk_left else None

    def _take_text(self) -> Event | None:
        assert self._text is not None
        octets = self._text.take()
        if not octets:
            return None
        self._given = True
        return TextGiven(octets)

    def _finish_chunk(self) -> Event | None:
        if self._chunk_refusal is not None:
            self.state = self._chunk_state
            given, self._given = self._given, False
            if self._chunks_refused:
                self._text = None
            return self._fail(self._chunk_refusal) or (_ABANDONED if given else None)
        if self._chunk_last:
            return self._finish_text()
        self._output += replies.CHUNK_OK
        self.state = _CHUNKS
        return None

    def _finish_text(self) -> Event | None:
        text, reverse_path = self._text, self._reverse_path
        assert text is not None
        assert reverse_path is not None
        octets = text.rest()
        if text.problem is None:
            self.state = _ANSWER
            return MessageGiven(reverse_path, self._forward_paths, octets, text.length)
        given = self._given
        self._close_transaction()
        self._output += replies.TEXT_PROBLEMS[text.problem].octets()
        return _ABANDONED if given else None

    # --- ends and counts

    def _close_transaction(self) -> None:
        self._reverse_path = None
        self._forward_paths = []
        self._text = None
        self._given = self._chunks_refused = False
        self._excess_recipients = 0
        if self.state != _CONNECTED or self.hello:
            self.state = _GREETED

    def _drop_input(self) -> None:
        self._input, self._at = b"", 0

    def _end(self, reply: Reply | None) -> Event:
        if reply is not None:
            self._output += reply.octets()
        self.state = _ENDED
        self._text = None
        self._drop_input()
        return SessionEnded(quit=False)

    def _fail(self, reply: Reply) -> Event | None:
        """Say that a command was wrong; too many of them end the session."""
        self._errors += 1
        if self._errors > self._service.limits.errors_max:
            return self._end(replies.ENOUGH_ERRORS)
        self._output += reply.octets()
        return None

    def _count_command(self) -> Event | None:
        self._idle_commands += 1
        return (
            self._end(replies.ENOUGH_COMMANDS) if self._idle_commands > self._service.limits.idle_commands_max else None
        )

    def _count_login(self) -> Event | None:
        self._logins += 1
        return self._end(replies.ENOUGH_LOGINS) if self._logins >= self._service.limits.logins_max else None

    _COMMANDS: ClassVar[dict[bytes, Callable[[SmtpServer, bytes], Event | None]]] = {
        b"EHLO": _ehlo,
        b"HELO": _helo,
        b"STARTTLS": _starttls,
        b"AUTH": _auth,
        b"MAIL": _mail,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"BDAT": _bdat,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"VRFY": _vrfy,
        b"EXPN": _expn,
        b"HELP": _help,
        b"QUIT": _quit,
    }
