"""Where a recipient's mail goes next."""

from __future__ import annotations

import msgspec

__all__ = ["EgressPath", "Host", "Route"]


class Host(msgspec.Struct, frozen=True, gc=False):
    """One host to try.

    Args:
        name: Host name or address literal without brackets.
        port: TCP port.
        preference: MX preference, lower first.
    """

    name: str
    port: int = 25
    preference: int = 0


class Route(msgspec.Struct, frozen=True):
    """The hosts for a domain, best first.

    Args:
        site: Name of the site: the same for all domains whose MX hosts are the same (MX roll-up), so that they
            share connections and limits.
        hosts: In the order to be tried.
        smarthost: Whether configuration gave the host: MX rules and the domain's TLS policy are then not asked.
    """

    site: str
    hosts: tuple[Host, ...]
    smarthost: bool = False


class EgressPath(msgspec.Struct, frozen=True, gc=False):
    """Egress source x site: what a ready queue is keyed by.

    Args:
        source: Local address to send from, empty for the system's choice.
        site: The route's site.
    """

    source: str
    site: str
