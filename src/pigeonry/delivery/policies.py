"""What recipients' domains want of TLS, found out together with their routes and then at hand without waiting.

``learn`` is called when a domain's route is looked up, at most once a minute for each domain, and ``known`` for each
message: a look into a dictionary. What was dropped for want of room is learnt again before a message goes, so that no
policy is ever forgotten into clear text.

Standards: RFC 8461 section 5.1 (a policy that is known holds when nothing new can be found out).
Trust: what domains publish is anyone's; it only ever adds to what is demanded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal, Protocol

from pigeonry.delivery.demand import NO_POLICY, DomainTls
from pigeonry.ports.network import DnsFailure, NoSuchDomain, Resolver
from pigeonry.protocol.tls.mta_sts import StsPolicy
from pigeonry.protocol.tls.reports import report_addresses

__all__ = ["NO_POLICIES", "DomainPolicies", "Policies", "StsSource"]

DOMAINS_MAX: Final = 100_000  # domains kept: twice the routes that are; some 100 octets for one that wants nothing

Level = Literal["encrypt", "verify"]


class Policies(Protocol):
    """Who knows what domains want."""

    def known(self, address: str) -> DomainTls | None:
        """What the domain of an address wants; None when it must be learnt first. Does no I/O."""
        ...

    async def learn(self, address: str) -> DomainTls:
        """Find it out; a domain alone will do."""
        ...


class StsSource(Protocol):
    """Where policies of MTA-STS are had from: ``delivery.sts``."""

    async def policy(self, domain: str) -> StsPolicy | None:
        """The policy that holds for a domain now, None when there is none. Does not raise."""
        ...


class _NoPolicies:
    """Where configuration says where all mail goes, domains are not asked."""

    def known(self, address: str) -> DomainTls:  # noqa: ARG002
        """Nothing is wanted."""
        return NO_POLICY

    async def learn(self, address: str) -> DomainTls:  # noqa: ARG002
        """Nothing is wanted."""
        return NO_POLICY


NO_POLICIES: Final = _NoPolicies()


class DomainPolicies:
    """Implements ``Policies`` by DNS and configuration.

    Args:
        resolver: Asked whether MX records are authentic, and for where reports are to go.
        sts: Policies of MTA-STS; None where they are not looked for.
        required: By domain, or ``*.`` and the domain above: what configuration asks for.
        reporting: Whether reports are sent, so that it matters who wants them.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        sts: StsSource | None = None,
        required: Mapping[str, Level] | None = None,
        reporting: bool = False,
        domains_max: int = DOMAINS_MAX,
    ) -> None:
        self._resolver = resolver
        self._sts = sts
        self._required = required or {}
        self._reporting = reporting
        self._domains_max = domains_max
        self._known: dict[str, DomainTls] = {}

    def known(self, address: str) -> DomainTls | None:
        """See ``Policies``."""
        return self._known.get(address[address.rfind("@") + 1 :])

    async def learn(self, address: str) -> DomainTls:
        """See ``Policies``."""
        domain = address[address.rfind("@") + 1 :]
        found = NO_POLICY if domain.startswith("[") else await self._find(domain)
        self._known.pop(domain, None)
        while len(self._known) >= self._domains_max:
            self._known.pop(next(iter(self._known)))
        self._known[domain] = found
        return found

    async def _find(self, domain: str) -> DomainTls:
        authentic, sts, reports = await asyncio.gather(
            self._authentic(domain), self._policy(domain), self._reports(domain)
        )
        level = self._level(domain)
        if not authentic and sts is None and level is None and not reports:
            return NO_POLICY
        return DomainTls(domain, authentic, sts, level is not None, level == "verify", reports)

    async def _authentic(self, domain: str) -> bool:
        try:
            exchangers = await self._resolver.mx(domain)
        except (NoSuchDomain, DnsFailure):
            return False
        return bool(exchangers) and all(exchanger.authentic for exchanger in exchangers)

    async def _policy(self, domain: str) -> StsPolicy | None:
        return None if self._sts is None else await self._sts.policy(domain)

    async def _reports(self, domain: str) -> tuple[str, ...]:
        if not self._reporting:
            return ()
        try:
            return report_addresses(tuple(await self._resolver.txt(f"_smtp._tls.{domain}")))
        except (NoSuchDomain, DnsFailure):
            return ()

    def _level(self, domain: str) -> Level | None:
        required = self._required
        if not required:
            return None
        found = required.get(domain)
        above = domain
        while found is None and "." in above:
            above = above.partition(".")[2]
            found = required.get(f"*.{above}")
        return found or required.get("*")
