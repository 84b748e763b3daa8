"""Frames: four octets of length, big endian, then so many octets of MessagePack.

Trust: the peer is a process of the same user on this machine, or a node of the cluster that has shown its certificate;
lengths are still checked before anything is read, and what is asked is bounded far below what is answered.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pigeonry.domain.errors import TooLarge

__all__ = ["FRAME_OCTETS_MAX", "REQUEST_OCTETS_MAX", "frame", "read_frame", "read_length", "read_rest", "split_frame"]

FRAME_OCTETS_MAX: Final = 4 * 1024 * 1024  # a page of the queue or of metrics is far below it
REQUEST_OCTETS_MAX: Final = 64 * 1024  # a command names a message and some words; the longest has hundreds of octets
_LENGTH: Final = 4


def frame(octets: bytes, *, octets_max: int = FRAME_OCTETS_MAX) -> bytes:
    """The octets with their length before them.

    Raises:
        TooLarge: Over ``octets_max``.
    """
    if len(octets) > octets_max:
        raise TooLarge("The frame is too large.")
    return len(octets).to_bytes(_LENGTH, "big") + octets


def split_frame(octets: bytes, *, octets_max: int = FRAME_OCTETS_MAX) -> tuple[bytes, bytes] | None:
    """The first frame's octets and what follows it; None when not all of it is there.

    Raises:
        TooLarge: More than ``octets_max`` are announced; the stream is of no use any more.
    """
    if len(octets) < _LENGTH:
        return None
    end = _LENGTH + int.from_bytes(octets[:_LENGTH], "big")
    if end - _LENGTH > octets_max:
        raise TooLarge("The frame is too large.")
    return (octets[_LENGTH:end], octets[end:]) if len(octets) >= end else None


async def read_length(reader: asyncio.StreamReader, *, octets_max: int = FRAME_OCTETS_MAX) -> int | None:
    """How many octets the next frame has; None when the peer closed the stream.

    Raises:
        TooLarge: The peer announces more than ``octets_max``; the stream is of no use any more.
    """
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    if length > octets_max:
        raise TooLarge("The frame is too large.")
    return length


async def read_frame(reader: asyncio.StreamReader, *, octets_max: int = FRAME_OCTETS_MAX) -> bytes | None:
    """The next frame; None when the peer closed the stream between two frames, or in one.

    Raises:
        TooLarge: As ``read_length``.
    """
    length = await read_length(reader, octets_max=octets_max)
    return None if length is None else await read_rest(reader, length)


async def read_rest(reader: asyncio.StreamReader, length: int) -> bytes | None:
    """What follows the length of a frame; None when the peer closed the stream before all of it came."""
    try:
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
