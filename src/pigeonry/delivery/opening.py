"""From a route to a session: hosts in order, their addresses, TLS.

A host that does not answer, or does not want a session (also 5yz at the greeting), is passed over for the next one;
what is left when none is left is a deferral. TLS is opportunistic: first a handshake with a certificate that verifies,
else one with any, else none, each on a new connection, unless the message demands more. What worked is remembered
for an hour, so that a host pays for its broken TLS once and not for every connection.

Standards: RFC 5321 section 5.1 (which addresses), section 3.1 (554 greeting); RFC 3207 sections 4.1, 6 (what to do when
TLS does not come about); RFC 7435 (opportunistic security); RFC 6698 is not done here.
Trust: hosts are anyone's. Number of hosts and addresses tried in one attempt is bounded, and so is each step.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final

import msgspec

from pigeonry.delivery.classify import UNRESOLVED, session_refused, unreachable
from pigeonry.delivery.connection import SmtpConnection, Timeouts
from pigeonry.delivery.reach import everywhere
from pigeonry.domain.outcome import Attempt, Deferred
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.domain.route import SYSTEM_SOURCE, EgressSource, Host, Route
from pigeonry.ports.environment import Clock
from pigeonry.ports.network import Dialer, DnsFailure, NoSuchDomain, Resolver, SourceGone
from pigeonry.protocol.smtp.client import Lost, NotWelcome, Ready, SmtpClient, TlsAgreed, TlsRefused

__all__ = ["ANY_TLS", "Opened", "Opener", "OtherFamily", "TlsDemand"]

ADDRESSES_MAX: Final = 9  # addresses tried in one attempt: of three hosts, with 30 s for each to answer
ADDRESSES_OF_HOST_MAX: Final = 3  # of one host: the dead addresses of the first must not keep us from the second
TLS_MEMORY_S: Final = 3_600.0  # seconds that a host's broken TLS or certificate is remembered
TLS_MEMORIES_MAX: Final = 10_000  # hosts remembered, some 200 octets each


class TlsDemand(msgspec.Struct, frozen=True, gc=False):
    """What a message asks of a connection.

    Args:
        required: It must be encrypted.
        verified: Its certificate must match the host; asked only together with ``required``.
    """

    required: bool = False
    verified: bool = False

    def met_by(self, connection: SmtpConnection) -> bool:
        """Whether a connection that stands will do."""
        if not self.required:
            return True
        return connection.tls is not None and (connection.tls.verified or not self.verified)


ANY_TLS: Final = TlsDemand()


class Opened(msgspec.Struct, frozen=True):
    """A session that is ready, and which host of the route it is with."""

    connection: SmtpConnection
    host: Host
    index: int


class _Start(msgspec.Struct, frozen=True):
    """Where connections are made from, and by what."""

    source: EgressSource
    dialer: Dialer


class _Level(IntEnum):
    """How much of TLS a host can do, best first."""

    VERIFIED = 0
    ANY_CERTIFICATE = 1
    CLEAR = 2


class OtherFamily(Exception):
    """No host of the route has an address of the source's family: another source may reach it.

    Args:
        outcome: What it comes to where there is no other source.
    """

    def __init__(self, outcome: Deferred) -> None:
        super().__init__(outcome.description)
        self.outcome = outcome


class _NoSession(Exception):
    """This address gave no session; ``out_of_reach`` when the host has addresses, and none that the source reaches."""

    def __init__(self, outcome: Deferred, *, out_of_reach: bool = False) -> None:
        super().__init__(outcome.description)
        self.outcome = outcome
        self.out_of_reach = out_of_reach


class _StepDown(Exception):
    """TLS did not come about; the next level may, on a new connection.

    Args:
        lasting: Whether it is the server's fault, to be remembered; a connection that broke may have been chance.
    """

    def __init__(self, level: _Level, description: str, *, lasting: bool = True) -> None:
        super().__init__(description)
        self.level = level
        self.lasting = lasting


class Opener:
    """Makes connections with a session on them.

    Args:
        resolver, dialer, clock: The network and time.
        hostname: Our name for EHLO, where the source has none of its own.
        timeouts: For connecting, TLS and every phase of the session.
        reach: Whether an address that DNS named may be connected to.
        through: What connects by way of the node of that name; None where there is no other node.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        dialer: Dialer,
        clock: Clock,
        hostname: str,
        timeouts: Timeouts | None = None,
        reach: Callable[[str], bool] = everywhere,
        through: Callable[[str], Dialer] | None = None,
    ) -> None:
        self._resolver = resolver
        self._reach = reach
        self._dialer = dialer
        self._through = through
        self._clock = clock
        self._hostname = hostname
        self._timeouts = timeouts or Timeouts()
        self._levels: dict[str, tuple[float, _Level]] = {}

    async def open(
        self,
        route: Route,
        *,
        source: EgressSource = SYSTEM_SOURCE,
        through: str = "",
        demand: TlsDemand = ANY_TLS,
        first: int = 0,
    ) -> Opened | Deferred:
        """A session with the first host that gives one, or why there is none.

        Args:
            source: Where to connect from, and who to be.
            through: The node that is to connect, and whose address the source is; empty for this one.
            demand: What the message at hand asks for.
            first: Index of the first host to try.

        Raises:
            OtherFamily: Another source may reach the hosts.
            SourceGone: The source's address is not this machine's any more, or is not lent to it.
        """
        start = _Start(source, self._dialer_through(through))
        failure: Deferred | None = None
        out_of_reach = True
        left = ADDRESSES_MAX
        for index in range(first, len(route.hosts)):
            host = route.hosts[index]
            try:
                addresses = await self._addresses(host, source.address, chosen=route.smarthost)
            except _NoSession as none:
                failure = _better(failure, none.outcome)
                out_of_reach = out_of_reach and none.out_of_reach
                continue
            out_of_reach = False
            for address in addresses[: min(left, ADDRESSES_OF_HOST_MAX)]:
                left -= 1
                try:
                    return Opened(await self._session(host, address, start, demand), host, index)
                except _NoSession as none:
                    failure = _better(failure, none.outcome)
        if failure is not None and out_of_reach:
            raise OtherFamily(failure)
        return failure or unreachable(Attempt(), "No host of the domain is left to try.")

    async def _addresses(self, host: Host, source: str, *, chosen: bool) -> Sequence[str]:
        """Where to connect to; ``chosen`` by configuration, or by DNS."""
        attempt = Attempt(mx_host=host.name)
        try:
            addresses = await self._resolver.addresses(host.name)
        except NoSuchDomain:
            raise _NoSession(Deferred(attempt, UNRESOLVED, description="The host does not exist.")) from None
        except DnsFailure:
            description = "The host's address could not be looked up: DNS gave no answer."
            raise _NoSession(Deferred(attempt, UNRESOLVED, description=description)) from None
        found = bool(addresses)
        if source:
            addresses = [address for address in addresses if (":" in address) == (":" in source)]
        if not addresses:
            outcome = Deferred(attempt, UNRESOLVED, description="The host has no address we can reach.")
            raise _NoSession(outcome, out_of_reach=found)
        if not chosen:
            addresses = [address for address in addresses if self._reach(address)]
            if not addresses:
                raise _NoSession(unreachable(attempt, "The host has no public address."))
        return addresses

    def _dialer_through(self, node: str) -> Dialer:
        if not node:
            return self._dialer
        if self._through is None:
            raise SourceGone("No other node can be reached.")
        return self._through(node)

    async def _session(self, host: Host, address: str, start: _Start, demand: TlsDemand) -> SmtpConnection:
        level = self._remembered(host.name)
        if demand.required and level is _Level.CLEAR:
            level = _Level.VERIFIED
        while True:
            connection = await self._greeted(host, address, start)
            try:
                await self._secure(connection, host, level, demand, start.dialer)
            except _StepDown as step:
                connection.abort()
                if step.lasting:
                    self._remember(host.name, step.level)
                level = step.level
            except _NoSession:
                connection.close()
                raise
            except BaseException:
                connection.abort()
                raise
            else:
                return connection

    async def _greeted(self, host: Host, address: str, start: _Start) -> SmtpConnection:
        """A connection on which EHLO was answered."""
        loop = asyncio.get_running_loop()
        attempt = Attempt(mx_host=host.name)
        hostname = start.source.hostname or self._hostname
        client = SmtpClient(hostname=hostname)
        connection = SmtpConnection(client=client, timeouts=self._timeouts, loop=loop)
        connection.local_host = hostname
        try:
            await start.dialer.dial(
                lambda: connection, address, host.port, source=start.source.address, timeout_s=self._timeouts.connect
            )
        except SourceGone:
            raise
        except TimeoutError:
            raise _NoSession(unreachable(attempt, "The host did not accept a connection in time.")) from None
        except OSError as error:
            raise _NoSession(unreachable(attempt, f"No connection to the host: {_plain(error)}.")) from None
        try:
            event = await connection.ready()
        except BaseException:
            connection.abort()
            raise
        if not isinstance(event, Ready):
            raise self._no_session(connection, host, event)
        return connection

    async def _secure(
        self, connection: SmtpConnection, host: Host, level: _Level, demand: TlsDemand, dialer: Dialer
    ) -> None:
        """Bring the connection to TLS if it is offered and known to work."""
        if not connection.capabilities.starttls:
            if demand.required:
                raise _NoSession(_tls_needed(connection, host, "The server does not offer TLS, which is required."))
            return
        if level is _Level.CLEAR:
            return
        event = await connection.ask_for_tls()
        if isinstance(event, TlsRefused):
            if demand.required:
                raise _NoSession(session_refused(event, _attempt(connection, host)))
            return
        if not isinstance(event, TlsAgreed):
            raise self._cut_short(connection, host, event, demand)
        await self._handshake(connection, host, level, demand, dialer)

    async def _handshake(
        self, connection: SmtpConnection, host: Host, level: _Level, demand: TlsDemand, dialer: Dialer
    ) -> None:
        try:
            transport, peer = await dialer.start_tls(
                connection.transport,
                connection,
                server_name=host.name,
                verify=level is _Level.VERIFIED,
                timeout_s=self._timeouts.tls,
            )
        except OSError as error:
            if isinstance(error, ssl.SSLCertVerificationError) and level is _Level.VERIFIED:
                if demand.verified:
                    description = "The server's certificate does not verify, which is required."
                    raise _NoSession(_tls_needed(connection, host, description)) from None
                raise _StepDown(_Level.ANY_CERTIFICATE, "The certificate does not verify.") from None
            if demand.required:
                description = "The TLS handshake failed, and TLS is required."
                raise _NoSession(_tls_needed(connection, host, description)) from None
            raise _StepDown(_Level.CLEAR, "The TLS handshake failed.") from None
        event = await connection.greet_again(transport, peer)
        if not isinstance(event, Ready):
            raise self._cut_short(connection, host, event, demand)

    def _cut_short(
        self, connection: SmtpConnection, host: Host, event: object, demand: TlsDemand
    ) -> _NoSession | _StepDown:
        """Some servers drop who asks for TLS, or all they hear over it: without it they may listen."""
        if isinstance(event, Lost) and not demand.required:
            return _StepDown(_Level.CLEAR, event.description, lasting=False)
        return self._no_session(connection, host, event)

    def _no_session(self, connection: SmtpConnection, host: Host, event: object) -> _NoSession:
        assert isinstance(event, NotWelcome | TlsRefused | Lost), "before a message only these end a session"
        attempt = _attempt(connection, host)
        connection.close()
        return _NoSession(session_refused(event, attempt))

    def _remembered(self, name: str) -> _Level:
        until, level = self._levels.get(name, (0.0, _Level.VERIFIED))
        return level if self._clock.monotonic() < until else _Level.VERIFIED

    def _remember(self, name: str, level: _Level) -> None:
        self._levels.pop(name, None)
        while len(self._levels) >= TLS_MEMORIES_MAX:
            self._levels.pop(next(iter(self._levels)))
        self._levels[name] = (self._clock.monotonic() + TLS_MEMORY_S, level)


def _attempt(connection: SmtpConnection, host: Host) -> Attempt:
    tls = connection.tls
    return Attempt(
        mx_host=host.name,
        sending_ip=connection.local_address,
        tls=tls is not None,
        certificate_verified=tls is not None and tls.verified,
        sending_host=connection.local_host,
    )


def _better(one: Deferred | None, other: Deferred) -> Deferred:
    """The failure that says more: a server's reply says more than silence; among equals the first host's."""
    if one is None or (one.reply is None and other.reply is not None):
        return other
    return one


def _tls_needed(connection: SmtpConnection, host: Host, description: str) -> Deferred:
    reply = Reply(450, description, EnhancedStatus(7, 10))
    return Deferred(_attempt(connection, host), 450, reply, description=description)


def _plain(error: OSError) -> str:
    """What the system says, without addresses of ours."""
    return os.strerror(error.errno).lower() if error.errno else "it was refused or broke"
