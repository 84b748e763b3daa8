"""Sets of networks, asked for each connection whether an address is in one of them.

Trust: addresses are the peers', so what is remembered of them is bounded.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Networks", "parsed_address"]

REMEMBERED_MAX: Final = 10_000  # answers, some 150 octets each; the few balancers and relays of a site are always there


def parsed_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address without its scope; one of IPv4 where it was only mapped into IPv6.

    Raises:
        ValueError: It is none.
    """
    parsed = ipaddress.ip_address(text.partition("%")[0])
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, ipaddress.IPv6Address) else parsed


class Networks:
    """Some networks.

    Args:
        texts: CIDRs.

    Raises:
        ValueError: One of them is malformed.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(text) for text in texts)
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    @property
    def has_everybody(self) -> bool:
        """Whether one of them, or several together, are all there is of IPv4 or IPv6."""
        v4 = [network for network in self._networks if isinstance(network, ipaddress.IPv4Network)]
        v6 = [network for network in self._networks if isinstance(network, ipaddress.IPv6Network)]
        whole = any(network.prefixlen == 0 for network in ipaddress.collapse_addresses(v4))
        return whole or any(network.prefixlen == 0 for network in ipaddress.collapse_addresses(v6))

    def has(self, address: str) -> bool:
        """Whether that address is in one of them.

        Raises:
            ValueError: It is no address.
        """
        known = self._known.get(address)
        if known is None:
            parsed = parsed_address(address)
            known = any(parsed in network for network in self._networks)
            if len(self._known) >= REMEMBERED_MAX:
                self._known.clear()
            self._known[address] = known
        return known
