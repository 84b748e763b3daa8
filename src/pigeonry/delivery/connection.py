"""One SMTP connection: the client's protocol core on a transport.

The hot path is lean on purpose: MAIL, RCPT and DATA leave in one write, the body goes to the transport as it is (header
and body as two buffers, nothing copied unless a line starts with a dot), and while a large one travels ``before_dot``
makes ``dot-sent`` durable. Only then does the final dot leave (invariant I4), and with it, in the same write, a body so
small that it would have travelled no longer than the dot, and the envelope of the message that follows, if there is
one: a busy connection costs one write and one read a message. One timer per connection enforces all deadlines: it is
moved, not made anew, for each phase.

Standards: RFC 5321 section 4.5.3.2 (timeouts); RFC 2920 (PIPELINING).
Trust: the peer may be anyone: what it sends goes to the core, which bounds it. What we send waits in the transport,
bounded by the message itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec

from pigeonry.ports.network import TlsPeer
from pigeonry.ports.queue_store import Commit
from pigeonry.protocol.smtp.client import (
    Capabilities,
    Event,
    Finished,
    LocalProtocolError,
    Lost,
    SendBody,
    SmtpClient,
    Stage,
    Transaction,
)
from pigeonry.protocol.smtp.dot_stuffing import end_of_data, stuffed

__all__ = ["SmtpConnection", "Timeouts", "Withheld"]

BLOCK_OCTETS_MAX: Final = 262_144  # octets handed to the transport at once; nearly all messages are smaller
HELD_OCTETS_MAX: Final = 14_000  # octets of body that wait for their dot: ten segments, which leave as one flight
TIMER_S_MAX: Final = 10.0  # seconds between looks at the deadline, so that moving it seldom means arming the timer


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that each phase may take.

    Args:
        connect: Until TCP stands; RFC 5321 leaves it open, and another address may be waiting to be tried.
        tls: For the handshake.
        greeting: 4.5.3.2.1. Also for EHLO and STARTTLS.
        envelope: For MAIL (4.5.3.2.2), RCPT (4.5.3.2.3) and RSET.
        data: From DATA to 354 (4.5.3.2.4), added to ``envelope`` as they are one group.
        block: For each block of the body to leave (4.5.3.2.5).
        dot: From the final dot to the reply (4.5.3.2.6).
        farewell: For what is left to be written when the connection closes.
    """

    connect: float = 30.0
    tls: float = 60.0
    greeting: float = 300.0
    envelope: float = 300.0
    data: float = 120.0
    block: float = 180.0
    dot: float = 600.0
    farewell: float = 5.0


def _nothing() -> None:
    return None


class Withheld(msgspec.Struct, frozen=True):
    """``dot-sent`` could not be made durable, so the final dot did not leave and the connection was cut."""

    error: Exception


