"""A disk over real files that forgets what was not synced when its process dies: a power cut by kill -9.

Writes wait in this process's memory and reach the real file only at a sync, so that killing the process loses exactly
what a loss of power could lose. Names (making, renaming, removing files) are durable at once, as after a synced
folder. It has no shared memory: one connection a database, which is how a store under test opens it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import apsw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.ports.disk import AppendFile, Disk, FileLock

__all__ = ["ForgetfulDisk"]

BLOCK: Final = 4096  # octets kept in one piece; a page of SQLite's


class ForgetfulDisk:
    """Wraps a disk of real files. See ``ports.disk.Disk`` for the contract."""

    shared_memory = False

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._unsynced: dict[str, _ForgetfulFile] = {}
        self._vfs = _ForgetfulVfs(f"forgetful-{id(self):x}")

    @property
    def sqlite_vfs(self) -> str:
        """The VFS that forgets."""
        return self._vfs.name

    def append(self, path: str) -> AppendFile:
        """Open for appending."""
        file = _ForgetfulFile(self._disk.append(path))
        self._unsynced[path] = file
        return file

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Octets of a file, what is not synced included."""
        octets = self._disk.read(path, offset, length)
        file = self._unsynced.get(path)
        if file is None or len(octets) == length:
            return octets
        return octets + file.unsynced(offset + len(octets), length - len(octets))

    def size(self, path: str) -> int:
        """Octets in a file; -1 when it does not exist."""
        file = self._unsynced.get(path)
        return self._disk.size(path) if file is None else file.size

    def list(self, folder: str) -> Sequence[str]:
        """Names in a folder."""
        return self._disk.list(folder)

    def make_folder(self, path: str) -> None:
        """Make a folder."""
        self._disk.make_folder(path)

    def unlink(self, path: str) -> None:
        """Remove a file, and what it had not synced."""
        self._unsynced.pop(path, None)
        self._disk.unlink(path)

    def rename(self, path: str, to: str) -> None:
        """Rename within a folder."""
        file = self._unsynced.pop(path, None)
        if file is not None:
            self._unsynced[to] = file
        self._disk.rename(path, to)

    def lock(self, path: str) -> FileLock | None:
        """Take an exclusive lock."""
        return self._disk.lock(path)

    def free(self) -> int:
        """Octets that may still be written."""
        return self._disk.free()


class _ForgetfulFile:
    """An append file whose tail is in memory."""

    def __init__(self, file: AppendFile) -> None:
        self._file = file
        self._tail = bytearray()

    @property
    def size(self) -> int:
        return self._file.size + len(self._tail)

    def write(self, octets: bytes | memoryview) -> None:
        self._tail += octets

    def sync(self) -> None:
        self._file.write(bytes(self._tail))
        self._tail.clear()
        self._file.sync()

    def truncate(self, size: int) -> None:
        kept = max(0, size - self._file.size)
        del self._tail[kept:]
        if size < self._file.size:
            self._file.truncate(size)

    def close(self) -> None:
        self._file.close()

    def unsynced(self, offset: int, length: int) -> bytes:
        """Octets of the tail, by their place in the file."""
        start = max(0, offset - self._file.size)
        return bytes(self._tail[start : start + length])


class _ForgetfulVfs(apsw.VFS):
    """SQLite's own VFS, with main databases and WALs held back until they are synced."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name, base="")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's name
        if flags[0] & (apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL):
            return _ForgetfulPages(name, flags)
        return super().xOpen(name, flags)


class _ForgetfulPages(apsw.VFSFile):
    """A file whose changed blocks are in memory until a sync."""

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._blocks: dict[int, bytearray] = {}
        self._size = super().xFileSize()

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802  # SQLite's name
        octets = bytearray()
        end = min(offset + amount, self._size)
        while offset < end:
            number, within = divmod(offset, BLOCK)
            take = min(BLOCK - within, end - offset)
            block = self._blocks.get(number)
            octets += super().xRead(take, offset) if block is None else block[within : within + take]
            offset += take
        return bytes(octets)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  # SQLite's name
        place = 0
        while place < len(data):
            number, within = divmod(offset + place, BLOCK)
            take = min(BLOCK - within, len(data) - place)
            block = self._blocks.get(number)
            if block is None:
                block = self._blocks[number] = self._load(number)
            block[within : within + take] = data[place : place + take]
            place += take
        self._size = max(self._size, offset + len(data))

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        for number in sorted(self._blocks):
            start = number * BLOCK
            super().xWrite(bytes(self._blocks[number][: max(0, self._size - start)]), start)
        self._blocks.clear()
        super().xSync(flags)

    def xFileSize(self) -> int:  # noqa: N802  # SQLite's name
        return self._size

    def xTruncate(self, newsize: int) -> None:  # noqa: N802  # SQLite's name
        self._blocks = {number: block for number, block in self._blocks.items() if number * BLOCK < newsize}
        self._size = newsize
        if super().xFileSize() > newsize:
            super().xTruncate(newsize)

    def _load(self, number: int) -> bytearray:
        start = number * BLOCK
        there = max(0, min(BLOCK, super().xFileSize() - start, self._size - start))
        octets = super().xRead(there, start) if there else b""
        return bytearray(octets.ljust(BLOCK, b"\0"))
