"""The disk as a parameter, and the lanes on which blocking work runs beside the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["AppendFile", "Disk", "FileLock", "Lane", "Lanes"]

P = ParamSpec("P")
T = TypeVar("T")


class AppendFile(Protocol):
    """A file that only grows. All of it may block: call it on a lane."""

    @property
    def size(self) -> int:
        """Octets in it, synced or not."""
        ...

    def write(self, octets: bytes | memoryview) -> None:
        """Append all of the octets.

        Raises:
            OSError: Some or none of them are in the file.
        """
        ...

    def sync(self) -> None:
        """Return once everything written survives a loss of power (fdatasync).

        Raises:
            OSError: What was written since the last sync may be lost. It must not be tried again: the next sync
                could succeed without having written it.
        """
        ...

    def truncate(self, size: int) -> None:
        """Cut off what lies beyond; for repairs at start."""
        ...

    def close(self) -> None:
        """Close without a sync."""
        ...


class FileLock(Protocol):
    """An exclusive lock that the operating system gives back when its holder dies."""

    def release(self) -> None:
        """Give it back."""
        ...


class Disk(Protocol):
    """Files by path. All of it may block: call it on a lane. Errors are ``OSError``."""

    @property
    def sqlite_vfs(self) -> str:
        """Name of the SQLite VFS over the same files; empty for SQLite's own."""
        ...

    @property
    def shared_memory(self) -> bool:
        """Whether several connections may open one WAL database (else: exclusive locking, one connection)."""
        ...

    def append(self, path: str) -> AppendFile:
        """Open for appending, created when it is not there (the folder is synced then)."""
        ...

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Octets of a file, fewer at its end."""
        ...

    def size(self, path: str) -> int:
        """Octets in a file; -1 when it does not exist."""
        ...

    def list(self, folder: str) -> Sequence[str]:
        """Names in a folder, sorted; empty when it does not exist."""
        ...

    def make_folder(self, path: str) -> None:
        """Make a folder and its parents, durable; nothing happens when it is there."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file; nothing happens when it is not there."""
        ...

    def rename(self, path: str, to: str) -> None:
        """Rename within a folder, durable."""
        ...

    def lock(self, path: str) -> FileLock | None:
        """Take an exclusive lock on a file made for it; None when another holds it."""
        ...

    def free(self) -> int:
        """Octets that may still be written."""
        ...


class Lane(Protocol):
    """Runs blocking work beside the loop, one piece at a time, in order."""

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it; its result or exception. Once begun it runs to its end, also when the caller is cancelled."""
        ...

    def close(self) -> None:
        """Finish what was handed over, then stop."""
        ...


class Lanes(Protocol):
    """Makes lanes: threads in production, turns on virtual time in simulation."""

    def lane(self, name: str) -> Lane:
        """A new lane."""
        ...
