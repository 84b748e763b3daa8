"""Frames: four octets of length, big endian, then so many octets of MessagePack.

Trust: the peer is a process of the same user on this machine, or a node of the cluster that has shown its certificate;
lengths are still checked before anything is read, and what is asked is bounded far below what is answered.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pigeonry.domain.errors import TooLarge

__all__ = ["FRAME_OCTETS_MAX", "REQUEST_OCTETS_MAX", "frame", "read_frame"]

FRAME_OCTETS_MAX: Final = 4 * 1024 * 1024  # a page of the queue or of metrics is far below it
REQUEST_OCTETS_MAX: Final = 64 * 1024  # a command names a message and some words; the longest has hundreds of octets
_LENGTH: Final = 4


def frame(octets: bytes) -> bytes:
    """The octets with their length before them.

    Raises:
        TooLarge: Over ``FRAME_OCTETS_MAX``.
    """
    if len(octets) > FRAME_OCTETS_MAX:
        raise TooLarge("The frame is too large.")
    return len(octets).to_bytes(_LENGTH, "big") + octets


async def read_frame(
    reader: asyncio.StreamReader, *, octets_max: int = FRAME_OCTETS_MAX, within_s: float | None = None
) -> bytes | None:
    """The next frame; None when the peer closed the stream between two frames, or in one.

    Args:
        within_s: Seconds that the rest of a frame may take once its length has come; None: as long as it takes.

    Raises:
        TooLarge: The peer announces more than ``octets_max``; the stream is of no use any more.
        TimeoutError: It began a frame and did not send the rest in time; likewise.
    """
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        if length > octets_max:
            raise TooLarge("The frame is too large.")
        async with asyncio.timeout(within_s):
            return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
