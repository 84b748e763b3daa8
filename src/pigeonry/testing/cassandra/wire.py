"""As little of Cassandra's native protocol (version 4) as a test cluster needs to look at itself.

No driver: a test of the driver should not have to trust it, and a probe must not cost more than the node's start.

Standards: Apache Cassandra, CQL binary protocol v4, doc/native_protocol_v4.spec.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

__all__ = ["ALL", "ONE", "Refused", "is_ready", "rows"]

ONE: Final = 0x0001
ALL: Final = 0x0005

_REQUEST: Final = 0x04
_ERROR, _STARTUP, _READY, _OPTIONS, _SUPPORTED, _QUERY, _RESULT = 0x00, 0x01, 0x02, 0x05, 0x06, 0x07, 0x08
_RESULT_ROWS: Final = 2
_SKIP_METADATA: Final = 0x02
_HAS_MORE_PAGES: Final = 0x02
_HEADER: Final = struct.Struct(">BBhBi")  # version, flags, stream, opcode, length
_VERSION: Final = b"\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0"


class Refused(Exception):
    """The node answered with an error; the text is the node's."""


async def is_ready(address: str, port: int, *, timeout_s: float) -> bool:
    """Whether a node answers there."""
    try:
        async with asyncio.timeout(timeout_s):
            opcode, _ = await _ask(address, port, [(_OPTIONS, b"")])
    except (OSError, EOFError):
        return False
    return opcode == _SUPPORTED


async def rows(
    address: str, port: int, cql: str, *, timeout_s: float, consistency: int = ONE
) -> list[tuple[bytes | None, ...]]:
    """The rows of the first page, as octets; none for a statement that gives none.

    Raises:
        Refused: The node said no.
        OSError: It does not answer, or not in time.
    """
    text = cql.encode()
    query = struct.pack(">i", len(text)) + text + struct.pack(">HB", consistency, _SKIP_METADATA)
    try:
        async with asyncio.timeout(timeout_s):
            opcode, body = await _ask(address, port, [(_STARTUP, _VERSION), (_QUERY, query)])
    except EOFError as error:
        raise ConnectionResetError(str(error)) from error
    if opcode != _RESULT:
        raise Refused(body[6:].decode(errors="replace"))
    return _rows(body)


async def _ask(address: str, port: int, requests: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    """Send each request and read its answer; the last one, or the first that is an error."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        opcode, body = _ERROR, b""
        for request, octets in requests:
            writer.write(_HEADER.pack(_REQUEST, 0, 0, request, len(octets)) + octets)
            *_, opcode, length = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            body = await reader.readexactly(length)
            if opcode == _ERROR:
                break
        return opcode, body
    finally:
        writer.transport.abort()


def _rows(body: bytes) -> list[tuple[bytes | None, ...]]:
    (kind,) = struct.unpack_from(">i", body)
    if kind != _RESULT_ROWS:
        return []
    flags, columns = struct.unpack_from(">ii", body, 4)
    at = 12
    if flags & _HAS_MORE_PAGES:
        at += 4 + struct.unpack_from(">i", body, at)[0]
    (count,) = struct.unpack_from(">i", body, at)
    at += 4
    found = []
    for _ in range(count):
        row: list[bytes | None] = []
        for _ in range(columns):
            (length,) = struct.unpack_from(">i", body, at)
            at += 4
            row.append(None if length < 0 else body[at : at + length])
            at += max(0, length)
        found.append(tuple(row))
    return found
