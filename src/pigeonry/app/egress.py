"""Egress sources and pools as configuration has them: checked together, and made into what delivery knows."""

from __future__ import annotations

import difflib
import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.delivery.borrowing import Borrowing, Offer
from pigeonry.delivery.egress import SYSTEM_POOL, Egress
from pigeonry.delivery.lending import Lending, to_exchangers, to_smarthost
from pigeonry.delivery.ownership import STATES, LeaseTerms, Ownership
from pigeonry.domain.address import ascii_domain
from pigeonry.domain.errors import BadAddress
from pigeonry.domain.route import EgressPool, EgressSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pigeonry.app.egress_settings import EgressPoolSettings, EgressSettings
    from pigeonry.app.settings import Settings
    from pigeonry.domain.message import Pending
    from pigeonry.domain.tenant import SendingDomain
    from pigeonry.doors.commands.owners import Owners
    from pigeonry.ports.coordinator import Coordinator
    from pigeonry.ports.environment import Clock, Dice
    from pigeonry.ports.network import Dialer, Resolver
    from pigeonry.telemetry.log import Logger
    from pigeonry.telemetry.metrics import Sample

__all__ = [
    "OWNED",
    "addresses_of",
    "borrowing",
    "egress_gauges",
    "egress_of",
    "egress_pools",
    "egress_problems",
    "lending",
    "ownership",
]

_POOL: Final = "pool:"
OWNED: Final = "egress.owned"
"""The command by which a node asks another what it lends."""
LEARNING_S: Final = 2.0  # seconds until each address was looked for, and its lease asked for, on a busy machine


def egress_of(
    settings: EgressSettings,
    *,
    domain: Callable[[str], SendingDomain | None],
    clock: Clock,
    rebound: Callable[[Pending], str],
) -> Egress:
    """What chooses the sources."""
    pools, default = egress_pools(settings)
    return Egress(pools, default=default, domain=domain, clock=clock, learning_s=LEARNING_S, rebound=rebound)


def ownership(
    settings: Settings,
    egress: Egress,
    *,
    node: str,
    coordinator: Coordinator,
    clock: Clock,
    dice: Dice,
    dialer: Dialer,
    changed: Callable[[], None],
    log: Logger,
) -> Ownership:
    """What keeps the leases of the sources that this node may use; it is told by ``changed``."""
    location, outlets = settings.node.location, egress.outlets.values()
    return Ownership(
        [out for out in outlets if out.source.address and out.source.is_for(node=node, location=location)],
        coordinator=coordinator,
        clock=clock,
        dice=dice,
        node=node,
        has_address=dialer.has_address,
        changed=changed,
        log=log,
        terms=LeaseTerms(settings.egress.lease_s),
    )


def lending(
    egress: Egress,
    *,
    hostname: str,
    smarthost: tuple[str, int] | None,
    resolver: Resolver,
    reach: Callable[[str], bool],
    clock: Clock,
) -> Lending:
    """What other nodes may use of this one."""
    may_reach = to_smarthost(*smarthost, resolver) if smarthost else to_exchangers(reach)
    return Lending(egress.outlets, hostname=hostname, may_reach=may_reach, clock=clock)


def borrowing(
    settings: Settings,
    egress: Egress,
    *,
    owners: Owners,
    clock: Clock,
    dice: Dice,
    changed: Callable[[], None],
    log: Logger,
) -> Borrowing:
    """What knows which sources other nodes lend."""
    terms = LeaseTerms(settings.egress.lease_s)

    async def ask() -> Mapping[str, Mapping[str, Offer]]:
        answers = await owners.ask_nodes(OWNED, None, timeout_s=terms.renew_s)
        return {node: _offers(answer) for node, answer in answers.items()}

    return Borrowing(
        egress.lent,
        wanted=lambda: egress.borrows,
        ask=ask,
        clock=clock,
        dice=dice,
        changed=changed,
        log=log,
        every_s=terms.renew_s,
    )


def _offers(answer: Any) -> Mapping[str, Offer]:
    """What a node lends, as it says; nothing where that makes no sense."""
    try:
        return msgspec.convert(answer, dict[str, Offer])
    except msgspec.ValidationError:
        return {}


def addresses_of(settings: EgressSettings) -> Callable[[SendingDomain], list[str]]:
    """The addresses that a domain's mail may leave from: of its pools, and of those that stand in for them."""
    pools, default = egress_pools(settings)
    by_id = {pool.id: pool for pool in pools}

    def addresses(domain: SendingDomain) -> list[str]:
        own = [by_id[name] for name in (domain.pool or default, *domain.pools) if name in by_id]
        instead = [
            by_id[default if p.on_site_loss == "shared" else p.on_site_loss[len(_POOL) :]]
            for p in own
            if p.on_site_loss != "queue"
        ]
        found = [source.address for pool in (*own, *instead) for source, _ in pool.sources if source.address]
        return list(dict.fromkeys(found))

    return addresses


