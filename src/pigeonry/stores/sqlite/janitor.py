"""The rounds that keep a shard's folder small: carry, finish, retire.

*Carry*: what still waits some hours after its day is over goes into today's file (``carrier``). *Finish*: a past day in
which nothing waits is copied out of its WAL and closed. *Retire*: such a day is removed with its bodies once its
retention is over; its numbers live on in a newer file, so that no seq or serial is given out twice.

A shard's newest file is never removed. Everything here takes turns with the writer, a batch at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import apsw

from pigeonry.stores.sqlite import failure
from pigeonry.stores.sqlite.carrier import HalfCarried, carry_batch
from pigeonry.stores.sqlite.layout import day_of
from pigeonry.stores.sqlite.segments import SyncFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from pigeonry.ports.disk import Disk, Lane
    from pigeonry.ports.environment import Clock
    from pigeonry.stores.sqlite.day_file import DayFile
    from pigeonry.stores.sqlite.layout import Layout
    from pigeonry.stores.sqlite.limits import Limits
    from pigeonry.stores.sqlite.shard import Shard

__all__ = ["Janitor"]

_DAY_S: Final = 86_400.0  # seconds of a day


class _Broken(Exception):
    """A write stands half done; set on the loop, where the event belongs."""


class Janitor:
    """The housekeeping of the shards that this worker owns.

    Args:
        new_day: Begins today where mail is accepted, which a quiet worker would put off; called inside a turn.
        open_day: Makes a day's file of a shard with its numbers in it. May block.
        forget: Closes the read connections that others of this process have to a file.
        sweep: Closes the read connections that are not used.
        turn: The writer's lock.
        gate: Held by who pages through what is due, and while recipients move between files.
        broken: To be set when a write stands half done.
        short_of_room: Whether moving anything is out of the question.
    """

    def __init__(
        self,
        shards: Mapping[int, Shard],
        *,
        new_day: Callable[[], Awaitable[None]],
        open_day: Callable[[Shard, int], None],
        forget: Callable[[str], Awaitable[None]],
        sweep: Callable[[], Awaitable[None]],
        turn: asyncio.Lock,
        gate: asyncio.Lock,
        broken: asyncio.Event,
        short_of_room: Callable[[], bool],
        disk: Disk,
        layout: Layout,
        lane: Lane,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._shards = shards
        self._new_day = new_day
        self._open_day = open_day
        self._forget = forget
        self._sweep = sweep
        self._turn = turn
        self._gate = gate
        self._broken = broken
        self._short_of_room = short_of_room
        self._disk = disk
        self._layout = layout
        self._lane = lane
        self._clock = clock
        self._limits = limits
        self._finished: set[str] = set()
        self._round = asyncio.Lock()
        self._closed = False

    async def run(self) -> None:
        """Round after round, until cancelled or closed."""
        while not self._closed:
            await self._clock.sleep(self._limits.housekeeping_s)
            async with self._round:
                await self.round()

    async def close(self) -> None:
        """Let the round under way come to a stop; no other begins."""
        self._closed = True
        async with self._round:
            return

    async def round(self) -> None:
        """Look at every file once. A file that fails is left for the next round, save after a failed sync."""
        await self._sweep()
        async with self._turn:
            with self._judged():
                if not self._stopped():
                    await self._new_day()
        for shard in list(self._shards.values()):
            for day in sorted(shard.files):
                file = shard.files.get(day)
                with self._judged():
                    if file is not None and not self._stopped():
                        await self._keep(shard, file)

    @contextlib.contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            yield
        except _Broken:
            self._broken.set()
        except (apsw.Error, OSError) as error:
            if failure.unsynced(error):
                self._broken.set()

    def _stopped(self) -> bool:
        return self._closed or self._broken.is_set()

    async def _keep(self, shard: Shard, file: DayFile) -> None:
        now = self._clock.now()
        age_s = now - (file.day + 1) * _DAY_S
        if file.day == shard.today or age_s < self._limits.finish_after_s:
            return
        if file.pending:
            if age_s >= self._limits.carry_after_s and not self._short_of_room():
                await self._carry(shard, file, day_of(now))
        elif age_s >= self._limits.retention_s and file.day != max(shard.files):
            await self._retire(shard, file)
        elif file.path not in self._finished or file.connection is not None:  # written to since, perhaps
            await self._finish(file)

    async def _carry(self, shard: Shard, file: DayFile, today: int) -> None:
        moved = 1
        while moved and not self._stopped():
            async with self._gate, self._turn:
                moved = 0 if self._stopped() else await self._lane.run(self._carry_some, shard, file, today)

    def _carry_some(self, shard: Shard, file: DayFile, today: int) -> int:
        target_day = max(today, *shard.files)
        if target_day not in shard.files:
            self._open_day(shard, target_day)
        target = shard.files[target_day]
        file.open(self._disk)
        target.open(self._disk)
        try:
            return carry_batch(
                file, target, disk=self._disk, layout=self._layout, messages_max=self._limits.carry_messages_max
            )
        except (HalfCarried, SyncFailed) as error:
            raise _Broken from error

    async def _finish(self, file: DayFile) -> None:
        await self._forget(file.path)
        async with self._turn:
            if not self._stopped() and not file.pending:
                await self._lane.run(self._leave_wal, file)

    def _leave_wal(self, file: DayFile) -> None:
        connection = file.open(self._disk)
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            for _ in connection.execute("PRAGMA journal_mode = DELETE"):
                continue
        except apsw.BusyError:  # Another process reads it just now: it is looked at again.
            return
        finally:
            file.close()
        self._finished.add(file.path)

    async def _retire(self, shard: Shard, file: DayFile) -> None:
        await self._forget(file.path)
        async with self._turn:
            if not self._stopped() and not file.pending:
                await self._lane.run(self._remove, shard, file)
        await self._forget(file.path)

    def _remove(self, shard: Shard, file: DayFile) -> None:
        connection = file.open(self._disk)
        if connection.execute("SELECT EXISTS (SELECT 1 FROM recipient WHERE state = 0)").get:
            return
        newest = shard.files[max(shard.files)].open(self._disk)
        with newest:
            newest.execute(
                "UPDATE state SET epoch = max(epoch, ?), seq_floor = max(seq_floor, ?)", (shard.epoch, shard.seq_next)
            )
        segments = [number for (number,) in connection.execute("SELECT number FROM segment")]
        own_files = [number for (number,) in connection.execute("SELECT segment FROM message WHERE offset = -1")]
        file.close()
        del shard.files[file.day]
        self._finished.discard(file.path)
        # The rows go first: bodies without rows are removed when the shard is next opened, and nobody misses them.
        for path in (file.path, f"{file.path}-wal", f"{file.path}-shm"):
            self._disk.unlink(path)
        for number in segments:
            self._disk.unlink(self._layout.segment(shard.number, number))
        for number in own_files:
            self._disk.unlink(self._layout.own_file(shard.number, number))
