"""A disk in memory that can lose what was not synced, tear it, run full, and fail a sync.

A file has what processes see and what the platter holds; between them stand the writes since the last sync. When the
power is cut any of those may be lost or torn. When only the process dies they stay in the page cache. After a
sync that failed they look written for ever and never reach the platter.

A disk that went down goes on working for whoever still holds it, detached: nothing of that comes up again.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Sequence

import apsw

from pigeonry.testing.dice import SeededDice

SECTOR = 512  # octets that are written whole or not at all
_numbers = itertools.count()


class _File:
    """``platter`` is durable; ``unsynced`` are (offset, octets), or (size, None) for a truncation."""

    __slots__ = ("live", "platter", "unsynced")

    def __init__(
        self, live: bytes = b"", platter: bytes = b"", unsynced: Sequence[tuple[int, bytes | None]] = ()
    ) -> None:
        self.live = bytearray(live)
        self.platter = bytearray(platter)
        self.unsynced = list(unsynced)

    def write(self, octets: bytes, offset: int) -> None:
        _put(self.live, octets, offset)
        self.unsynced.append((offset, octets))

    def truncate(self, size: int) -> None:
        _cut(self.live, size)
        self.unsynced.append((size, None))

    def sync(self) -> None:
        for offset, octets in self.unsynced:
            _do(self.platter, offset, octets)
        self.unsynced.clear()

    def after_kill(self) -> _File:
        return _File(self.live, self.platter, self.unsynced)

    def after_power_cut(self, dice: SeededDice) -> _File:
        """Each unsynced write may be there or not, and the one in the middle is torn."""
        keep = dice.random()
        for offset, octets in self.unsynced:
            if dice.random() < keep:
                _do(self.platter, offset, octets)
            elif octets is not None and dice.chance(0.3):
                whole = dice.count(0, len(octets) // SECTOR) * SECTOR
                _do(self.platter, offset, octets[:whole])
        return _File(self.platter, self.platter)


def _do(content: bytearray, offset: int, octets: bytes | None) -> None:
    if octets is None:
        _cut(content, offset)
    else:
        _put(content, octets, offset)


def _put(content: bytearray, octets: bytes, offset: int) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(octets)] = octets


def _cut(content: bytearray, size: int) -> None:
    if len(content) > size:
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _no_step() -> None:
    """Nobody counts steps."""


class FaultyDisk:
    """See ``ports.disk.Disk``; and the faults.

    Args:
        dice: Decide what is lost.
        failing_sync: The number of the sync that fails, 0 for none.
        full: Whether there is no room now.
        step: Called before every write and sync: the power may be cut there.
    """

    shared_memory = False

    def __init__(
        self,
        dice: SeededDice,
        *,
        failing_sync: int = 0,
        full: Callable[[], bool] = lambda: False,
        step: Callable[[], None] = _no_step,
        files: dict[str, _File] | None = None,
    ) -> None:
        self.files = {} if files is None else files
        self.syncs_until_failure = failing_sync
        self.is_full = full
        self.step = step
        self.locks: set[str] = set()
        self._dice = dice
        self._vfs = _Vfs(self, f"faulty-{next(_numbers)}")
        self._next: FaultyDisk | None = None

    # -- faults

    def calm(self) -> None:
        """Nothing fails any more."""
        self.syncs_until_failure = 0
        self.is_full = lambda: False

    def go_down(self, *, power: bool) -> None:
        """The process dies, or the power is cut, at this instant."""
        if self._next is not None:
            return
        after = {
            name: self.files[name].after_power_cut(self._dice) if power else self.files[name].after_kill()
            for name in sorted(self.files)
        }
        self._next = FaultyDisk(
            self._dice, failing_sync=self.syncs_until_failure, full=self.is_full, step=self.step, files=after
        )
        self.step = _no_step
        self.calm()

    def come_up(self) -> FaultyDisk:
        """The disk as the next process finds it."""
        assert self._next is not None, "it went down before"
        return self._next

    def write(self, file: _File, octets: bytes, offset: int) -> None:
        self.step()
        if self.is_full() and offset + len(octets) > len(file.live):
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write(octets, offset)

    def sync(self, file: _File) -> None:
        self.step()
        if self.syncs_until_failure:
            self.syncs_until_failure -= 1
            if not self.syncs_until_failure:
                # Some of it reached the platter; the rest looks written and never will be.
                for offset, octets in file.unsynced[: self._dice.count(0, len(file.unsynced))]:
                    _do(file.platter, offset, octets)
                file.unsynced.clear()
                raise OSError(errno.EIO, "Input/output error")
        file.sync()
        self.step()

    # -- Disk

    @property
    def sqlite_vfs(self) -> str:
        return self._vfs.name

    def append(self, path: str) -> _Appending:
        return _Appending(self, self.files.setdefault(path, _File()))

    def read(self, path: str, offset: int, length: int) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return bytes(self.files[path].live[offset : offset + length])

    def size(self, path: str) -> int:
        file = self.files.get(path)
        return -1 if file is None else len(file.live)

    def list(self, folder: str) -> Sequence[str]:
        prefix = f"{folder}/"
        return sorted({name[len(prefix) :].split("/")[0] for name in self.files if name.startswith(prefix)})

    def make_folder(self, path: str) -> None:
        """Folders are where files are."""

    def unlink(self, path: str) -> None:
        self.step()
        self.files.pop(path, None)

    def rename(self, path: str, to: str) -> None:
        self.step()
        self.files[to] = self.files.pop(path)

    def lock(self, path: str) -> _Lock | None:
        if path in self.locks:
            return None
        self.locks.add(path)
        return _Lock(self.locks, path)

    def free(self) -> int:
        return 0 if self.is_full() else 1 << 40


class _Lock:
    """Held until it is given back, or the disk goes down with all processes."""

    def __init__(self, locks: set[str], path: str) -> None:
        self._locks, self._path = locks, path

    def release(self) -> None:
        self._locks.discard(self._path)


class _Appending:
    """See ``ports.disk.AppendFile``."""

    def __init__(self, disk: FaultyDisk, file: _File) -> None:
        self._disk = disk
        self._file = file

    @property
    def size(self) -> int:
        return len(self._file.live)

    def write(self, octets: bytes | memoryview) -> None:
        self._disk.write(self._file, bytes(octets), len(self._file.live))

    def sync(self) -> None:
        self._disk.sync(self._file)

    def truncate(self, size: int) -> None:
        self._disk.step()
        self._file.truncate(size)

    def close(self) -> None:
        """Nothing is synced."""


class _Vfs(apsw.VFS):
    """The same files, as SQLite sees them."""

    def __init__(self, disk: FaultyDisk, name: str) -> None:
        self.name = name
        self._disk = disk
        super().__init__(name, base="")

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return pathname in self._disk.files

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self._disk.unlink(filename)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _Pages:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            return _Pages(self._disk, _File())
        if path not in self._disk.files and not flags[0] & apsw.SQLITE_OPEN_CREATE:
            raise apsw.CantOpenError(f"{path} does not exist")
        return _Pages(self._disk, self._disk.files.setdefault(path, _File()))


def _sqlite_error(error: OSError, extended: int) -> apsw.Error:
    if error.errno == errno.ENOSPC:
        return apsw.FullError("database or disk is full")
    raised = apsw.IOError("disk I/O error")
    raised.extendedresult = extended
    return raised


class _Pages:
    """A file as SQLite uses it."""

    def __init__(self, disk: FaultyDisk, file: _File) -> None:
        self._disk = disk
        self._file = file

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._file.live[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        try:
            self._disk.write(self._file, bytes(data), offset)
        except OSError as error:
            raise _sqlite_error(error, apsw.SQLITE_IOERR_WRITE) from None

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.step()
        self._file.truncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        try:
            self._disk.sync(self._file)
        except OSError as error:
            raise _sqlite_error(error, apsw.SQLITE_IOERR_FSYNC) from None

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._file.live)

    def xLock(self, level: int) -> None:  # noqa: N802
        """Only one process runs here."""

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """Nobody waits."""

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE

    def xClose(self) -> None:  # noqa: N802
        """Nothing is synced."""
