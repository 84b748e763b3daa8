"""Which addresses mail may be taken to when DNS, and so anyone, has named them.

A recipient's domain can name any address: 127.0.0.1, a printer, a mail server inside that trusts this machine. Only
public addresses are connected to, and those in networks that configuration names. A smarthost is configuration's own
choice and is not asked about.

Standards: RFC 6890 (special-purpose addresses), RFC 4291 section 2.5.5.2 (IPv4 in IPv6), RFC 3056 (6to4), RFC 6052
(NAT64).
Trust: the addresses come from anyone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

__all__ = ["Reach", "everywhere"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def everywhere(_address: str) -> bool:
    """For tests and networks of one's own: any address will do."""
    return True


class Reach:
    """The addresses that may be connected to.

    Args:
        networks: Networks (CIDR) that are allowed beside the public addresses.

    Raises:
        ValueError: One is no network.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = tuple(ipaddress.ip_network(text) for text in networks)

    def __call__(self, address: str) -> bool:
        """Whether that IP address, with or without a scope, may be connected to."""
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        meant = _inner(found)
        if any(found in network or meant in network for network in self._networks):
            return True
        return meant.is_global and not meant.is_multicast


def _inner(address: Address) -> Address:
    """The IPv4 address that a translator, or our own kernel, would make of an IPv6 address; else itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
