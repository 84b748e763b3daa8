"""From a route to a session: hosts in order, their addresses, TLS.

A host that does not answer, or does not want a session (also 5yz at the greeting), is passed over for the next one;
what is left when none is left is a deferral. TLS is opportunistic: first a handshake with a certificate that verifies,
else one with any, else none, each on a new connection, unless more is demanded: by the message or its recipient's
domain (``demand``), or by the host's TLSA records, to which every connection is held. Then a host that does not do what
is demanded is passed over, and nothing goes to it in clear. What worked is remembered for an hour (``tls_memory``).

Standards: RFC 5321 section 5.1 (which addresses), section 3.1 (554 greeting); RFC 3207 sections 4.1, 6 (what to do when
TLS does not come about); RFC 7435 (opportunistic security); RFC 7672 section 2.2 (DANE: when it applies, and what then
must be); RFC 8461 section 5 (MTA-STS); RFC 8689 section 4.2.1 (REQUIRETLS).
Trust: hosts are anyone's. Number of hosts and addresses tried in one attempt is bounded, and so is each step.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pigeonry.delivery.classify import UNRESOLVED, session_refused, unreachable
from pigeonry.delivery.connection import SmtpConnection, Timeouts
from pigeonry.delivery.demand import ANY_TLS, TlsDemand
from pigeonry.delivery.reach import everywhere
from pigeonry.delivery.tls_memory import TlsLevel, TlsMemory
from pigeonry.domain.outcome import Attempt, Deferred
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.domain.route import SYSTEM_SOURCE, EgressSource, Host, Route
from pigeonry.ports.environment import Clock
from pigeonry.ports.network import Dialer, DnsFailure, NoSuchDomain, Resolver, SourceGone, TlsPeer
from pigeonry.protocol.smtp.client import Lost, NotWelcome, Ready, SmtpClient, TlsAgreed, TlsRefused
from pigeonry.protocol.tls import dane
from pigeonry.protocol.tls.mta_sts import allows

__all__ = ["Opened", "Opener", "OtherFamily"]

ADDRESSES_MAX: Final = 9  # addresses tried in one attempt: of three hosts, with 30 s for each to answer
ADDRESSES_OF_HOST_MAX: Final = 3  # of one host: the dead addresses of the first must not keep us from the second
ENCRYPTION_NEEDED: Final = EnhancedStatus(7, 10)  # RFC 7817 section 5: encryption needed
NO_REQUIRETLS: Final = EnhancedStatus(7, 30)  # RFC 8689 section 8.2: REQUIRETLS support required


class Opened(msgspec.Struct, frozen=True):
    """A session that is ready, and which host of the route it is with.

    Args:
        lenient: Whether the host's TLSA records were left aside, for a message that wants that.
    """

    connection: SmtpConnection
    host: Host
    index: int
    lenient: bool = False


class _Start(msgspec.Struct, frozen=True):
    """Where connections are made from, and by what."""

    source: EgressSource
    dialer: Dialer


class _Need(msgspec.Struct, frozen=True):
    """What a connection to one host must be.

    Args:
        required: Encrypted.
        verified: The host's by an authority that we trust.
        records: TLSA records that the certificates must match; empty when there are none that count.
        server_name: What the server is asked for, and its certificate must name.
        passed_on: REQUIRETLS must be offered.
    """

    required: bool
    verified: bool
    server_name: str
    records: tuple[dane.Tlsa, ...] = ()
    passed_on: bool = False


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

    def __init__(self, level: TlsLevel, description: str, *, lasting: bool = True) -> None:
        super().__init__(description)
        self.level = level
        self.description = description
        self.lasting = lasting


class Opener:
    """Makes connections with a session on them.

    Args:
        resolver, dialer, clock: The network and time.
        hostname: Our name for EHLO, where the source has none of its own.
        timeouts: For connecting, TLS and every phase of the session.
        reach: Whether an address that DNS named may be connected to.
        through: What connects by way of the node of that name; None where there is no other node.
        memory: Of hosts whose TLS is broken.
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
        memory: TlsMemory | None = None,
    ) -> None:
        self._resolver = resolver
        self._reach = reach
        self._dialer = dialer
        self._through = through
        self._clock = clock
        self._hostname = hostname
        self._timeouts = timeouts or Timeouts()
        self._memory = memory or TlsMemory(clock)

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
                need = await self._need(host, demand, chosen=route.smarthost)
            except _NoSession as none:
                failure = _better(failure, none.outcome)
                out_of_reach = out_of_reach and none.out_of_reach
                continue
            out_of_reach = False
            for address in addresses[: min(left, ADDRESSES_OF_HOST_MAX)]:
                left -= 1
                try:
                    connection = await self._session(host, address, start, need)
                    return Opened(connection, host, index, lenient=demand.lenient)
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

    async def _need(self, host: Host, demand: TlsDemand, *, chosen: bool) -> _Need:
        """What a host must do, by the message, the domain's policy and the host's own records."""
        plain = _Need(demand.required, demand.verified, host.name, passed_on=demand.end_to_end)
        if chosen:
            return plain
        answer = None
        if not demand.lenient:
            try:
                answer = await self._resolver.tlsa(host.name, host.port)
            except DnsFailure:
                description = "The host's TLSA records could not be looked up, or are forged."
                raise _NoSession(Deferred(Attempt(mx_host=host.name), UNRESOLVED, description=description)) from None
        records = () if answer is None else dane.usable(_parsed(answer.records))
        sts = demand.sts
        if sts is not None and not (records and demand.policy.authentic) and not allows(sts, host.name):
            description = "The domain's MTA-STS policy does not allow the host."
            raise _NoSession(_tls_needed(Attempt(mx_host=host.name), description))
        if answer is None:
            return plain
        if not records:  # there are some, and none that can be used: RFC 7672 section 2.2, encrypted all the same
            return msgspec.structs.replace(plain, required=True)
        by_authority = sts is not None and not demand.policy.authentic
        return _Need(True, by_authority, answer.base, records, demand.end_to_end)

    async def _session(self, host: Host, address: str, start: _Start, need: _Need) -> SmtpConnection:
        level = self._memory.level(host.name)
        if need.verified or (need.required and level is TlsLevel.CLEAR):
            level = TlsLevel.VERIFIED  # what is remembered is no reason to ask for less
        if need.records and not need.verified:
            level = TlsLevel.ANY_CERTIFICATE  # by an authority or not: the records judge it
        while True:
            connection = await self._greeted(host, address, start)
            try:
                await self._secure(connection, host, level, need, start.dialer)
            except _StepDown as step:
                connection.abort()
                if step.lasting:
                    self._memory.remember(host.name, step.level, step.description)
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
        self, connection: SmtpConnection, host: Host, level: TlsLevel, need: _Need, dialer: Dialer
    ) -> None:
        """Bring the connection to TLS if it is offered and known to work."""
        if not connection.capabilities.starttls:
            if need.required:
                description = "The server does not offer TLS, which is required."
                raise _NoSession(_tls_needed(_attempt(connection, host), description))
            return
        if level is TlsLevel.CLEAR:
            return
        event = await connection.ask_for_tls()
        if isinstance(event, TlsRefused):
            if need.required:
                raise _NoSession(session_refused(event, _attempt(connection, host)))
            return
        if not isinstance(event, TlsAgreed):
            raise self._cut_short(connection, host, event, need)
        await self._handshake(connection, host, level, need, dialer)

    async def _handshake(
        self, connection: SmtpConnection, host: Host, level: TlsLevel, need: _Need, dialer: Dialer
    ) -> None:
        try:
            transport, peer = await dialer.start_tls(
                connection.transport,
                connection,
                server_name=need.server_name,
                verify=level is TlsLevel.VERIFIED,
                timeout_s=self._timeouts.tls,
                keep_chain=bool(need.records),
            )
        except OSError as error:
            raise self._not_secured(connection, host, level, need, error) from None
        if need.records:
            names = tuple(dict.fromkeys((need.server_name, host.name)))
            now = dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)
            if not dane.matches(need.records, peer.chain, names=names, now=now):
                transport.abort()
                description = "The server's certificate is not the one that its TLSA records allow."
                raise _NoSession(_tls_needed(_attempt(connection, host), description))
            peer = TlsPeer(peer.version, peer.cipher, peer.verified, dane=True)
        event = await connection.greet_again(transport, peer)
        if not isinstance(event, Ready):
            raise self._cut_short(connection, host, event, need)
        if need.passed_on and not connection.capabilities.require_tls:
            description = "The server does not offer REQUIRETLS, which the message asks for."
            raise _NoSession(_tls_needed(_attempt(connection, host), description, NO_REQUIRETLS))

    def _not_secured(
        self, connection: SmtpConnection, host: Host, level: TlsLevel, need: _Need, error: OSError
    ) -> _NoSession | _StepDown:
        attempt = _attempt(connection, host)
        if isinstance(error, ssl.SSLCertVerificationError) and level is TlsLevel.VERIFIED:
            if need.verified:
                return _NoSession(_tls_needed(attempt, "The server's certificate does not verify, which is required."))
            return _StepDown(TlsLevel.ANY_CERTIFICATE, "The certificate does not verify.")
        if need.required:
            return _NoSession(_tls_needed(attempt, "The TLS handshake failed, and TLS is required."))
        return _StepDown(TlsLevel.CLEAR, "The TLS handshake failed.")

    def _cut_short(self, connection: SmtpConnection, host: Host, event: object, need: _Need) -> _NoSession | _StepDown:
        """Some servers drop who asks for TLS, or all they hear over it: without it they may listen."""
        if isinstance(event, Lost) and not need.required:
            return _StepDown(TlsLevel.CLEAR, event.description, lasting=False)
        return self._no_session(connection, host, event)

    def _no_session(self, connection: SmtpConnection, host: Host, event: object) -> _NoSession:
        assert isinstance(event, NotWelcome | TlsRefused | Lost), "before a message only these end a session"
        attempt = _attempt(connection, host)
        connection.close()
        return _NoSession(session_refused(event, attempt))


def _attempt(connection: SmtpConnection, host: Host) -> Attempt:
    tls = connection.tls
    return Attempt(
        mx_host=host.name,
        sending_ip=connection.local_address,
        tls=tls is not None,
        certificate_verified=tls is not None and tls.authentic,
        sending_host=connection.local_host,
    )


def _better(one: Deferred | None, other: Deferred) -> Deferred:
    """The failure that says more: a server's reply says more than silence; among equals the first host's."""
    if one is None or (one.reply is None and other.reply is not None):
        return other
    return one


def _tls_needed(attempt: Attempt, description: str, status: EnhancedStatus = ENCRYPTION_NEEDED) -> Deferred:
    reply = Reply(450, description, status)
    return Deferred(attempt, 450, reply, description=description)


def _parsed(records: Sequence[str]) -> list[dane.Tlsa]:
    """Those that are TLSA records at all; DNS gives no others."""
    found = []
    for text in records:
        with contextlib.suppress(dane.BadTlsa):
            found.append(dane.parse_tlsa(text))
    return found


def _plain(error: OSError) -> str:
    """What the system says, without addresses of ours."""
    return os.strerror(error.errno).lower() if error.errno else "it was refused or broke"