class SmtpConnection(asyncio.Protocol):
    """Drives one session. One task uses it; no two calls run at once.

    Args:
        client: The protocol core, fresh.
        timeouts: How long each phase may take.
        loop: For the timer and the future that the task waits on.
    """

    __slots__ = (
        "_client",
        "_deadline",
        "_draining",
        "_events",
        "_flowing",
        "_following",
        "_loop",
        "_on_end",
        "_timeouts",
        "_timer",
        "_timer_at",
        "_transport",
        "_unsent",
        "_waiter",
        "_withheld",
        "begun",
        "ended",
        "local_address",
        "local_host",
        "messages",
        "tls",
    )

    def __init__(self, *, client: SmtpClient, timeouts: Timeouts, loop: asyncio.AbstractEventLoop) -> None:
        self.tls: TlsPeer | None = None
        self.messages = 0
        self.ended = False
        self.begun: Transaction | None = None
        """The message whose envelope left with the dot of the one before: the next to be sent, or given up with it."""
        self.local_address = ""
        """Our end's IP address; empty when it is not known."""
        self.local_host = ""
        """The name that was said in EHLO."""
        self._client = client
        self._timeouts = timeouts
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._flowing = True
        self._draining = False
        self._deadline = 0.0  # loop time; 0.0 when nothing is waited for
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._on_end: Callable[[], None] | None = None
        self._unsent: list[bytes] = []  # what leaves once dot-sent is durable
        self._following: Callable[[], Transaction | None] = _nothing
        self._withheld: Exception | None = None

    @property
    def capabilities(self) -> Capabilities:
        """What the server offers."""
        return self._client.capabilities

    @property
    def stage(self) -> Stage:
        """What the session waits for; DOT from the moment in which the final dot is written."""
        return self._client.stage

    @property
    def usable(self) -> bool:
        """Whether another message can be begun on it; not when one is that was then given up."""
        return self._client.idle and not self.ended and self.begun is None

    @property
    def transport(self) -> asyncio.Transport:
        """What is written to, for the TLS upgrade."""
        assert self._transport is not None, "the connection was never made"
        return self._transport

    async def ready(self) -> Event:
        """Wait for the greeting and EHLO; returns ``Ready``, ``NotWelcome`` or ``Lost``."""
        return await self._next(self._timeouts.greeting)

    async def ask_for_tls(self) -> Event:
        """Say STARTTLS; returns ``TlsAgreed``, ``TlsRefused``, ``NotWelcome`` or ``Lost``."""
        self._client.start_tls()
        self._flush()
        return await self._next(self._timeouts.greeting)

    async def greet_again(self, transport: asyncio.Transport, peer: TlsPeer) -> Event:
        """Go on over TLS; returns what ``ready`` does."""
        self._transport = transport
        self.tls = peer
        self._client.secured()
        self._flush()
        return await self._next(self._timeouts.greeting)

    async def send(
        self,
        transaction: Transaction,
        parts: Sequence[bytes],
        *,
        before_dot: Callable[[], Commit],
        following: Callable[[], Transaction | None],
    ) -> Finished | Lost | Withheld:
        """Send one message.

        Args:
            transaction: Its envelope; the one that is ``begun``, if there is one.
            parts: Its octets: signature headers, if any, then header and body as stored; the last one not empty.
            before_dot: Begins to make ``dot-sent`` durable, while the body travels.
            following: Called when it is durable. Gives the envelope of the message that is to follow on this
                connection, if one is to: it is ``begun`` then, unless it cannot be.

        Returns:
            ``Lost`` with ``Stage.DOT`` when nobody can know whether it was delivered; with any other stage it
            was not, as the final dot never left.

        Raises:
            LocalProtocolError: The envelope cannot be said; nothing was sent of the message.
        """
        self.messages += 1
        if self.begun is None:
            self._client.begin(transaction)
            self._flush()
        else:
            assert self.begun is transaction, "the message that was begun is the next to be sent"
            self.begun = None
        event = await self._next(self._timeouts.envelope + self._timeouts.data)
        if not isinstance(event, SendBody):
            return cast("Finished | Lost", event)
        unsent = [stuffed(part) for part in parts]
        end = end_of_data(unsent[-1])
        octets = sum([len(part) for part in unsent])
        if octets > HELD_OCTETS_MAX:
            if octets <= BLOCK_OCTETS_MAX:
                self.transport.writelines(unsent)
            else:
                await self._write_blocks(unsent)
            unsent = []
        unsent.append(end)
        self._unsent, self._following = unsent, following
        before_dot().then(self._complete)
        event = await self._next(self._timeouts.dot)
        if self._withheld is not None:
            return Withheld(self._withheld)
        return cast("Finished | Lost", event)

    def _complete(self, fault: Exception | None) -> None:
        """``dot-sent`` is durable: the dot may leave, if the session still waits for it. Else it never leaves."""
        if self.ended or self._client.stage is not Stage.BODY:
            return  # cut off or refused before the dot: the event that says so is there
        if fault is not None:
            self._withheld = fault
            self.abort()
            return
        self._client.complete()
        unsent = self._unsent
        following = self._following()
        if following is not None:
            self._follow(following, unsent)
        self._deadline = self._loop.time() + self._timeouts.dot
        self.transport.writelines(unsent)

    def _follow(self, transaction: Transaction, unsent: list[bytes]) -> None:
        """Let the next envelope leave with the dot; one that cannot be said is refused when its own turn comes."""
        try:
            self._client.follow(transaction)
        except LocalProtocolError:
            return
        self.begun = transaction
        unsent.append(self._client.take_output())

    def when_ended(self, callback: Callable[[], None] | None) -> None:
        """Call back when the server closes the connection or breaks the session between messages; None to stop."""
        self._on_end = callback

    def close(self) -> None:
        """QUIT if the session still stands, else close. Returns at once: the farewell has its own deadline."""
        if self.ended or self._transport is None:
            return
        self._on_end = None
        if not self._client.idle:
            self._transport.close()
            return
        self._client.quit()
        self._flush()
        self._deadline = self._loop.time() + self._timeouts.farewell
        self._arm()

    def abort(self) -> None:
        """Cut the connection: what was not written never leaves."""
        if self._transport is not None and not self.ended:
            self._transport.abort()
        self._end("The connection was cut by us.")

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands; the server speaks first."""
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("sockname")
        self.local_address = str(name[0]) if name else ""

    def data_received(self, data: bytes) -> None:
        """Octets from the server."""
        client = self._client
        events = client.receive(data)
        self._flush()
        if events:
            self._events += events
            self._wake()
        if client.closed and self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        """The server ended its side; so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end("The connection was closed by the server." if exc is None else f"The connection broke ({exc}).")

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self._flowing = False

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._flowing = True
        if self._draining:
            self._wake()

    # Inside

    def _flush(self) -> None:
        octets = self._client.take_output()
        if octets and self._transport is not None:
            self._transport.write(octets)

    async def _write_blocks(self, parts: Sequence[bytes]) -> None:
        """Write a large body block by block, each within its deadline; stops when the session ends."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(part), BLOCK_OCTETS_MAX):
                if self._events:
                    return
                self.transport.write(view[start : start + BLOCK_OCTETS_MAX])
                if not self._flowing:
                    self._draining = True
                    await self._wait(self._timeouts.block)
                    self._draining = False

    async def _next(self, timeout_s: float) -> Event:
        """The next event; ``Lost`` when the deadline passes."""
        if not self._events:
            await self._wait(timeout_s)
        return self._events.popleft()

    async def _wait(self, timeout_s: float) -> None:
        loop = self._loop
        self._deadline = deadline = loop.time() + timeout_s
        if self._timer is None or deadline < self._timer_at:
            self._arm()
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline = 0.0

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._on_end is not None and not self._client.idle:
            self._on_end()

    def _arm(self) -> None:
        """Look at the deadline when it comes, or in ten seconds, whichever is first."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        wait_s = min(max(0.0, self._deadline - now), TIMER_S_MAX) if self._deadline else TIMER_S_MAX
        self._timer_at = now + wait_s
        self._timer = self._loop.call_at(self._timer_at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.ended:
            return
        if self._deadline and self._loop.time() >= self._deadline:
            self._time_out()
        else:
            self._arm()

    def _time_out(self) -> None:
        transport = self._transport
        if transport is not None:
            transport.abort()
        self._end("The server did not answer in time.")

    def _end(self, description: str) -> None:
        """The connection is over: tell whoever waits. Later calls change nothing."""
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._events += self._client.lost(description)
        self._wake()
