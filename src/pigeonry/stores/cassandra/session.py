"""The driver, behind one module: statements go in, rows or one of our own errors come out.

Why acsylla, and what the driver forgets: docs/decisions/0012-cassandra-driver.md.

Errors. For a write ``StoreBusy`` says that nothing was stored: it was not sent, or the one coordinator that had it
refused it. All else is ``StoreInDoubt``. Statements that may be repeated (``idempotent``) are sent to a second and
third node when the first is slow or goes away, and then no single answer says what the others did: for them even
*unavailable* is a doubt. A read stores nothing, so it only ever fails with ``StoreBusy``.

Bounds. So many requests may be under way and so many wait for their turn; over that, and while the store does not
answer at all (see ``circuit``), requests are refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import acsylla
import msgspec
from acsylla import errors

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.ports.environment import Clock
from pigeonry.stores.cassandra.circuit import PROBE_S_MAX, Circuit

__all__ = ["CassandraSettings", "CassandraTls", "Consistency", "QueryRefused", "Session"]

UNDER_WAY_MAX: Final = 512  # requests sent and not answered; two thousand rows a group at 4 KB are well under a second
WAITING_MAX: Final = 2048  # requests that wait for their turn; each holds its values, and has its own deadline
CONNECT_S_MAX: Final = 1.0  # seconds to connect to one node; a frozen one accepts and says nothing
HEARTBEAT_S: Final = 1  # seconds between two signs of life of an idle connection; the driver takes whole ones
SILENT_S_MAX: Final = 2  # seconds without such a sign after which a connection is given up; over the heartbeat
RECONNECT_MS: Final = 250  # milliseconds between two attempts to reach a node again: it is used soon after it returns
SPECULATE_MS: Final = 400  # milliseconds after which another node is asked too: a frozen one costs so much, and no more
SPECULATIONS_MAX: Final = 1  # other nodes asked so; a store that is merely slow has twice the work then, and no more
AGREED_POLL_S: Final = 0.1  # seconds between two looks whether all nodes have the same schema
ASK_S_MAX: Final = 5.0  # seconds for such a look
CLOSE_S_MAX: Final = 10.0  # seconds for what is under way when the session is closed; requests have 2 s or so
GUARD_S: Final = 0.1  # seconds past a request's deadline after which the driver has forgotten it
OVERDUE: Final = math.inf  # the deadline of a request that was given up
OPEN_S_MAX: Final = 10.0  # seconds until the first connection stands

PROBE: Final = "SELECT key FROM system.local WHERE key = 'local'"


class Consistency(enum.Enum):
    """How many replicas must have answered. The last two are for the agreement of conditional writes."""

    ONE = acsylla.Consistency.ONE
    QUORUM = acsylla.Consistency.QUORUM
    LOCAL_QUORUM = acsylla.Consistency.LOCAL_QUORUM
    EACH_QUORUM = acsylla.Consistency.EACH_QUORUM
    ALL = acsylla.Consistency.ALL
    SERIAL = acsylla.Consistency.SERIAL
    LOCAL_SERIAL = acsylla.Consistency.LOCAL_SERIAL


class CassandraTls(msgspec.Struct, frozen=True):
    """TLS to the nodes, each a PEM text.

    Args:
        authorities: Who may sign the nodes' certificates, which must also be for the address that is connected to.
        certificate: What we present; empty for nothing.
        key: Its private key.
    """

    authorities: str
    certificate: str = ""
    key: str = ""


class CassandraSettings(msgspec.Struct, frozen=True):
    """Where the store is.

    Args:
        contact_points: ``host:port`` of some nodes; the others are learnt from them and use the same port.
        local_datacenter: The location whose nodes are asked.
        keyspace: What unqualified tables are in; empty for none.
        probe: A statement that the store answers whenever it can be used at all; a text stands for ``?``, another one
            each time, so that it is not always the same replicas that are asked. Empty: requests are sent whatever was
            answered before.
        probe_consistency: Of the probe.
    """

    contact_points: tuple[str, ...]
    local_datacenter: str
    keyspace: str = ""
    username: str = ""
    password: str = ""
    tls: CassandraTls | None = None
    probe: str = PROBE
    probe_consistency: Consistency = Consistency.ONE


class QueryRefused(Exception):
    """The store does not understand the statement or forbids it: a bug, or a schema that is not there."""


class Session:
    """Connections to the nodes of a location. Use it on the loop that opened it."""

    def __init__(self, cluster: Any, session: Any, settings: CassandraSettings, clock: Clock) -> None:
        self._cluster = cluster
        self._session = session
        self._settings = settings
        self._clock = clock
        self._prepared: dict[str, Any] = {}
        self._places = asyncio.Semaphore(UNDER_WAY_MAX)
        self._ended = asyncio.Event()
        self._waiting = 0
        self._closed = False
        self._probes = 0
        self.circuit = Circuit(self._answers, clock)
        self.reach: Callable[[Consistency], Awaitable[Consistency]] = _as_asked
        """Says at which consistency a statement is run that asks for one; it may raise ``StoreBusy``."""
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._sweep())]
        if settings.probe:
            self._tasks.append(loop.create_task(self.circuit.watch()))

    @classmethod
    async def open(cls, settings: CassandraSettings, clock: Clock) -> Session:
        """Connect.

        Raises:
            StoreBusy: No node answers, or none lets us in.
        """
        cluster = _cluster(settings)
        try:
            async with asyncio.timeout(OPEN_S_MAX):
                session = await cluster.create_session(keyspace=settings.keyspace or None)
        except (errors.CassException, TimeoutError) as error:
            cluster.destroy()
            raise StoreBusy("the store cannot be reached") from error
        return cls(cluster, session, settings, clock)

    async def execute(
        self,
        cql: str,
        values: Sequence[object] = (),
        *,
        timeout_s: float,
        consistency: Consistency = Consistency.LOCAL_QUORUM,
        idempotent: bool = True,
    ) -> list[tuple[Any, ...]]:
        """Run a statement; its rows, all in one page. A uuid comes back as its text, all else as it was.

        Args:
            timeout_s: Seconds from now for all of it, waiting for its turn included.
            idempotent: Whether running it twice comes to the same as once; such a one is tried at several nodes.

        Raises:
            StoreBusy: Nothing was stored.
            StoreInDoubt: It may have been stored.
            QueryRefused: The statement is wrong.
        """
        prepared = self._prepared.get(cql) or await self._prepare(cql, timeout_s)
        reach = await self.reach(consistency)

        def request(left_s: float) -> Awaitable[Any]:
            statement = prepared.bind(values, timeout=left_s, consistency=reach.value)
            if idempotent:
                statement.set_is_idempotent(True)
            return self._session.execute(statement)  # type: ignore[no-any-return]

        result = await self._sent(request, timeout_s, stores=not _reads(cql), repeated=idempotent)
        return [row.as_tuple() for row in result]

    async def pages(
        self,
        cql: str,
        values: Sequence[object] = (),
        *,
        timeout_s: float,
        page_rows: int,
        consistency: Consistency = Consistency.LOCAL_QUORUM,
    ) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Read page by page; each page has ``timeout_s`` seconds and at most ``page_rows`` rows, and is not empty.

        Raises:
            StoreBusy: A page did not come in time.
            QueryRefused: The statement is wrong.
        """
        prepared = self._prepared.get(cql) or await self._prepare(cql, timeout_s)
        reach = await self.reach(consistency)
        state: bytes | None = None

        def request(left_s: float) -> Awaitable[Any]:
            statement = prepared.bind(
                values, timeout=left_s, consistency=reach.value, page_size=page_rows, page_state=state
            )
            statement.set_is_idempotent(True)
            return self._session.execute(statement)  # type: ignore[no-any-return]

        while True:
            result = await self._sent(request, timeout_s, stores=False, repeated=True)
            if rows := [row.as_tuple() for row in result]:
                yield rows
            if not result.has_more_pages():
                return
            state = result.page_state()

    async def conditional(
        self,
        cql: str,
        values: Sequence[object] = (),
        *,
        timeout_s: float,
        consistency: Consistency = Consistency.LOCAL_QUORUM,
        serial: Consistency = Consistency.SERIAL,
    ) -> tuple[bool, dict[str, Any]]:
        """Run a statement with IF (a lightweight transaction): whether it applied, and if not the row as it is.

        It is sent once. After ``StoreInDoubt`` a read at ``serial`` tells what became of it.

        Raises:
            StoreBusy: Nothing was stored.
            StoreInDoubt: It may have been applied.
            QueryRefused: The statement is wrong.
        """
        prepared = self._prepared.get(cql) or await self._prepare(cql, timeout_s)
        agreed, reach = await self.reach(serial), await self.reach(consistency)

        def request(left_s: float) -> Awaitable[Any]:
            statement = prepared.bind(values, timeout=left_s, consistency=reach.value, serial_consistency=agreed.value)
            return self._session.execute(statement)  # type: ignore[no-any-return]

        result = await self._sent(request, timeout_s, stores=True, repeated=False)
        row: dict[str, Any] = result.first().as_dict()
        return bool(row.pop("[applied]")), row

    async def batch(
        self,
        statements: Sequence[tuple[str, Sequence[object]]],
        *,
        timeout_s: float,
        consistency: Consistency = Consistency.LOCAL_QUORUM,
    ) -> None:
        """Write rows of one partition together, as one atomic mutation (an unlogged batch); each must be idempotent.

        Raises:
            StoreBusy: Nothing was stored.
            StoreInDoubt: It may have been stored.
            QueryRefused: A statement is wrong.
        """
        prepared = {cql: self._prepared.get(cql) or await self._prepare(cql, timeout_s) for cql, _ in statements}

        def request(left_s: float) -> Awaitable[Any]:
            batch = acsylla.create_batch_unlogged(timeout=left_s)
            batch.set_consistency(consistency.value)
            batch.set_is_idempotent(True)
            for cql, values in statements:
                batch.add_statement(prepared[cql].bind(values))
            return self._session.execute_batch(batch)  # type: ignore[no-any-return]

        await self._sent(request, timeout_s, stores=True, repeated=True)

    async def define(self, cql: str, *, timeout_s: float) -> None:
        """Change the schema; returns when all nodes that are up have agreed on it.

        Raises:
            StoreBusy: Nothing was changed.
            StoreInDoubt: It may have been changed, or not everywhere yet.
            QueryRefused: The statement is wrong.
        """
        give_up = self._clock.monotonic() + timeout_s
        await self._sent(
            lambda left_s: self._session.execute(acsylla.create_statement(cql, timeout=left_s)),
            timeout_s,
            stores=True,
            repeated=False,
        )
        while await self._schemas() != 1:
            if self._clock.monotonic() > give_up:
                raise StoreInDoubt("the nodes of the store do not agree on its schema; are all up?")
            await self._clock.sleep(AGREED_POLL_S)

    async def _schemas(self) -> int:
        """How many versions of the schema there are, as one node knows."""
        versions = set()
        for table in ("local", "peers_v2"):
            cql = f"SELECT schema_version FROM system.{table}"  # noqa: S608  # of two names
            versions.update(await self.execute(cql, timeout_s=ASK_S_MAX, consistency=Consistency.ONE))
        return len(versions)

    async def close(self) -> None:
        """End the connections. What is under way is answered or fails before this returns; what waits is refused."""
        if self._closed:
            return
        self._closed = True
        # Each has a deadline of its own. The driver is not closed before: it would forget to answer some of them.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):
                while self.circuit.under_way:
                    self._ended.clear()
                    await self._ended.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S_MAX):  # what the driver has forgotten it waits for all the same
                await self._session.close()
        self._cluster.destroy()

    async def _prepare(self, cql: str, timeout_s: float) -> Any:
        """Let the nodes know the statement, once for this session."""
        prepared = await self._sent(
            lambda left_s: self._session.create_prepared(cql, timeout=left_s), timeout_s, stores=False, repeated=True
        )
        return self._prepared.setdefault(cql, prepared)

    async def _sent(
        self, request: Callable[[float], Awaitable[Any]], timeout_s: float, *, stores: bool, repeated: bool
    ) -> Any:
        """Send it when there is a place; its result.

        Args:
            request: Sends it, with so many seconds left.
            stores: Whether it may store something.
            repeated: Whether the driver may have sent it to more than one node.
        """
        left_s = await self._place(timeout_s)
        self.circuit.began()
        try:
            result = await self._answer(request, left_s)
        except (ValueError, TypeError, OverflowError) as error:  # values that are no good
            self.circuit.abandoned()
            raise QueryRefused(str(error)) from error
        except (errors.CassException, TimeoutError) as error:
            if isinstance(error, _WRONG):
                self.circuit.answered()
                raise QueryRefused(str(error)) from error
            self.circuit.failed()
            if stores and (repeated or not isinstance(error, _NOTHING_STORED)):
                raise StoreInDoubt("the store did not confirm in time", retry_after_s=1.0) from error
            raise StoreBusy("the store did not answer in time", retry_after_s=1.0) from error
        except BaseException:
            self.circuit.abandoned()
            raise
        else:
            self.circuit.answered()
            return result
        finally:
            self._places.release()
            self._ended.set()

    async def _answer(self, request: Callable[[float], Awaitable[Any]], left_s: float) -> Any:
        """Wait for a request; TimeoutError once the driver must have forgotten it.

        As ``asyncio.timeout`` does it, which costs as much as all else here: one sweep for all, not a timer for each.
        """
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._deadlines[task] = self._clock.monotonic() + left_s + GUARD_S
        try:
            return await request(left_s)
        except asyncio.CancelledError as error:
            if self._deadlines[task] == OVERDUE and task.uncancel() <= cancelling:
                raise TimeoutError from error
            raise
        finally:
            del self._deadlines[task]

    async def _sweep(self) -> None:
        """Wake those whose deadline is over; runs until it is cancelled."""
        while True:
            await self._clock.sleep(GUARD_S)
            now = self._clock.monotonic()
            for task, deadline in self._deadlines.items():
                if deadline < now:
                    self._deadlines[task] = OVERDUE
                    task.cancel()

    async def _place(self, timeout_s: float) -> float:
        """Take one of the places of requests under way; the seconds that are left then."""
        self._refuse_when_gone()
        if not self._places.locked():
            await self._places.acquire()
            return timeout_s
        if self._waiting >= WAITING_MAX:
            raise StoreBusy("the store is busy", retry_after_s=1.0)
        give_up = self._clock.monotonic() + timeout_s
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise StoreBusy("the store is busy", retry_after_s=1.0) from error
        finally:
            self._waiting -= 1
        try:
            self._refuse_when_gone()
        except StoreBusy:
            self._places.release()
            raise
        return max(0.001, give_up - self._clock.monotonic())

    def _refuse_when_gone(self) -> None:
        if self._closed or self.circuit.is_open:
            raise StoreBusy("the store does not answer now", retry_after_s=1.0)

    async def _answers(self) -> bool:
        """Whether the store answers the probe; asked past the circuit, which asks."""
        settings = self._settings
        self._probes += 1
        statement = acsylla.create_statement(
            settings.probe.replace("?", f"'{self._probes}'"),
            timeout=PROBE_S_MAX,
            consistency=settings.probe_consistency.value,
        )
        try:
            async with asyncio.timeout(PROBE_S_MAX + GUARD_S):
                await self._session.execute(statement)
        except (errors.CassException, TimeoutError):
            return False
        return True


