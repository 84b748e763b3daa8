"""Where a recipient's mail goes next, and which of our addresses it leaves from."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["SYSTEM_SOURCE", "EgressPath", "EgressPool", "EgressSource", "Host", "Route"]


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
        provider: Id of the receiving provider in the rule book; empty for one without rules of its own.
    """

    site: str
    hosts: tuple[Host, ...]
    smarthost: bool = False
    provider: str = ""


class EgressSource(msgspec.Struct, frozen=True):
    """An address that mail leaves from, and who we say we are when it does.

    Args:
        id: Its name in configuration; empty for the system's choice.
        address: The local IP address in canonical form, empty for the system's choice. It reaches destinations of its
            own family only.
        hostname: Name said in EHLO; empty for the node's own.
        node: The only node that may own it; empty for any that has the address.
        location: The only location whose nodes may own it; empty for any.
    """

    id: str
    address: str
    hostname: str = ""
    node: str = ""
    location: str = ""

    def is_for(self, *, node: str, location: str) -> bool:
        """Whether a node of that name, in that location, may own it."""
        return self.node in {"", node} and self.location in {"", location}


SYSTEM_SOURCE: Final = EgressSource("", "")
"""Where no egress source is configured: the system chooses the address."""


class EgressPool(msgspec.Struct, frozen=True):
    """Sources that share the mail of the domains that use the pool.

    Args:
        id: Its name in configuration.
        sources: With their weights, each at least 1.
        on_site_loss: What becomes of mail while no node that can be reached has any of the addresses: ``queue``, it
            waits until one has; ``pool:ID``, it leaves by that pool; ``shared``, by the default pool.
        on_site_loss_grace_s: Seconds without an address before ``on_site_loss`` holds; until then mail waits.
        on_site_loss_max_age_s: Seconds after it was due that a recipient waits for an address before it fails; 0.0 for
            as long as its message lives.
    """

    id: str
    sources: tuple[tuple[EgressSource, int], ...]
    on_site_loss: str = "queue"
    on_site_loss_grace_s: float = 0.0
    on_site_loss_max_age_s: float = 0.0


class EgressPath(msgspec.Struct, frozen=True, gc=False):
    """Egress source x site: what a ready queue is keyed by.

    Args:
        source: Local address to send from, and whether another node lends it; empty for the system's choice.
        site: The route's site.
    """

    source: str
    site: str