def egress_gauges(egress: Egress, addresses: Ownership) -> Mapping[str, Callable[[], list[Sample]]]:
    """The samples of their metrics."""
    return {
        "pigeonry_egress_source": lambda: [
            ((source, state), float(state == now)) for source, now in addresses.states() for state in STATES
        ],
        "pigeonry_egress_source_lent": lambda: [
            ((outlet.source.id,), float(bool(outlet.through))) for outlet in egress.lent.values()
        ],
        "pigeonry_egress_pool_up": lambda: [((pool,), float(up)) for pool, up in egress.states()],
        "pigeonry_egress_waiting_recipients": lambda: [((pool,), float(n)) for pool, n in egress.waiting()],
    }


def egress_pools(settings: EgressSettings) -> tuple[tuple[EgressPool, ...], str]:
    """The pools, and the id of the default one; the system's choice alone where there are none."""
    if not settings.pools:
        return (SYSTEM_POOL,), SYSTEM_POOL.id
    sources = {
        each.id: EgressSource(
            id=each.id,
            address=str(ipaddress.ip_address(each.address)),
            hostname=each.hostname,
            node=each.node,
            location=each.location,
        )
        for each in settings.sources
    }
    pools = tuple(
        EgressPool(
            id=each.id,
            sources=tuple((sources[name], weight) for name, weight in each.sources.items()),
            on_site_loss=each.on_site_loss,
            on_site_loss_grace_s=each.on_site_loss_grace_s,
            on_site_loss_max_age_s=each.on_site_loss_max_age_s,
        )
        for each in settings.pools
    )
    return pools, settings.default_pool


def egress_problems(settings: EgressSettings) -> list[str]:
    """What is wrong with them, one sentence each."""
    problems = _source_problems(settings)
    sources, pools = [each.id for each in settings.sources], [each.id for each in settings.pools]
    problems += [f"egress.pools: two have the id {name}" for name in _repeated(pools)]
    for pool in settings.pools:
        problems += [
            f"egress.pools[{pool.id}].sources: there is no source {name}{_suggestion(name, sources)}"
            for name in pool.sources
            if name not in sources
        ]
        problems += _loss_problems(pool, pools, settings.default_pool)
    used = {name for pool in settings.pools for name in pool.sources}
    problems += [
        f"egress.sources[{name}]: is in no pool, so nothing would use it" for name in sources if name not in used
    ]
    if pools and not settings.default_pool:
        problems.append(
            "egress.default_pool: is needed once there are pools; without it the system would choose the address, "
            "which may be one of theirs"
        )
    elif settings.default_pool and settings.default_pool not in pools:
        suggestion = _suggestion(settings.default_pool, pools)
        problems.append(f"egress.default_pool: there is no pool {settings.default_pool}{suggestion}")
    return problems


def _source_problems(settings: EgressSettings) -> list[str]:
    problems = [f"egress.sources: two have the id {name}" for name in _repeated(each.id for each in settings.sources)]
    addresses = []
    for source in settings.sources:
        key = f"egress.sources[{source.id}]"
        try:
            address = ipaddress.ip_address(source.address)
        except ValueError:
            problems.append(f"{key}.address: {source.address!r} is no IP address")
        else:
            addresses.append(str(address))
            if address.is_unspecified or address.is_multicast or "%" in source.address:
                problems.append(f"{key}.address: {source.address} is no address that mail can leave from")
        if source.hostname:
            try:
                ascii_domain(source.hostname)
            except BadAddress:
                problems.append(f"{key}.hostname: {source.hostname!r} is no host name")
    return problems + [f"egress.sources: two have the address {address}" for address in _repeated(addresses)]


def _loss_problems(pool: EgressPoolSettings, pools: list[str], default: str) -> list[str]:
    key = f"egress.pools[{pool.id}].on_site_loss"
    way = pool.on_site_loss
    if way == "shared":
        return [f"{key}: it is the default pool itself"] if pool.id == default else []
    if way == "queue":
        return []
    if not way.startswith(_POOL):
        return [f'{key}: {way!r} is none of "queue", "shared" and "pool:ID"']
    other = way.removeprefix(_POOL)
    if other == pool.id:
        return [f"{key}: is the pool itself"]
    return [] if other in pools else [f"{key}: there is no pool {other}{_suggestion(other, pools)}"]


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}" if known else ""