_WRONG: Final = (
    errors.CassExceptionInvalidQuery,
    errors.CassExceptionSyntaxError,
    errors.CassErrorServerInvalidQuery,
    errors.CassErrorServerSyntaxError,
    errors.CassErrorServerUnauthorized,
    errors.CassErrorServerConfigError,
    errors.CassErrorServerAlreadyExists,
    errors.CassErrorServerProtocolError,
    errors.CassErrorLibBadParams,
    errors.CassErrorLibIndexOutOfBounds,
    errors.CassErrorLibInvalidItemCount,
    errors.CassErrorLibInvalidValueType,
    errors.CassErrorLibParameterUnset,
)
"""The statement or its values are at fault; trying again would not help."""

_NOTHING_STORED: Final = (
    errors.CassExceptionConnectionError,
    errors.CassErrorServerUnavailable,
    errors.CassErrorServerOverloaded,
    errors.CassErrorServerIsBootstrapping,
    errors.CassErrorLibNoHostsAvailable,
    errors.CassErrorLibNoStreams,
    errors.CassErrorLibRequestQueueFull,
    errors.CassErrorLibNoAvailableIoThread,
    errors.CassErrorLibMessageEncode,
)
"""A request that was sent to one node at most, and ended so, stored nothing: it was refused, or never left."""


