"""Which hosts take mail for a domain.

Domains whose MX hosts are the same are one *site* (MX roll-up): thousands of domains with one provider then share
connections, limits and back-off. The site's name is made of the hosts' names in canonical order. Where the rule book
says of a provider that each of its hosts takes mail for all its domains, all of them are one site whatever hosts they
name; it also tells whose hosts these are.

Standards: RFC 5321 section 5.1 (MX by preference, chance among equals, implicit MX), section 2.3.5; RFC 7505 (null MX:
5.1.10, reply code 556); RFC 3463 section 3.2 (5.1.2, bad destination system). Events of domains that cannot be found
carry Mailgun's internal codes 498 and 499.
Trust: DNS answers are anyone's. Names from MX records are checked as domain names and bounded in number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from pigeonry.delivery.classify import UNREACHABLE, UNRESOLVED
from pigeonry.delivery.rulebook.book import EMPTY, RuleBook
from pigeonry.domain.address import ascii_domain
from pigeonry.domain.blame import Cause
from pigeonry.domain.errors import BadAddress
from pigeonry.domain.outcome import Attempt, Deferred, Refused
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.domain.route import Host, Route
from pigeonry.ports.environment import Clock, Dice
from pigeonry.ports.network import DnsFailure, MailExchanger, NoSuchDomain, Resolver

__all__ = ["MxRouter", "NoRoute", "Router", "SmarthostRouter"]

HOSTS_MAX: Final = 20  # MX hosts of a domain that are considered; large providers have five
ROUTE_S: Final = 60.0  # seconds that a route is used without asking the resolver, which keeps to the TTL, again
ROUTES_MAX: Final = 50_000  # routes kept, some 500 octets each


class NoRoute(Exception):
    """There is no host for a domain: now (``Deferred``), or ever (``Refused``)."""

    def __init__(self, outcome: Deferred | Refused) -> None:
        super().__init__(outcome.description)
        self.outcome = outcome


class Router(Protocol):
    """Finds the route to a recipient's domain."""

    def known(self, domain: str) -> Route | None:
        """The route if it is at hand; does no I/O."""
        ...

    async def route(self, domain: str) -> Route:
        """The route.

        Raises:
            NoRoute: There is none.
        """
        ...


class SmarthostRouter:
    """Everything goes to one host that configuration names.

    Args:
        host: A host name or an IP address.
    """

    def __init__(self, host: str, port: int = 25) -> None:
        self._route = Route(site=f"smarthost:{host}:{port}", hosts=(Host(host, port),), smarthost=True)

    def known(self, domain: str) -> Route:  # noqa: ARG002  # one route for all
        """The smarthost."""
        return self._route

    async def route(self, domain: str) -> Route:  # noqa: ARG002
        """The smarthost."""
        return self._route


class MxRouter:
    """Routes by DNS.

    Args:
        resolver: Asked for MX; addresses are looked up when a host is connected to.
        clock, dice: Time for the routes kept, chance among hosts of equal preference.
        port: Where the hosts listen; 25 but in tests.
        book: Knows providers by their hosts.
    """

    def __init__(self, resolver: Resolver, *, clock: Clock, dice: Dice, port: int = 25, book: RuleBook = EMPTY) -> None:
        self._resolver = resolver
        self._book = book
        self._clock = clock
        self._dice = dice
        self._port = port
        self._routes: dict[str, tuple[float, Route]] = {}
        self._asking: dict[str, asyncio.Future[Route]] = {}

    def known(self, domain: str) -> Route | None:
        """The route if it was found within the last minute."""
        entry = self._routes.get(domain)
        if entry is None or entry[0] < self._clock.monotonic():
            return None
        return entry[1]

    async def route(self, domain: str) -> Route:
        """The route; one look-up serves all who ask meanwhile."""
        asking = self._asking.get(domain)
        if asking is None:
            asking = self._asking[domain] = asyncio.ensure_future(self._find(domain))
            asking.add_done_callback(lambda _: self._asking.pop(domain, None))
        return await asyncio.shield(asking)

    async def _find(self, domain: str) -> Route:
        if domain.startswith("["):
            address = domain[1:-1].removeprefix("IPv6:")
            return self._keep(domain, Route(site=domain, hosts=(Host(address, self._port),)))
        try:
            exchangers = await self._resolver.mx(domain)
            if not exchangers:
                return self._keep(domain, await self._implicit(domain))
        except NoSuchDomain:
            raise NoRoute(_no_such_domain()) from None
        except DnsFailure:
            description = "The domain's mail servers could not be looked up: DNS gave no answer."
            raise NoRoute(Deferred(Attempt(), UNRESOLVED, description=description)) from None
        return self._keep(domain, self._explicit(exchangers))

    def _explicit(self, exchangers: Sequence[MailExchanger]) -> Route:
        if all(not exchanger.host for exchanger in exchangers):
            raise NoRoute(_null_mx())
        hosts = [Host(name, self._port, e.preference) for e in exchangers if (name := _host_name(e.host))]
        if not hosts:
            description = "The domain's MX records name no valid host."
            raise NoRoute(Deferred(Attempt(), UNREACHABLE, description=description))
        order = sorted(hosts, key=lambda host: (host.preference, self._dice.random()))[:HOSTS_MAX]
        provider = self._book.provider_of([host.name for host in order])
        if provider is None:
            return Route(site=_site(order), hosts=tuple(order))
        site = f"provider:{provider.id}" if provider.one_site else _site(order)
        return Route(site=site, hosts=tuple(order), provider=provider.id)

    async def _implicit(self, domain: str) -> Route:
        if not await self._resolver.addresses(domain):
            raise NoRoute(_no_mail_server())
        return Route(site=domain, hosts=(Host(domain, self._port),))

    def _keep(self, domain: str, route: Route) -> Route:
        self._routes.pop(domain, None)
        while len(self._routes) >= ROUTES_MAX:
            self._routes.pop(next(iter(self._routes)))
        self._routes[domain] = (self._clock.monotonic() + ROUTE_S, route)
        return route


def _site(hosts: Sequence[Host]) -> str:
    """The same for the same hosts with the same order of preference, whatever the numbers are."""
    ranks = {preference: rank for rank, preference in enumerate(sorted({host.preference for host in hosts}))}
    return ",".join(sorted(f"{ranks[host.preference]}:{host.name}" for host in hosts))


def _host_name(name: str) -> str:
    try:
        return ascii_domain(name)
    except BadAddress:
        return ""


def _null_mx() -> Refused:
    reply = Reply(556, "The domain takes no mail (null MX).", EnhancedStatus(1, 10))
    return Refused(Attempt(), 556, reply, description=reply.text, cause=Cause.DESTINATION)


def _no_such_domain() -> Refused:
    reply = Reply(550, "The domain does not exist.", EnhancedStatus(1, 2))
    return Refused(Attempt(), UNRESOLVED, reply, description=reply.text, cause=Cause.DESTINATION)


def _no_mail_server() -> Refused:
    reply = Reply(550, "The domain has no mail server: neither MX records nor an address.", EnhancedStatus(1, 2))
    return Refused(Attempt(), UNRESOLVED, reply, description=reply.text, cause=Cause.DESTINATION)
