"""Frames: four octets of length, big endian, then so many octets of MessagePack.

Trust: the peer is a process of the same user on this machine; lengths are still checked before anything is read.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pigeonry.domain.errors import TooLarge

__all__ = ["FRAME_OCTETS_MAX", "frame", "read_frame"]

FRAME_OCTETS_MAX: Final = 4 * 1024 * 1024  # a page of the queue or of metrics is far below it
_LENGTH: Final = 4


def frame(octets: bytes) -> bytes:
    """The octets with their length before them.

    Raises:
        TooLarge: Over ``FRAME_OCTETS_MAX``.
    """
    if len(octets) > FRAME_OCTETS_MAX:
        raise TooLarge("The frame is too large.")
    return len(octets).to_bytes(_LENGTH, "big") + octets


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame; None when the peer closed the stream between two frames, or in one.

    Raises:
        TooLarge: The peer announces more than ``FRAME_OCTETS_MAX``; the stream is of no use any more.
    """
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        if length > FRAME_OCTETS_MAX:
            raise TooLarge("The frame is too large.")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
