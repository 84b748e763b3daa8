"""One connection: carries octets between a transport and a session, and acts on the session's events.

Commands are answered where they are read; a task runs only for a message's commit, a login, and a TLS handshake. A
text up to ``data.HELD_OCTETS_MAX`` is one ``bytes``, a larger one goes into a spool as it comes.

Standards: RFC 5321 sections 3.8 (ending a session) and 4.5.3.2 (timeouts), RFC 3207 (STARTTLS).
Trust: the peer may be anyone. Reading stops while more waits than may be held.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from pigeonry.domain.errors import BadRequest, PigeonryError
from pigeonry.domain.reply import Reply
from pigeonry.doors.smtp import replies
from pigeonry.doors.smtp.clients import client_of
from pigeonry.doors.smtp.content import LARGE_BATCH, batch, submission
from pigeonry.doors.smtp.head import read_head
from pigeonry.protocol.smtp.server import (
    CredentialsGiven,
    MailGiven,
    MessageGiven,
    SessionEnded,
    SmtpServer,
    State,
    TextAbandoned,
    TextGiven,
    TlsAsked,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pigeonry.domain.message import Accept, MessageKey
    from pigeonry.domain.submission import Submission
    from pigeonry.domain.tenant import Caller
    from pigeonry.doors.smtp.content import Content
    from pigeonry.doors.smtp.listener import SmtpDoor
    from pigeonry.ports.body_store import Spool
    from pigeonry.ports.queue_store import Commit
    from pigeonry.protocol.proxy import Source
    from pigeonry.protocol.smtp.grammar import ReversePath
    from pigeonry.protocol.smtp.server import Event

__all__ = ["Connection"]

WAITING_OCTETS_MAX: Final = 65_536  # octets sent ahead of an answer; over it, reading stops
LINGER_S: Final = 2.0  # seconds a peer gets to read why the session ended, before unread octets of its own reset it

_log = structlog.get_logger()
_ANSWER: Final = State.ANSWER


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        door: What all connections share.
        secure: Whether the transport is TLS from the first octet.
        source: What a trusted balancer says of the client; None: whoever is connected is the client.
    """

    __slots__ = (
        "_address",
        "_body",
        "_caller",
        "_client",
        "_content",
        "_counted",
        "_door",
        "_eight_bit",
        "_half_closed",
        "_hello",
        "_linger_until",
        "_opened",
        "_origin",
        "_paused",
        "_refusal",
        "_session",
        "_silent_since",
        "_spool",
        "_taking",
        "_task",
        "_transport",
    )

    def __init__(self, door: SmtpDoor, *, secure: bool, source: Source | None = None) -> None:
        self._door = door
        self._session = SmtpServer(door.service, secure=secure or (source is not None and source.secure), trusted=False)
        self._transport: asyncio.Transport | None = None
        self._address = "" if source is None else source.address
        self._client = self._origin = self._hello = ""
        self._counted = self._paused = self._half_closed = False
        self._caller: Caller | None = None
        self._spool: Spool | None = None
        self._content: Content | None = None
        self._refusal: Reply | None = None
        self._eight_bit = False
        self._body = 0
        self._task: asyncio.Task[None] | None = None
        self._taking: Commit | None = None
        self._opened = self._silent_since = door.now
        self._linger_until = 0.0

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer, or turn it away."""
        self._transport = cast("asyncio.Transport", transport)
        door, session = self._door, self._session
        if not self._address:
            peer = transport.get_extra_info("peername")
            self._address = peer[0] if isinstance(peer, tuple) else "127.0.0.1"
        address = self._address
        self._client = client = client_of(address)
        session.trusted = trusted = door.clients.trusted(address)
        door.connections.add(self)
        door.counts.connections += 1
        if door.draining:
            self._turn_away(replies.DRAINING)
        elif len(door.connections) > door.config.connections_max:
            self._turn_away(replies.FULL)
        elif not trusted and not door.clients.connect(client):
            self._turn_away(replies.TOO_MANY)
        else:
            self._counted = not trusted
            session.greet()
            self._transport.write(session.take_output())

    def data_received(self, data: bytes) -> None:
        """Feed the session and act on what comes of it."""
        self._silent_since = self._door.now
        session = self._session
        event = session.receive(data)
        if event is not None:
            self._act(event)
        transport = self._transport
        if (output := session.take_output()) and transport is not None:
            transport.write(output)
        elif session.held > WAITING_OCTETS_MAX and not self._paused and transport is not None:
            self._paused = True
            transport.pause_reading()

    def eof_received(self) -> bool:
        """Keep a half-closed connection while an answer is owed: a peer may send all and then listen."""
        self._half_closed = True
        return self._session.state == _ANSWER and not self._session.secure

    def pause_writing(self) -> None:
        """Read no more from a peer that does not read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        if self._transport is not None and not self._paused:
            self._transport.resume_reading()

    def connection_lost(self, _reason: Exception | None) -> None:
        """Forget an unfinished text; a commit that runs goes on, for nobody can tell the peer otherwise."""
        self._transport = None
        if self not in self._door.connections:
            return  # A failed handshake and the end of its transport both come here.
        self._door.connections.remove(self)
        if self._task is None:
            self._forget_text()
        if self._counted:
            self._door.clients.disconnect(self._client)

    # --- the door's side

    def drain(self) -> None:
        """End where no transaction is under way: now, or when the one there is has ended."""
        self._finish(self._session.drain())

    def give_up(self) -> bool:
        """End a transaction that takes too long, with 421 unless its message is being stored; whether there was one."""
        if self._linger_until:
            return False
        self._finish(self._session.time_out(replies.DRAINING))
        return True

    def abort(self) -> None:
        """Close at once; a commit that runs is cancelled, and so voided: nobody was told of it."""
        transport, self._transport = self._transport, None
        if self._task is not None:
            self._task.cancel()
        if self._taking is not None:
            self._taking.withdraw()
        if transport is not None:
            transport.abort()

    def check_time(self, now: float) -> None:
        """End what is silent, old, or lingering; ``now`` in monotonic seconds."""
        config = self._door.config
        if self._linger_until:
            if now >= self._linger_until:
                self.abort()
        elif self._task is not None or self._taking is not None:
            return
        elif now - self._silent_since > config.idle_s:
            self._finish(self._session.time_out(replies.TIMED_OUT))
        elif now - self._opened > config.session_s:
            self._finish(self._session.time_out(replies.OLD))

    # --- events

    def _finish(self, event: Event | None) -> None:
        if event is not None:
            self._act(event)
        if (output := self._session.take_output()) and self._transport is not None:
            self._transport.write(output)

    def _act(self, event: Event | None) -> None:
        session = self._session
        while event is not None:
            kind = type(event)
            if kind is MailGiven:
                event = self._on_mail()
            elif kind is MessageGiven:
                event = self._on_message(cast("MessageGiven", event))
            elif kind is TextGiven:
                self._on_text(cast("TextGiven", event).octets)
                event = session.resume()
            elif kind is TextAbandoned:
                self._forget_text()
                event = session.resume()
            elif kind is CredentialsGiven:
                event = self._on_credentials(cast("CredentialsGiven", event))
            elif kind is TlsAsked:
                event = self._on_tls()
            else:
                self._on_end(quit_=cast("SessionEnded", event).quit)
                return

    def _on_mail(self) -> Event | None:
        door = self._door
        if door.octets_in_flight > door.config.octets_in_flight_max or door.reason_to_shed() is not None:
            door.counts.shed += 1
            return self._session.refuse(replies.BUSY)
        return self._session.accept()

    def _on_text(self, octets: bytes) -> None:
        """Spool a piece of a large text, the head in front rewritten; what is wrong is said at its end."""
        if self._refusal is not None:
            return
        try:
            if self._spool is None:
                self._content = content = self._read(octets, self._session.reverse_path)
                if content.variables is not None:
                    raise BadRequest(LARGE_BATCH)
                self._spool = spool = self._door.spool()
                spool.write(content.head)
                spool.write(memoryview(octets)[content.skip :])
            else:
                self._spool.write(octets)
        except PigeonryError as error:
            self._forget_text()
            self._refusal = replies.after_data(error)
        self._eight_bit = self._eight_bit or not octets.isascii()

    def _on_message(self, event: MessageGiven) -> Event | None:
        octets = event.octets
        if self._content is not None or self._refusal is not None:
            self._on_text(octets)
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            self._eight_bit = False
            self._door.counts.refused += 1
            return self._session.refuse(refusal)
        if self._spool is not None and self._content is not None:
            spool, content = self._spool, self._content
            self._spool = self._content = None
            self._start(self._commit_spool(event, content, spool))
            return None
        self._body = length = len(octets)
        self._door.octets_in_flight += length
        self._begin(event, length)
        return None

    def _made(self, event: MessageGiven) -> Submission:
        """What a message held in memory comes to.

        Raises:
            PigeonryError: It cannot be taken.
        """
        octets = event.octets
        content = self._read(octets, event.reverse_path)
        body = content.head + octets[content.skip :]
        eight_bit = not body.isascii()
        made = submission(content, event, self._caller, self._address, body, len(body), eight_bit=eight_bit)
        return made if content.variables is None else batch(made, content)

    def _on_credentials(self, event: CredentialsGiven) -> Event | None:
        door = self._door
        if not door.clients.may_log_in(self._client, now=door.now):
            return self._session.refuse(replies.GUESSING)
        self._start(self._log_in(event.login, event.password))
        return None

    def _on_tls(self) -> Event | None:
        assert self._transport is not None
        # Not one octet of the handshake may come here.
        self._transport.pause_reading()
        self._transport.write(self._session.take_output())
        self._start(self._start_tls())
        return None

    def _on_end(self, *, quit_: bool) -> None:
        self._forget_text()
        transport = self._transport
        if transport is None:
            return
        transport.write(self._session.take_output())
        if quit_ or self._session.secure or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self._linger_until = self._door.now + LINGER_S

    # --- what takes time

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = task = asyncio.get_running_loop().create_task(work)
        self._door.tasks.add(task)

    def _begin(self, event: MessageGiven, octets: int) -> None:
        """Hand over a message held in memory. It is answered by a callback: a task for each would cost more."""
        door = self._door
        door.taking += 1
        if door.intake.waits():
            self._start(self._accept(event))
            return
        self._taking = door.intake.begin(
            lambda: self._made(event),
            octets=octets,
            deadline=door.clock.monotonic() + door.config.accept_s,
            told=self._taken,
        )

    async def _accept(self, event: MessageGiven) -> None:
        """The same, where somebody has to be asked first."""
        door = self._door
        reply: Reply | bytes = replies.FAULT
        try:
            deadline = door.clock.monotonic() + door.config.accept_s
            reply = self._outcome(await door.intake.accept(self._made(event), deadline=deadline), None)
        except Exception as error:  # noqa: BLE001 - answered, and logged where it is a fault of ours
            reply = self._outcome(None, error)
        finally:
            door.taking -= 1
            door.octets_in_flight -= self._body
            self._done()
        self._answer(reply)

    def _taken(self, taken: Accept | None, error: Exception | None) -> None:
        door = self._door
        door.taking -= 1
        door.octets_in_flight -= self._body
        self._taking = None
        self._answer(self._outcome(None if taken is None else taken.message.key, error))

    def _outcome(self, key: MessageKey | None, error: Exception | None) -> Reply | bytes:
        """The positive reply in octets, or the reason against it."""
        counts = self._door.counts
        if error is None and key is not None:
            counts.accepted += 1
            return b"250 2.0.0 Great success %b\r\n" % key.text().encode("ascii")
        if isinstance(error, PigeonryError):
            counts.refused += 1
            return replies.after_data(error)
        # A fault of ours must cost this message only, and say so where we look.
        _log.error("smtp_accept_failed", exc_info=error)
        counts.faults += 1
        return replies.FAULT

    async def _commit_spool(self, event: MessageGiven, content: Content, spool: Spool) -> None:
        reply: Reply | bytes = replies.FAULT
        eight_bit, self._eight_bit = self._eight_bit, False
        try:
            length = spool.length
            body = await spool.finish()
            made = submission(content, event, self._caller, self._address, body, length, eight_bit=eight_bit)
            deadline = self._door.clock.monotonic() + self._door.config.accept_s
            reply = self._outcome(await self._door.intake.accept(made, deadline=deadline), None)
        except Exception as error:  # noqa: BLE001 - answered, and logged where it is a fault of ours
            reply = self._outcome(None, error)
        finally:
            if not isinstance(reply, bytes):
                spool.discard()
            self._done()
        self._answer(reply)

    async def _log_in(self, login: str, password: str) -> None:
        door = self._door
        reply: Reply | None = None
        try:
            caller = await door.login(login, password)
            if caller is None:
                door.counts.failed_logins += 1
                await door.clock.sleep(door.clients.failed_login(self._client, now=door.clock.monotonic()))
                reply = replies.WRONG_LOGIN
        except PigeonryError:
            reply = replies.LOGIN_FAULT
        except Exception:  # noqa: BLE001 - logged, and answered 454
            _log.exception("smtp_login_failed")
            door.counts.faults += 1
            reply = replies.LOGIN_FAULT
        finally:
            self._done()
        if reply is None:
            self._caller, self._origin = caller, ""
        self._answer(b"" if reply is None else reply)

    async def _start_tls(self) -> None:
        door, plain = self._door, self._transport
        assert plain is not None
        assert door.tls is not None
        try:
            transport = await asyncio.get_running_loop().start_tls(
                plain, self, door.tls, server_side=True, ssl_handshake_timeout=door.config.handshake_s
            )
        except OSError:
            # The peer's doing (ssl.SSLError and timeouts are OSErrors): there is nobody left to tell.
            transport = None
        finally:
            self._done()
        if transport is None:
            plain.abort()
            self.connection_lost(None)
            return
        self._transport = transport
        self._caller, self._origin = None, ""
        self._session.secured()
        if door.draining:
            self.drain()

    def _done(self) -> None:
        if self._task is not None:
            self._door.tasks.discard(self._task)
            self._task = None

    def _answer(self, reply: Reply | bytes) -> None:
        """Tell the peer, and go on with what it sent meanwhile."""
        transport, session = self._transport, self._session
        if transport is None:
            return
        self._silent_since = self._door.now
        event = session.accept(reply) if isinstance(reply, bytes) else session.refuse(reply)
        if event is not None:
            self._act(event)
        if output := session.take_output():
            transport.write(output)
        if self._paused and session.held <= WAITING_OCTETS_MAX:
            self._paused = False
            transport.resume_reading()
        if self._half_closed and session.state != _ANSWER:
            transport.close()

    # --- text

    def _read(self, octets: bytes, reverse_path: ReversePath) -> Content:
        door, session = self._door, self._session
        if not self._origin or self._hello is not session.hello:
            self._hello = session.hello
            self._origin = door.trace.origin(
                hello=session.hello,
                address=self._address,
                extended=session.extended,
                secure=session.secure,
                authenticated=session.authenticated,
            )
        head = read_head(octets)
        return door.reader.read(
            head, octets, reverse_path, caller=self._caller, origin=self._origin, now=door.clock.now()
        )

    def _forget_text(self) -> None:
        spool, self._spool = self._spool, None
        self._content = self._refusal = None
        self._eight_bit = False
        if spool is not None:
            spool.discard()

    def _turn_away(self, reply: Reply) -> None:
        self._door.counts.turned_away += 1
        self._finish(self._session.time_out(reply))
