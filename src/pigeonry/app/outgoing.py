"""How mail leaves, from settings: what opens connections, what domains want of TLS.

The worker and the commands of the shell that look at a destination take the same parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.delivery.connection import Timeouts
from pigeonry.delivery.opening import Opener
from pigeonry.delivery.policies import DomainPolicies
from pigeonry.delivery.tls_memory import TlsLevel, TlsMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.app.delivery_settings import DeliverySettings
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.network import Dialer, Resolver
    from pigeonry.telemetry.metrics import Sample

__all__ = ["broken_hosts", "opener_of", "policies_of"]


def opener_of(
    settings: DeliverySettings,
    *,
    resolver: Resolver,
    dialer: Dialer,
    clock: Clock,
    hostname: str,
    reach: Callable[[str], bool],
    through: Callable[[str], Dialer] | None = None,
    memory: TlsMemory | None = None,
) -> Opener:
    """What makes sessions with hosts."""
    timeouts = Timeouts(
        connect=settings.connect_timeout_s,
        greeting=settings.reply_timeout_s,
        envelope=settings.reply_timeout_s,
        dot=settings.final_reply_timeout_s,
    )
    return Opener(
        resolver=resolver,
        dialer=dialer,
        clock=clock,
        hostname=hostname,
        timeouts=timeouts,
        reach=reach,
        through=through,
        memory=memory,
    )


def policies_of(settings: DeliverySettings, *, resolver: Resolver) -> DomainPolicies:
    """What domains want of TLS."""
    required = {entry.domain: entry.require for entry in reversed(settings.tls_required)}
    return DomainPolicies(resolver, required=required)


def broken_hosts(memory: TlsMemory) -> Sequence[Sample]:
    """For the metric: how many hosts are remembered, by what they can still do."""
    levels = [level for level, _, _ in memory.shown().values()]
    return [
        (("certificate",), float(levels.count(TlsLevel.ANY_CERTIFICATE))),
        (("handshake",), float(levels.count(TlsLevel.CLEAR))),
    ]
