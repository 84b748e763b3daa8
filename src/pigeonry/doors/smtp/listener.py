"""The SMTP door of one worker: what its sessions share, and how they end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.doors.smtp.clients import Clients
from pigeonry.doors.smtp.connection import Connection
from pigeonry.doors.smtp.submission import SubmissionBuilder
from pigeonry.doors.smtp.trace import Trace
from pigeonry.protocol.smtp.service import Service

if TYPE_CHECKING:
    from pigeonry.domain.message import MessageKey
    from pigeonry.domain.submission import Submission
    from pigeonry.domain.tenant import Caller, SendingDomain
    from pigeonry.doors.smtp.config import SmtpDoorConfig
    from pigeonry.ports.body_store import Spool
    from pigeonry.ports.environment import Clock, IdSource

__all__ = ["SmtpDoor"]

DRAINING: Final = Reply(421, "Closing: the service is restarting, connect again", EnhancedStatus(3, 2))
FULL: Final = Reply(421, "Too many connections, try again later", EnhancedStatus(3, 2))
FULL_FOR_CLIENT: Final = Reply(421, "Too many connections from your address", EnhancedStatus(7, 0))
BUSY: Final = Reply(451, "The server has too much to do, try again later", EnhancedStatus(3, 2))
DRAIN_GRAIN_S: Final = 0.05  # how often a draining door looks whether its sessions have ended


class Accepting(Protocol):
    """What ``queue.intake.Intake.accept`` does."""

    async def __call__(self, submission: Submission, *, deadline: float) -> MessageKey:
        """Make it durable."""
        ...


class SmtpDoor:
    """See the package.

    Args:
        accept: Makes a submission durable.
        login: Whose login and password these are, None for nobody's.
        domains: A sending domain by name, from memory.
        spool: Starts receiving a large body.
        reason_to_shed: Why new mail should be refused just now, None when it should not.
        tls: Context for STARTTLS and implicit TLS; None offers neither.
    """

    def __init__(
        self,
        config: SmtpDoorConfig,
        *,
        accept: Accepting,
        login: Callable[[str, str], Awaitable[Caller | None]],
        domains: Callable[[str], SendingDomain | None],
        spool: Callable[[], Spool],
        clock: Clock,
        ids: IdSource,
        reason_to_shed: Callable[[], str | None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.config = config
        self.accept = accept
        self.login = login
        self.spool = spool
        self.clock = clock
        self.tls = tls
        self.octets_in_flight = 0
        self.clients = Clients(config.trusted_networks, connections_max=config.connections_per_client_max)
        self.service = Service(
            hostname=config.hostname,
            limits=config.limits,
            starttls=tls is not None,
            auth=True,
            plain_auth=config.allow_plain_auth,
        )
        self.trace = Trace(hostname=config.hostname, clock=clock, ids=ids)
        self.builder = SubmissionBuilder(
            domains=domains,
            relay_account=config.relay_account,
            hostname=config.hostname,
            trace=self.trace,
            clock=clock,
            ids=ids,
        )
        self._reason_to_shed = reason_to_shed
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop its connections live on."""
        return asyncio.get_running_loop()

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def protocol_factory(self) -> asyncio.Protocol:
        """A session that begins in plain text."""
        return Connection(self, secure=False)

    def tls_protocol_factory(self) -> asyncio.Protocol:
        """A session inside TLS."""
        return Connection(self, secure=True)

    async def drain(self) -> None:
        """Take no more mail: 421 4.3.2 at each session's next command boundary. Returns when all have ended."""
        self._draining = True
        for connection in list(self._connections):
            connection.drain()
        while self._connections or self._tasks:
            await self.clock.sleep(DRAIN_GRAIN_S)

    def stop(self) -> None:
        """End every session at once."""
        self._draining = True
        for connection in list(self._connections):
            connection.abort()

    # -- for connections

    def enter(self, connection: Connection, *, trusted: bool) -> Reply | None:
        """Count a new connection; why it is turned away, None when it is not."""
        if self._draining:
            return DRAINING
        if len(self._connections) >= self.config.connections_max:
            return FULL
        if not trusted and not self.clients.connect(connection.client):
            return FULL_FOR_CLIENT
        self._connections.add(connection)
        return None

    def leave(self, connection: Connection) -> None:
        """Uncount it."""
        self._connections.discard(connection)

    def mail_refusal(self) -> Reply | None:
        """Why no transaction should begin just now."""
        if self.octets_in_flight > self.config.octets_in_flight_max or self._reason_to_shed() is not None:
            return BUSY
        return None

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what a session waits for; the door owns the task."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
