"""Egress addresses of a drill's nodes: loopback ones, in pools that say each in another way what a lost place means.

Every process of the machine has every loopback address, so who may use one is said by its ``node``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["GRACE_S", "Addresses"]

LEASE_S: Final = 6.0  # as a worker's own
GRACE_S: Final = 2.0  # without an address, after which mail takes the way that its pool names

_POOLS: Final = {"shared": "queue", "waits": "queue", "named": "pool:reserve", "anyhow": "shared", "reserve": "queue"}
"""The pools and their ``on_site_loss``. All nodes have addresses of the first, those of the first place of the next
three, those of other places of the last."""


class Addresses(msgspec.Struct, frozen=True):
    """Who has which.

    Args:
        network: The first three octets of all.
        places: The nodes of each location.
    """

    network: str
    places: Mapping[str, Sequence[str]]

    def of(self, pool: str) -> Mapping[str, str]:
        """The addresses of a pool by node."""
        first = next(iter(self.places.values()))
        nodes = [name for names in self.places.values() for name in names]
        row = list(_POOLS).index(pool)
        found = {}
        for number, name in enumerate(nodes, 10 * row + 130):
            if pool == "shared" or (name in first) == (pool != "reserve"):
                found[name] = f"{self.network}.{number}"
        return found

    def dedicated(self) -> Mapping[str, set[str]]:
        """The pools of the first place alone, and all addresses from which mail of each may ever come."""
        ways = {"waits": ("waits",), "named": ("named", "reserve"), "anyhow": ("anyhow", "shared")}
        return {pool: {each for name in names for each in self.of(name).values()} for pool, names in ways.items()}

    def toml(self) -> str:
        """The section of the nodes' configuration."""
        lines = ["[egress]", 'default_pool = "shared"', f"lease_s = {LEASE_S}"]
        for pool in _POOLS:
            for node, address in self.of(pool).items():
                lines += ["[[egress.sources]]", f'id = "{pool}-{node}"', f'address = "{address}"', f'node = "{node}"']
        for pool, way in _POOLS.items():
            weights = ", ".join(f"{pool}-{node} = 1" for node in self.of(pool))
            if weights:
                lines += ["[[egress.pools]]", f'id = "{pool}"', f"sources = {{ {weights} }}", f'on_site_loss = "{way}"']
                lines += [f"on_site_loss_grace_s = {GRACE_S}"]
        return "\n".join(lines) + "\n"
