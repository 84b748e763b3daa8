"""Where the files of the store are, and the promise on disk which says how many shards there are.

::

    ROOT/store.json                     {"format": 1, "shards": 16}: the number only ever grows
    ROOT/shards/0003/lock               held by the worker that owns the shard
    ROOT/shards/0003/2026-11-24.db      a day file: recipients with their state, and their events
    ROOT/shards/0003/segments/000007.seg    bodies, one after another
    ROOT/shards/0003/segments/000008.body   one large body

A shard's folder appears when it is first used. A store of a newer format is refused, never guessed at.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.stores.formats import NewerFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.ports.disk import Disk

__all__ = ["Layout", "StoreFile", "day_of", "establish"]

FORMAT: Final = 1
SHARDS_MAX: Final = 4096  # Two octets of a message key, less room to mark others.
_STORE_OCTETS_MAX: Final = 4096  # of the file that says what store this is; it holds some dozens
_DAY_S: Final = 86_400  # seconds of a day
_EPOCH: Final = dt.date(1970, 1, 1)


class StoreFile(msgspec.Struct, frozen=True):
    """What ``store.json`` holds."""

    format: int
    shards: int


class Layout:
    """Names of files.

    Args:
        root: The store's folder.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def store_file(self) -> str:
        """The file that says format and number of shards."""
        return f"{self.root}/store.json"

    def shard(self, shard: int) -> str:
        """A shard's folder."""
        return f"{self.root}/shards/{shard:04d}"

    def lock(self, shard: int) -> str:
        """The file whose lock is the ownership of a shard."""
        return f"{self.shard(shard)}/lock"

    def day_file(self, shard: int, day: int) -> str:
        """A day file; the name is the date, for those who look."""
        return f"{self.shard(shard)}/{_EPOCH + dt.timedelta(days=day)}.db"

    def segments(self, shard: int) -> str:
        """The folder of bodies."""
        return f"{self.shard(shard)}/segments"

    def segment(self, shard: int, number: int) -> str:
        """A file of many bodies."""
        return f"{self.segments(shard)}/{number:06d}.seg"

    def own_file(self, shard: int, number: int) -> str:
        """A file of one large body."""
        return f"{self.segments(shard)}/{number:06d}.body"

    def days(self, disk: Disk, shard: int) -> list[int]:
        """The days that a shard has files of, oldest first. May block."""
        found = []
        for name in disk.list(self.shard(shard)):
            stem, dot, ending = name.partition(".")
            if dot and ending == "db":
                try:
                    found.append((dt.date.fromisoformat(stem) - _EPOCH).days)
                except ValueError:  # Not ours: left alone.
                    continue
        return sorted(found)

    def numbers(self, disk: Disk, shard: int, ending: str) -> Sequence[int]:
        """Numbers of the body files with that ending (``seg`` or ``body``), in order. May block."""
        found = []
        for name in disk.list(self.segments(shard)):
            stem, _, suffix = name.partition(".")
            if suffix == ending and stem.isdecimal():
                found.append(int(stem))
        return sorted(found)


def day_of(now: float) -> int:
    """Days since the Unix epoch (UTC)."""
    return int(now // _DAY_S)


def establish(layout: Layout, disk: Disk, *, shards: int, slot: int) -> StoreFile:
    """Read what the store was made with, or make it. May block.

    Args:
        shards: For a new store, and for an old one that is to have more; it never gets fewer.
        slot: Keeps apart the drafts of workers that start at once; they write the same.

    Raises:
        NewerFormat: A newer release made it.
        ValueError: The file cannot be read: the store is damaged or the folder is something else's.
    """
    path = layout.store_file()
    if disk.size(path) < 0:
        if not 1 <= shards <= SHARDS_MAX:
            raise ValueError(f"The number of shards must be between 1 and {SHARDS_MAX}.")
        disk.make_folder(f"{layout.root}/shards")
        _promise(path, disk, StoreFile(FORMAT, shards), slot)
    try:
        stored = msgspec.json.decode(disk.read(path, 0, _STORE_OCTETS_MAX), type=StoreFile)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if stored.format > FORMAT:
        raise NewerFormat(f"{path} has format {stored.format}; this release knows {FORMAT}. Install the newer release.")
    if stored.shards < shards <= SHARDS_MAX:
        stored = StoreFile(FORMAT, shards)
        _promise(path, disk, stored, slot)
    return stored


def _promise(path: str, disk: Disk, store: StoreFile, slot: int) -> None:
    draft = f"{path}.{slot}.draft"
    disk.unlink(draft)
    file = disk.append(draft)
    try:
        file.write(msgspec.json.encode(store) + b"\n")
        file.sync()
    finally:
        file.close()
    disk.rename(draft, path)
