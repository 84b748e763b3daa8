"""Headers as balancers send them."""

from __future__ import annotations

import ipaddress

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def block(command: int, family: int, rest: bytes) -> bytes:
    """A header of version 2 with these octets in its fields."""
    return SIGNATURE + bytes([command, family]) + len(rest).to_bytes(2, "big") + rest


def v4(address: str, port: int, additions: bytes = b"") -> bytes:
    """A connection over IPv4."""
    return _addresses(0x11, ipaddress.IPv4Address(address).packed, port, additions)


def v6(address: str, port: int, additions: bytes = b"") -> bytes:
    """A connection over IPv6."""
    return _addresses(0x21, ipaddress.IPv6Address(address).packed, port, additions)


def _addresses(family: int, packed: bytes, port: int, additions: bytes) -> bytes:
    return block(0x21, family, packed + packed + port.to_bytes(2, "big") + b"\x02\x4b" + additions)