def _reads(cql: str) -> bool:
    return cql.lstrip()[:6].upper() == "SELECT"


async def _as_asked(consistency: Consistency) -> Consistency:
    return consistency


def _cluster(settings: CassandraSettings) -> Any:
    """The driver's settings; see the measurements of frozen nodes in the decision."""
    addresses = [point.rpartition(":") for point in settings.contact_points]
    ports = {port for _, _, port in addresses}
    assert len(ports) == 1, "nodes are known to each other by address, so all must use one port"
    secured: dict[str, Any] = {}
    if settings.tls is not None:
        secured = {
            "ssl_enabled": True,
            "ssl_trusted_cert": settings.tls.authorities,
            "ssl_cert": settings.tls.certificate or None,
            "ssl_private_key": settings.tls.key or None,
            "ssl_verify_flags": acsylla.SSLVerifyFlags.PEER_IDENTITY,
        }
    return acsylla.create_cluster(
        [host.strip("[]") for host, _, _ in addresses],
        port=int(ports.pop()),
        username=settings.username or None,
        password=settings.password or None,
        load_balance_dc_aware=settings.local_datacenter,
        connect_timeout=CONNECT_S_MAX,
        request_timeout=OPEN_S_MAX,
        heartbeat_interval_sec=HEARTBEAT_S,
        idle_timeout_sec=SILENT_S_MAX,
        constant_reconnect_delay_ms=RECONNECT_MS,
        exponential_reconnect_base_delay_ms=None,  # its default would take the place of the constant one
        exponential_reconnect_max_delay_ms=None,
        retry_policy="fallthrough",
        speculative_execution_policy=acsylla.SpeculativeExecutionPolicy(SPECULATE_MS, SPECULATIONS_MAX),
        consistency=acsylla.Consistency.LOCAL_QUORUM,
        serial_consistency=acsylla.Consistency.SERIAL,
        application_name="pigeonry",
        log_level="disabled",
        **secured,
    )
