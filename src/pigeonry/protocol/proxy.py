r"""The header by which a balancer says whose connection it forwards: PROXY protocol, versions 1 and 2.

``read`` is given all octets of the header that there are so far and answers either with what the header says, or with
how many octets more certainly belong to it. Who reads no more than that at a time never takes an octet of what
follows, so that TLS can begin right behind the header.

Standards: the PROXY protocol by HAProxy, document ``proxy-protocol.txt``, sections 2.1 (the line), 2.2 (the block) and
2.2.6 (``PP2_TYPE_SSL``). A checksum (2.2.3) is not looked at: TCP has one.
Trust: only addresses that the operator named are believed. What they send is bounded, and checked all the same: a
balancer that is set up wrongly hands on what its clients say.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec

__all__ = ["HEADER_OCTETS_MAX", "LINE_OCTETS_MAX", "BadHeader", "Source", "read"]

LINE_OCTETS_MAX: Final = 107  # section 2.1: the longest line with its CRLF
HEADER_OCTETS_MAX: Final = 2_048  # of the block; section 2.2 promises 216 for addresses, the rest is additions (TLV)

_LINE: Final = b"PROXY "
_BLOCK: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED: Final = 16  # octets of a block before its addresses
_SHORTEST_LINE: Final = len(b"PROXY UNKNOWN\r\n")
_ADDRESSES: Final = {0x0: 0, 0x1: 12, 0x2: 36, 0x3: 216}  # octets by address family: none, IPv4, IPv6, Unix
_TYPE_SSL: Final = 0x20
_CLIENT_SSL: Final = 0x01
_SSL_FIXED: Final = 5  # octets of PP2_TYPE_SSL before its own additions


class BadHeader(Exception):
    """It is no header; the connection must be closed, for nobody knows whose it is."""


class Source(msgspec.Struct, frozen=True):
    """Where a connection came from.

    Args:
        address: The client's IP address; empty: whoever is connected speaks for itself.
        secure: Whether the client spoke TLS with the one who forwards.
    """

    address: str = ""
    port: int = 0
    secure: bool = False


def read(header: bytes) -> Source | int:
    """What a header says, or at least how many octets more it has.

    Args:
        header: Its octets so far, perhaps none, and never more than it has.

    Raises:
        BadHeader: No header begins so, or it breaks a bound.
    """
    if header.startswith(_LINE):
        return _line(header)
    if header.startswith(_BLOCK):
        return _block(header)
    if _LINE.startswith(header):
        return _SHORTEST_LINE - len(header)
    if _BLOCK.startswith(header):
        return _FIXED - len(header)
    raise BadHeader("no header")


def _line(header: bytes) -> Source | int:
    if not header.endswith(b"\r\n"):
        left = max(_SHORTEST_LINE - len(header), 1 if header.endswith(b"\r") else 2)
        if len(header) + left > LINE_OCTETS_MAX or b"\r\n" in header:
            raise BadHeader("too long")
        return left
    words = header[:-2].split(b" ")
    if words[1] == b"UNKNOWN":
        return Source()
    if len(words) != 6 or words[1] not in {b"TCP4", b"TCP6"}:
        raise BadHeader("not a line of addresses")
    version = 4 if words[1] == b"TCP4" else 6
    source, _ = _address(words[2], version), _address(words[3], version)
    port, _ = _port(words[4]), _port(words[5])
    return Source(source, port)


def _address(word: bytes, version: int) -> str:
    try:
        parsed = ipaddress.ip_address(word.decode("ascii"))
    except ValueError:
        raise BadHeader("no address") from None
    if parsed.version != version or b"%" in word:
        raise BadHeader("an address of another kind")
    return _text(parsed)


def _text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As the kernel would have written it on a connection of its own."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _port(word: bytes) -> int:
    port = int(word) if word.isdigit() and len(word) <= 5 else -1
    if not 0 <= port <= 65_535 or b"%d" % port != word:
        raise BadHeader("no port")
    return port


def _block(header: bytes) -> Source | int:
    if len(header) < _FIXED:
        return _FIXED - len(header)
    command, family, transport = header[12], header[13] >> 4, header[13] & 0xF
    length = int.from_bytes(header[14:16], "big")
    if command not in {0x20, 0x21}:
        raise BadHeader("an unknown version or command")
    if _FIXED + length > HEADER_OCTETS_MAX:
        raise BadHeader("too long")
    if len(header) < _FIXED + length:
        return _FIXED + length - len(header)
    if command == 0x20:
        return Source()  # LOCAL: it speaks for itself, a health check; the rest is to be ignored
    if family not in _ADDRESSES or transport > 0x1 or length < _ADDRESSES[family]:
        raise BadHeader("no connection, or no room for its addresses")
    addresses = header[_FIXED : _FIXED + _ADDRESSES[family]]
    secure = _secure(header[_FIXED + len(addresses) :])
    if transport != 0x1 or family not in {0x1, 0x2}:
        return Source(secure=secure)
    size = 4 if family == 0x1 else 16
    return Source(
        _text(ipaddress.ip_address(addresses[:size])),
        int.from_bytes(addresses[2 * size : 2 * size + 2], "big"),
        secure,
    )


def _secure(additions: bytes) -> bool:
    """Whether the additions say that the client spoke TLS; each is a type, a length and so many octets."""
    secure, at = False, 0
    while at < len(additions):
        length = int.from_bytes(additions[at + 1 : at + 3], "big")
        end = at + 3 + length
        if end > len(additions):
            raise BadHeader("an addition longer than the header")
        if additions[at] == _TYPE_SSL:
            if length < _SSL_FIXED:
                raise BadHeader("an addition on TLS without its fields")
            secure = bool(additions[at + 3] & _CLIENT_SSL)
        at = end
    return secure
