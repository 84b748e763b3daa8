"""One SMTP connection: drives a ``protocol.smtp.server`` session on a transport.

A reply is written as soon as the session gives it; only a login, a message and a TLS handshake take a task. One timer
stands for all that may take too long.

Trust: the peer may be anyone. While an answer is owed nothing more is read than ``HELD_OCTETS_MAX``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import structlog

from pigeonry.domain.errors import PigeonryError
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.doors.smtp.clients import client_of
from pigeonry.protocol.smtp.server import (
    CredentialsGiven,
    Event,
    MailGiven,
    MessageGiven,
    SessionEnded,
    SmtpServer,
    TextAbandoned,
    TextGiven,
    TlsAsked,
)

if TYPE_CHECKING:
    from pigeonry.domain.tenant import Caller
    from pigeonry.doors.smtp.listener import SmtpDoor
    from pigeonry.doors.smtp.submission import Opened
    from pigeonry.ports.body_store import Spool
    from pigeonry.protocol.smtp.grammar import ReversePath

__all__ = ["Connection"]

HELD_OCTETS_MAX: Final = 262_144  # pipelined behind an answer that is owed
WRITE_OCTETS_MAX: Final = 65_536  # replies that a client has not read; more, and nothing more is read from it
IDLE: Final = Reply(421, "Nothing was said for too long", EnhancedStatus(4, 2))
OVER: Final = Reply(421, "The connection lasted long enough, connect again", EnhancedStatus(4, 2))
FAILED: Final = Reply(451, "The message could not be taken just now, try again", EnhancedStatus(3, 0))
BAD_LOGIN: Final = Reply(535, "The login or the password is wrong", EnhancedStatus(7, 8))
LATER: Final = Reply(454, "The login cannot be checked just now, try again", EnhancedStatus(7, 0))


class Connection(asyncio.Protocol):
    """See the module. Made by ``SmtpDoor.protocol_factory``."""

    def __init__(self, door: SmtpDoor, *, secure: bool) -> None:
        self._door = door
        self._secure = secure
        self._transport: asyncio.Transport | None = None
        self._server: SmtpServer | None = None
        self._loop = door.loop
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._made_at = self._active_at = 0.0
        self._client = self._address = self._origin = ""
        self._counted = False
        self._caller: Caller | None = None
        self._reverse_path: ReversePath | None = None
        self._spool: Spool | None = None
        self._opened: Opened | None = None
        self._refusal: PigeonryError | None = None
        self._eight_bit = False

    @property
    def client(self) -> str:
        """What its peer is counted by."""
        return self._client

    # -- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or turn away."""
        door = self._door
        transport = self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if peer else "127.0.0.1"
        self._client = client_of(self._address)
        trusted = door.clients.trusted(self._client)
        refusal = door.enter(self, trusted=trusted)
        if refusal is not None:
            transport.write(refusal.octets())
            transport.close()
            return
        if not trusted:
            self._counted = True
        server = self._server = SmtpServer(door.service, secure=self._secure, trusted=trusted)
        server.greet()
        transport.write(server.take_output())
        self._made_at = self._active_at = self._loop.time()
        self._timer = self._loop.call_later(door.config.idle_s, self._look)

    def data_received(self, data: bytes) -> None:
        """Feed the session."""
        server = self._server
        if server is None:
            return
        self._active_at = self._loop.time()
        self._drive(server.receive(data))
        if server.held > HELD_OCTETS_MAX and self._transport is not None:
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """The client does not read its replies: read nothing more from it."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget what did not become a message."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._door.leave(self)
            if self._counted:
                self._door.clients.disconnect(self._client)
        if self._task is None:
            self._forget_text()

    def drain(self) -> None:
        """End at the next command boundary."""
        if self._server is not None and self._task is None:
            self._drive(self._server.drain())
        elif self._server is not None:
            self._server.drain()

    def abort(self) -> None:
        """End now. A message whose commit is under way is voided by its cancelling."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    # -- the session

    def _drive(self, event: Event | None) -> None:
        server = self._server
        assert server is not None
        while event is not None:
            kind = type(event)
            if kind is MailGiven:
                self._reverse_path = event.reverse_path  # type: ignore[union-attr]
                refusal = self._door.mail_refusal()
                event = server.accept() if refusal is None else server.refuse(refusal)
            elif kind is TextGiven:
                self._take_text(event.octets)  # type: ignore[union-attr]
                event = server.resume()
            elif kind is TextAbandoned:
                self._forget_text()
                event = server.resume()
            elif kind is SessionEnded:
                self._flush()
                if self._transport is not None:
                    self._transport.close()
                return
            else:
                self._flush()
                self._start(event)
                return
        self._flush()

    def _start(self, event: Event) -> None:
        if isinstance(event, MessageGiven):
            work = self._message(event)
        elif isinstance(event, CredentialsGiven):
            work = self._login(event)
        else:
            assert isinstance(event, TlsAsked)
            work = self._start_tls()
        self._task = self._door.start(work)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger().error("smtp_session_failed", exc_info=error)
            if self._transport is not None:
                self._transport.abort()

    def _go_on(self, event: Event | None) -> None:
        """After an answer: nothing is owed any more."""
        self._task = None
        self._active_at = self._loop.time()
        transport = self._transport
        if transport is None:
            return
        self._drive(event)
        if self._task is None and not transport.is_closing():
            transport.resume_reading()

    def _flush(self) -> None:
        assert self._server is not None
        output = self._server.take_output()
        if output and self._transport is not None:
            self._transport.write(output)

    def _look(self) -> None:
        """The timer: idle for too long, or connected for too long."""
        assert self._server is not None
        now, config = self._loop.time(), self._door.config
        quiet = now - self._active_at
        if self._task is None and quiet >= config.idle_s:
            self._drive(self._server.time_out(IDLE))
        elif self._task is None and now - self._made_at >= config.session_s:
            self._drive(self._server.time_out(OVER))
        if self._transport is not None and not self._transport.is_closing():
            self._timer = self._loop.call_later(max(config.idle_s - quiet, 1.0), self._look)

    # -- text

    def _take_text(self, octets: bytes) -> None:
        """A piece of a text too large for memory. What goes wrong is said when it has ended."""
        if self._refusal is not None:
            return
        try:
            if self._spool is None:
                self._spool = self._door.spool()
                self._opened = self._open(octets)
                self._spool.write(self._opened.octets)
            else:
                self._spool.write(octets)
        except PigeonryError as error:
            self._refusal = error
        else:
            self._eight_bit = self._eight_bit or not octets.isascii()

    def _open(self, octets: bytes) -> Opened:
        server, door = self._server, self._door
        assert server is not None
        assert self._reverse_path is not None
        if not self._origin:
            self._origin = door.trace.origin(
                hello=server.hello,
                address=self._address,
                extended=server.extended,
                secure=server.secure,
                authenticated=server.authenticated,
            )
        domain = door.builder.payer(self._reverse_path, None, self._caller)[1]
        return door.builder.open(octets, origin=self._origin, domain=domain)

    def _forget_text(self) -> None:
        if self._spool is not None:
            self._spool.discard()
        self._spool = self._opened = self._refusal = None
        self._eight_bit = False

    # -- what takes a while

    async def _message(self, event: MessageGiven) -> None:
        server, door = self._server, self._door
        assert server is not None
        octets = event.length
        door.octets_in_flight += octets
        try:
            key = await self._submit(event)
        except PigeonryError as error:
            self._forget_text()
            self._go_on(server.refuse(error.reply()))
        except asyncio.CancelledError:
            self._forget_text()
            raise
        except Exception:  # noqa: BLE001  # a fault of ours must not look like one of the message's
            structlog.get_logger().exception("smtp_message_failed")
            self._forget_text()
            self._go_on(server.refuse(FAILED))
        else:
            self._spool = self._opened = None
            self._eight_bit = False
            self._go_on(server.accept(b"250 2.0.0 Great success id=%b\r\n" % key.encode("ascii")))
        finally:
            door.octets_in_flight -= octets

    async def _submit(self, event: MessageGiven) -> str:
        door = self._door
        deadline = door.clock.monotonic() + door.config.accept_s
        if self._refusal is not None:
            raise self._refusal
        spool, opened = self._spool, self._opened
        if spool is None or opened is None:
            opened = self._open(event.octets)
            body, length = opened.octets, len(opened.octets)
            eight_bit = not body.isascii()
            finished: object = body
        else:
            spool.write(event.octets)
            eight_bit = self._eight_bit or not event.octets.isascii()
            length = spool.length
            finished = await spool.finish()
        submission = door.builder.build(
            opened,
            body=finished,  # type: ignore[arg-type]
            length=length,
            reverse_path=event.reverse_path,
            forward_paths=event.forward_paths,
            caller=self._caller,
            address=self._address,
            eight_bit=eight_bit,
        )
        return (await door.accept(submission, deadline=deadline)).text()

    async def _login(self, event: CredentialsGiven) -> None:
        server, door = self._server, self._door
        assert server is not None
        now = door.clock.monotonic()
        if not door.clients.may_log_in(self._client, now=now):
            self._go_on(server.refuse(Reply(421, "Too many failed logins", EnhancedStatus(7, 0))))
            return
        try:
            caller = await door.login(event.login, event.password)
        except PigeonryError:
            self._go_on(server.refuse(LATER))
            return
        if caller is None:
            await door.clock.sleep(door.clients.failed_login(self._client, now=now))
            self._go_on(server.refuse(BAD_LOGIN))
            return
        self._caller = caller
        self._origin = ""
        self._go_on(server.accept())

    async def _start_tls(self) -> None:
        server, door, transport = self._server, self._door, self._transport
        assert server is not None
        assert door.tls is not None
        if transport is None:
            return
        try:
            encrypted = await self._loop.start_tls(
                transport, self, door.tls, server_side=True, ssl_handshake_timeout=door.config.handshake_s
            )
        except (OSError, ConnectionError):
            transport.abort()
            return
        if encrypted is None:
            return
        self._transport = encrypted
        self._origin = ""
        server.secured()
        self._task = None
        self._active_at = self._loop.time()
