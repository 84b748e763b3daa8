"""Read-only connections to day files, for whoever asks about a message or tails the log.

Everything here may block and runs on one lane. Where the disk has no shared memory, the writer's own connection is
read instead, between its groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import apsw

from pigeonry.stores.sqlite.schema import open_reader

if TYPE_CHECKING:
    from pigeonry.ports.disk import Disk
    from pigeonry.stores.sqlite.layout import Layout

__all__ = ["Readers"]


class Readers:
    """A bounded cache of connections, the least recently used closed first.

    Args:
        writers: Gives the writer's connection to a day file that this worker owns, None when it has none.
        connections_max: Open connections kept.
    """

    def __init__(
        self,
        disk: Disk,
        layout: Layout,
        *,
        writers: Callable[[int, int], apsw.Connection | None],
        connections_max: int,
    ) -> None:
        self._disk = disk
        self._layout = layout
        self._writers = writers
        self._connections_max = connections_max
        self._open: dict[str, apsw.Connection] = {}
        self._asked: set[str] = set()  # since the last sweep

    def day(self, shard: int, day: int) -> apsw.Connection | None:
        """A connection to read a day file by; None when there is no such file."""
        if not self._disk.shared_memory:
            return self._writers(shard, day)
        path = self._layout.day_file(shard, day)
        self._asked.add(path)
        connection = self._open.pop(path, None)
        if connection is None:
            if self._disk.size(path) <= 0:
                return None
            connection = open_reader(self._disk, path)
        self._open[path] = connection
        while len(self._open) > self._connections_max:
            self._open.pop(next(iter(self._open))).close(force=True)
        return connection

    def sweep(self) -> None:
        """Close what nobody asked for since the last sweep.

        While one is open its owner, perhaps another process, cannot take a finished day out of WAL mode, and a retired
        day keeps its room on the disk.
        """
        for path in self._open.keys() - self._asked:
            self.forget(path)
        self._asked.clear()

    def forget(self, path: str) -> None:
        """Close the connection to a file that is finished or goes."""
        connection = self._open.pop(path, None)
        if connection is not None:
            connection.close(force=True)

    def days(self, shard: int) -> list[int]:
        """The days that a shard has files of, oldest first."""
        return self._layout.days(self._disk, shard)

    def close(self) -> None:
        """Close all of them."""
        for connection in self._open.values():
            connection.close(force=True)
        self._open.clear()
