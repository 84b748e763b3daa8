"""The sink: an SMTP receiver for our own deliveries, which keeps what it is sent and plays a few bad receivers.

It speaks through the same sans-IO core as the SMTP door, so that a development run delivers over real SMTP. What a
recipient's local part asks for is done in answer to the message, when its Message-ID is known:

========== ==================================================================
bounce     550 5.1.1, for good
550        550 5.7.1, for good
421        421 4.3.2, and the connection is closed
defer      451 4.7.1 on the first try of a message, accepted on the second
slow       accepted after a pause
timeout    no answer; the connection is cut after a while
========== ==================================================================

Trust: bound to loopback; whoever reaches it may fill the inbox, which is bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final, cast

from pigeonry.capture.box import Box, Captured
from pigeonry.capture.view import header_text, split_headers
from pigeonry.domain.errors import PigeonryError
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.smtp.server import (
    Event,
    MailGiven,
    MessageGiven,
    SessionEnded,
    SmtpServer,
    TextAbandoned,
    TextGiven,
)
from pigeonry.protocol.smtp.service import Limits, Service

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock

__all__ = ["SLOW_S", "TIMEOUT_S", "Sink"]

SLOW_S: Final = 5.0  # long enough to be seen in the events, short enough to wait for
TIMEOUT_S: Final = 60.0  # after it the connection is cut; a development run's senders give up long before
CONNECTIONS_MAX: Final = 500  # our own deliveries open far fewer
HELD_OCTETS_MAX: Final = 256 * 1024  # read ahead of an answer before reading pauses

_REFUSED: Final = {
    "bounce": Reply(550, "No such mailbox here", EnhancedStatus(1, 1)),
    "550": Reply(550, "Refused, as the recipient asks for", EnhancedStatus(7, 1)),
    "421": Reply(421, "Closing, as the recipient asks for", EnhancedStatus(3, 2)),
}
_DEFERRED: Final = Reply(451, "Try again, as the recipient asks for", EnhancedStatus(7, 1))
_CROWDED: Final = Reply(421, "Too many connections", EnhancedStatus(3, 2))
_FINGERPRINT: Final = 16  # octets that tell one message and recipient from another in the list of first tries


class Sink:
    """What all connections to the sink share.

    Args:
        box: Where messages go.
        hostname: Said in the greeting.
    """

    def __init__(self, box: Box, *, clock: Clock, hostname: str, message_octets_max: int) -> None:
        self._box = box
        self._clock = clock
        limits = Limits(message_octets_max=message_octets_max)
        self.service = Service(hostname=hostname, limits=limits, starttls=False, auth=False)
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def protocol_factory(self) -> asyncio.Protocol:
        """A protocol for one connection."""
        return _Connection(self)

    async def close(self) -> None:
        """Cut what is open and wait until nothing runs."""
        for connection in list(self.connections):
            connection.cut()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def answer(self, given: MessageGiven, octets: bytes) -> Reply | None:
        """What a message is answered with; None is the usual acceptance.

        Raises:
            StoreBusy: It could not be kept.
        """
        asked = {path.mailbox.partition("@")[0].lower() for path in given.forward_paths}
        for name, reply in _REFUSED.items():
            if name in asked:
                return reply
        mail = _describe(given, octets, at=self._clock.now())
        if "timeout" in asked:
            await self._clock.sleep(TIMEOUT_S)
            return _REFUSED["421"]
        if "defer" in asked and await self._box.first_try(_fingerprint(mail)):
            return _DEFERRED
        if "slow" in asked:
            await self._clock.sleep(SLOW_S)
        await self._box.put(mail, octets)
        return None


class _Connection(asyncio.Protocol):
    """Drives one session."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._core = SmtpServer(sink.service, secure=False, trusted=True)
        self._parts: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        if len(self._sink.connections) >= CONNECTIONS_MAX:
            transport.write(_CROWDED.octets())
            transport.close()
            return
        self._sink.connections.add(self)
        self._core.greet()
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._sink.connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._act(self._core.receive(data))

    def cut(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _act(self, event: Event | None) -> None:
        while event is not None:
            if isinstance(event, MailGiven):
                event = self._core.accept()
            elif isinstance(event, TextGiven):
                self._parts.append(event.octets)
                event = self._core.resume()
            elif isinstance(event, TextAbandoned):
                self._parts.clear()
                event = self._core.resume()
            elif isinstance(event, MessageGiven):
                self._begin_answer(event)
                break
            else:
                assert isinstance(event, SessionEnded), "neither AUTH nor STARTTLS is offered"
                self._write()
                if self._transport is not None:
                    self._transport.close()
                return
        self._write()
        if self._transport is not None and self._core.held > HELD_OCTETS_MAX:
            self._transport.pause_reading()

    def _begin_answer(self, given: MessageGiven) -> None:
        octets = b"".join((*self._parts, given.octets))
        self._parts.clear()
        task = asyncio.get_running_loop().create_task(self._answer(given, octets))
        self._sink.tasks.add(task)
        task.add_done_callback(self._sink.tasks.discard)

    async def _answer(self, given: MessageGiven, octets: bytes) -> None:
        try:
            reply = await self._sink.answer(given, octets)
        except PigeonryError as error:
            reply = error.reply()
        if self._transport is None:
            return
        self._transport.resume_reading()
        self._act(self._core.accept() if reply is None else self._core.refuse(reply))

    def _write(self) -> None:
        if self._transport is not None and (octets := self._core.take_output()):
            self._transport.write(octets)


def _describe(given: MessageGiven, octets: bytes, *, at: float) -> Captured:
    fields: dict[str, str] = {}
    for name, value in split_headers(octets):
        fields.setdefault(name.lower(), value)
    return Captured(
        id=0,
        at=at,
        reverse_path=given.reverse_path.mailbox,
        forward_paths=tuple(path.mailbox for path in given.forward_paths),
        message_id=fields.get("message-id", "").strip("<>"),
        sender=header_text(fields.get("from", "")),
        recipients=header_text(fields.get("to", "")),
        subject=header_text(fields.get("subject", "")),
        size=len(octets),
    )


def _fingerprint(mail: Captured) -> bytes:
    text = "\0".join((mail.message_id, *mail.forward_paths))
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=_FINGERPRINT).digest()
