"""The SMTP door: what all connections of one worker share, and their common end.

Wiring gives ``protocol_factory(tls=...)`` to its servers, runs ``run`` beside them, and calls ``drain`` or ``stop`` to
end. One sweep a second looks after the time of all connections: a timer for each would cost more than a command.

Trust: connections are bounded in number, in all and by client; messages in flight are bounded in octets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from pigeonry.compose.identity import IdentitySource
from pigeonry.doors.smtp.clients import Clients
from pigeonry.doors.smtp.connection import Connection
from pigeonry.doors.smtp.content import Reader
from pigeonry.doors.smtp.trace import Trace
from pigeonry.protocol.smtp.service import Service

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Awaitable, Callable

    from pigeonry.domain.message import Accept, MessageKey
    from pigeonry.domain.submission import Submission
    from pigeonry.domain.tenant import Caller, SendingDomain
    from pigeonry.doors.smtp.config import SmtpDoorConfig
    from pigeonry.ports.body_store import Spool
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.ports.queue_store import Commit
    from pigeonry.protocol.proxy import Source

__all__ = ["Counts", "Intake", "SmtpDoor"]

SWEEP_S: Final = 1.0  # between two looks at the time of all connections
DRAIN_STEP_S: Final = 0.05  # seconds between two looks at what is still under way


class Intake(Protocol):
    """Takes submissions in: ``queue.intake``. By ``deadline``, in monotonic time, the door must have its answer."""

    def begin(
        self,
        make: Callable[[], Submission],
        *,
        octets: int,
        deadline: float,
        told: Callable[[Accept | None, Exception | None], None],
    ) -> Commit:
        """Begin to make durable what ``make`` makes; ``told`` is called later, once."""
        ...

    def waits(self) -> bool:
        """Whether somebody has to be asked before anything is taken in, so that only ``accept`` may be called."""
        ...

    async def accept(self, submission: Submission, *, deadline: float) -> MessageKey:
        """The same for those who wait; raises ``PigeonryError`` when it could not be taken."""
        ...


class Counts(msgspec.Struct):
    """What the door has done since it was made, for metrics.

    Args:
        turned_away: Connections answered 421 at the greeting.
        shed: MAIL answered 451 for load.
        refused: Messages refused after their text.
        faults: Answers 4yz for exceptions of ours.
    """

    connections: int = 0
    turned_away: int = 0
    accepted: int = 0
    refused: int = 0
    shed: int = 0
    failed_logins: int = 0
    faults: int = 0


class SmtpDoor:
    """Mail in by SMTP.

    Args:
        config: Settings and bounds.
        intake: Takes messages in.
        login: Whose login and password these are; None for nobody's.
        domains: The sending domain of that name, from memory; None when it is none of ours.
        spool: Starts receiving a large body.
        clock: Time.
        ids: Random octets.
        reason_to_shed: Why to refuse just now, or None; asked at each MAIL, so without I/O.
        tls: The context of all doors; None offers no STARTTLS.

    Raises:
        ValueError: ``trusted_networks`` is malformed or everybody.
    """

    def __init__(
        self,
        config: SmtpDoorConfig,
        *,
        intake: Intake,
        login: Callable[[str, str], Awaitable[Caller | None]],
        domains: Callable[[str], SendingDomain | None],
        spool: Callable[[], Spool],
        clock: Clock,
        ids: IdSource,
        reason_to_shed: Callable[[], str | None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.config = config
        self.intake = intake
        self.login = login
        self.spool = spool
        self.clock = clock
        self.reason_to_shed = reason_to_shed
        self.tls = tls
        self.service = Service(
            hostname=config.hostname,
            limits=config.limits,
            starttls=tls is not None,
            auth=True,
            plain_auth=config.allow_plain_auth,
        )
        self.clients = Clients(config.trusted_networks, connections_max=config.connections_per_client_max)
        self.trace = Trace(hostname=config.hostname, clock=clock, ids=ids)
        self.reader = Reader(
            domains=domains,
            relay_account=config.relay_account,
            hostname=config.hostname,
            trace=self.trace,
            identities=IdentitySource(hostname=config.hostname, clock=clock, ids=ids),
        )
        self.counts = Counts()
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.octets_in_flight = 0
        self.taking = 0  # messages handed over and not answered yet
        self.draining = False
        self.now = clock.monotonic()  # as of the last sweep: near enough for timeouts, and free

    def protocol_factory(self, *, tls: bool) -> Callable[..., Connection]:
        """What a server makes its protocols with, given what a balancer says of the client, where one does.

        Args:
            tls: Whether the server's transports are TLS from the first octet.
        """

        def made(source: Source | None = None) -> Connection:
            return Connection(self, secure=tls, source=source)

        return made

    async def run(self) -> None:
        """Keep the time of all connections until cancelled."""
        while True:
            await self.clock.sleep(SWEEP_S)
            self._sweep()

    async def drain(self, within_s: float) -> bool:
        """End politely: 421 for new connections, and for each that stands when no transaction of its own is under way.

        Args:
            within_s: Seconds that transactions may take; then the rest is told 421, and cut.

        Returns:
            Whether every transaction came to its end.
        """
        self.draining = True
        until = self.clock.monotonic() + within_s
        for connection in tuple(self.connections):
            connection.drain()
        while self.connections or self.tasks or self.taking:
            if self.clock.monotonic() >= until:
                under_way = [connection.give_up() for connection in tuple(self.connections)]
                await self.clock.sleep(DRAIN_STEP_S)  # for the 421 to leave
                self.stop()
                return not any(under_way)
            await self.clock.sleep(DRAIN_STEP_S)
            self._sweep()
        return True

    def stop(self) -> None:
        """Close all connections at once. What was handed over and not acknowledged is cancelled."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.abort()

    def _sweep(self) -> None:
        self.now = now = self.clock.monotonic()
        for connection in tuple(self.connections):
            connection.check_time(now)
