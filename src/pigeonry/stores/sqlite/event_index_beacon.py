"""What the owner of a shard tells the readers of its index: the watermark, in a file of its own.

``ROOT/shards/0003/index/watermark`` gets a record of 56 octets several times a second; its last whole one counts. It
is never synced: after a loss of power an older one is found, and ``stores.event_order`` says why that does no harm.
A row in the index would cost an idle node two pages of writing each time.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

if TYPE_CHECKING:
    from pigeonry.ports.disk import AppendFile, Disk

__all__ = ["Beacon", "BeaconFile", "read_beacon"]

_RECORD: Final = struct.Struct(">qqqqqq")
_CRC: Final = struct.Struct(">Q")
_SIZE: Final = _RECORD.size + _CRC.size
_FILE_OCTETS_MAX: Final = _SIZE * 1024  # some five minutes of records; then it starts over


class Beacon(msgspec.Struct, frozen=True):
    """One record.

    Args:
        spoken_us: When it was written, microseconds since the Unix epoch; 0 when the owner gave the shard up.
        watermark_us, shown_us, known: As in ``stores.event_order.ShardOrder``.
        generation: Changes whenever a file of the index was replaced: readers then open it anew.
        last_us: The place of the last event; tells nothing more, helps those who look.
    """

    spoken_us: int
    watermark_us: int
    shown_us: int
    known: int
    generation: int
    last_us: int = 0


class BeaconFile:
    """The writing side. Every method may block.

    Args:
        path: The file; made on the first ``write``.
    """

    def __init__(self, path: str, *, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._file: AppendFile | None = None

    def write(self, beacon: Beacon) -> None:
        """Add a record.

        Raises:
            OSError: It could not be written; readers see the one before.
        """
        if self._file is None:
            self._file = self._disk.append(self._path)
            whole = self._file.size - self._file.size % _SIZE
            if whole != self._file.size:
                self._file.truncate(whole)
        if self._file.size >= _FILE_OCTETS_MAX:
            self._file.truncate(0)
        record = _RECORD.pack(*msgspec.structs.astuple(beacon))
        self._file.write(record + _CRC.pack(crc32(record)))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_beacon(path: str, *, disk: Disk) -> Beacon | None:
    """The last record, None when there is none that can be read. May block."""
    try:
        size = disk.size(path)
        if size < _SIZE:
            return None
        octets = disk.read(path, size - size % _SIZE - _SIZE, _SIZE)
    except OSError:
        return None
    if len(octets) != _SIZE or _CRC.unpack_from(octets, _RECORD.size)[0] != crc32(octets[: _RECORD.size]):
        return None
    return Beacon(*_RECORD.unpack_from(octets))
