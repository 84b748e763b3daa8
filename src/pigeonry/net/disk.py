"""The real disk: files by path on the local file system.

A folder is synced when a file appears in it or leaves it by rename, so that the name survives a loss of power
as well as the octets do. A failed sync is never tried again on the same file (see ``ports.disk.AppendFile``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.ports.disk import AppendFile, FileLock

__all__ = ["LocalDisk"]

_FOLDER_MODE = 0o700  # Mail is nobody else's.
_FILE_MODE = 0o600


class LocalDisk:
    """Files of the operating system. See ``ports.disk.Disk`` for the contract.

    Args:
        root: A folder on the file system whose free space counts. It need not exist yet.
    """

    sqlite_vfs = ""
    shared_memory = True

    def __init__(self, root: str) -> None:
        self._root = root

    def append(self, path: str) -> AppendFile:
        """Open for appending; a new file's folder is synced, or else the file is not left: its name might not last."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        try:
            return _LocalFile(os.open(path, flags))
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        try:
            _sync_folder(os.path.dirname(path))  # noqa: PTH120  # paths are strings in this port
        except OSError:
            os.close(descriptor)
            Path(path).unlink()
            raise
        return _LocalFile(descriptor)

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Octets of a file, fewer at its end."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            octets = os.pread(descriptor, length, offset)
            while len(octets) < length and (more := os.pread(descriptor, length - len(octets), offset + len(octets))):
                octets += more
            return octets
        finally:
            os.close(descriptor)

    def size(self, path: str) -> int:
        """Octets in a file; -1 when it does not exist."""
        try:
            return Path(path).stat().st_size
        except FileNotFoundError:
            return -1

    def list(self, folder: str) -> Sequence[str]:
        """Names in a folder, sorted; empty when it does not exist."""
        try:
            return sorted(entry.name for entry in os.scandir(folder))
        except FileNotFoundError:
            return ()

    def make_folder(self, path: str) -> None:
        """Make a folder and its parents, each synced into the one above."""
        folder = Path(path)
        missing = [step for step in (folder, *folder.parents) if not step.exists()]
        for step in reversed(missing):
            step.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            _sync_folder(str(step.parent))

    def unlink(self, path: str) -> None:
        """Remove a file; nothing happens when it is not there."""
        Path(path).unlink(missing_ok=True)

    def rename(self, path: str, to: str) -> None:
        """Rename within a folder, durable."""
        target = Path(path).replace(to)
        _sync_folder(str(target.parent))

    def lock(self, path: str) -> FileLock | None:
        """Take an exclusive ``flock``; the kernel gives it back when the process dies."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                return None
            raise
        return _LocalLock(descriptor)

    def free(self) -> int:
        """Octets that an unprivileged process may still write on the root's file system."""
        folder = Path(self._root)
        while not folder.exists():
            folder = folder.parent
        figures = os.statvfs(folder)
        return figures.f_bavail * figures.f_frsize


class _LocalFile:
    """An open file that only grows."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    @property
    def size(self) -> int:
        """Octets in it, synced or not."""
        return self._size

    def write(self, octets: bytes | memoryview) -> None:
        """Append all of the octets."""
        rest = memoryview(octets)
        while rest:
            written = os.write(self._descriptor, rest)
            self._size += written
            rest = rest[written:]

    def sync(self) -> None:
        """Return once everything written survives a loss of power."""
        os.fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        """Cut off what lies beyond."""
        os.ftruncate(self._descriptor, size)
        self._size = size

    def close(self) -> None:
        """Close without a sync."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _LocalLock:
    """A held lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
