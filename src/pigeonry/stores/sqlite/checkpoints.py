"""Copies WALs back into their databases beside the writer's path, and watches how much room is left.

A passive checkpoint by a connection of its own never holds the writer up, but can never quite reach the end of a WAL
that grows meanwhile. So when the WAL has passed its bound, the writer pauses between two groups for the little that
is left, and begins it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import apsw

from pigeonry.stores.sqlite.schema import open_writer, wal_octets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pigeonry.ports.disk import Disk, Lane, Lanes
    from pigeonry.ports.environment import Clock
    from pigeonry.stores.sqlite.day_file import DayFile
    from pigeonry.stores.sqlite.limits import Limits
    from pigeonry.stores.sqlite.shard import Shard

__all__ = ["Checkpoints"]

_ROUND_S: Final = 1.0  # between two looks at the WALs: at 50 MB/s one grows by little more than its bound


class Checkpoints:
    """The rounds. ``short_of_room`` says whether less space is left than the limits ask for."""

    def __init__(
        self,
        shards: Mapping[int, Shard],
        *,
        turn: asyncio.Lock,
        disk: Disk,
        lanes: Lanes,
        lane: Lane,
        limits: Limits,
    ) -> None:
        self.short_of_room = False
        self._shards = shards
        self._turn = turn
        self._disk = disk
        self._write_lane = lane
        self._lane = lanes.lane("store-checkpoint")
        self._limits = limits
        self._connections: dict[str, apsw.Connection] = {}
        self._round = asyncio.Lock()
        self._closed = False

    async def run(self, clock: Clock) -> None:
        """Round after round, until cancelled or closed."""
        while not self._closed:
            await clock.sleep(_ROUND_S)
            async with self._round:
                await self._look()

    async def _look(self) -> None:
        if not self._closed:
            self.short_of_room = await self._lane.run(self._disk.free) < self._limits.free_octets_min
            for shard in list(self._shards.values()):
                for file in list(shard.files.values()):
                    if file.connection is not None:
                        with contextlib.suppress(apsw.Error, OSError):
                            await self._copy_back(file)

    async def close(self) -> None:
        """Let the round under way end, then close the connections; no other begins."""
        self._closed = True
        async with self._round:
            await self._lane.run(self._close)
        self._lane.close()

    async def forget(self, path: str) -> None:
        """Close the connection to a file that is finished or goes."""
        async with self._round:
            if not self._closed:
                await self._lane.run(self._close_one, path)

    async def _copy_back(self, file: DayFile) -> None:
        octets = await self._lane.run(wal_octets, self._disk, file.path)
        if octets > self._limits.wal_passive_octets and self._disk.shared_memory:
            await self._lane.run(self._passive, file.path)
        if octets > self._limits.wal_restart_octets:
            async with self._turn:
                if file.connection is not None:
                    await self._write_lane.run(_restart, file.connection)

    def _passive(self, path: str) -> None:
        connection = self._connections.get(path)
        if connection is None:
            connection = self._connections[path] = open_writer(self._disk, path)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _close_one(self, path: str) -> None:
        connection = self._connections.pop(path, None)
        if connection is not None:
            connection.close(force=True)

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.close(force=True)
        self._connections.clear()


def _restart(connection: apsw.Connection) -> None:
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
