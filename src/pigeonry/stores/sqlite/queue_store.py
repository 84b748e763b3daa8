"""The embedded queue store of one worker: QueueStore, EventLog and BodyStore over the shards it owns.

It owns the shards whose number leaves its slot as remainder, as far as their locks can be had: a predecessor that
drains may still hold some, and they are taken over as it lets go. One of them accepts; the rest only empty. What is
written goes through ``writer``, one group after the other; what is read comes from ``readers``, on a lane of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import apsw
import msgspec

from pigeonry.domain.errors import Conflict, StoreBusy
from pigeonry.domain.message import (
    BodyRef,
    IdempotencyRecord,
    Message,
    MessageKey,
    Pending,
    RecipientView,
    Transition,
)
from pigeonry.ports.event_log import LogEntry
from pigeonry.ports.queue_store import DueMark, RecoveryReport
from pigeonry.stores.handed import Handed
from pigeonry.stores.sqlite import failure, rows
from pigeonry.stores.sqlite.checkpoints import Checkpoints
from pigeonry.stores.sqlite.janitor import Janitor
from pigeonry.stores.sqlite.layout import Layout, day_of, establish
from pigeonry.stores.sqlite.limits import Limits
from pigeonry.stores.sqlite.questions import Questions
from pigeonry.stores.sqlite.readers import Readers
from pigeonry.stores.sqlite.recovery import recover
from pigeonry.stores.sqlite.segments import read_body
from pigeonry.stores.sqlite.shard import Shard
from pigeonry.stores.sqlite.spool import BodySpool
from pigeonry.stores.sqlite.writer import GroupWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pigeonry.ports.body_store import Spool
    from pigeonry.ports.disk import Disk, Lanes
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.ledger import Ledger
    from pigeonry.ports.queue_store import Later

__all__ = ["SqliteStore"]

T = TypeVar("T")

_TAKE_OVER_S: Final = 1.0  # how often a shard that another still holds is asked for
_TAKE_OVER_AGAIN_S: Final = 10.0  # how soon one is tried again that could not be opened; each try holds up the groups


class SqliteStore:
    """See ``ports.queue_store``, ``ports.event_log`` and ``ports.body_store`` for the contracts.

    Args:
        root: The data folder.
        slot, slots: Which worker this is, and of how many.
        shards: How many there are to be; an old store that has more keeps them.
        last_words: What ``last_words`` of the predecessor gave: messages to void before anything is served.
        taken: Told of each shard that is taken over later than at the opening, and of what was mended in it.
    """

    def __init__(
        self,
        root: str,
        *,
        slot: int,
        slots: int,
        disk: Disk,
        lanes: Lanes,
        clock: Clock,
        shards: int = 16,
        limits: Limits | None = None,
        last_words: bytes = b"",
        taken: Callable[[RecoveryReport], None] | None = None,
    ) -> None:
        self._taken = taken
        self._slot, self._slots = slot, slots
        self._disk = disk
        self._clock = clock
        self._shards_new = shards
        self._limits = limits or Limits()
        self._voids = [MessageKey(*key) for key in _LAST_WORDS.decode(last_words)] if last_words else []
        self._layout = Layout(root)
        self._write_lane = lanes.lane("store-write")
        self._read_lane = lanes.lane("store-read")
        self._spool_lane = lanes.lane("store-spool")
        self._shards: dict[int, Shard] = {}
        self._shard_count = 0
        self._taking = 0  # the shard that was last begun to be opened
        self._closing = False
        self._accepting: Shard | None = None
        self._readers = Readers(
            disk, self._layout, writers=self._writers_connection, connections_max=self._limits.readers_max
        )
        self._questions = Questions(self._shards, self._readers, idempotency_days=self._limits.idempotency_days)
        self._writer = GroupWriter(
            shards=self._shards,
            accepting=self._accepting_shard,
            new_day=self._new_day,
            unhide=_unhide,
            disk=disk,
            lane=self._write_lane,
            clock=clock,
            limits=self._limits,
        )
        self._checkpoints = Checkpoints(
            self._shards, turn=self._writer.turn, disk=disk, lanes=lanes, lane=self._write_lane, limits=self._limits
        )
        self._carry_gate = asyncio.Lock()
        self._janitor = Janitor(
            self._shards,
            new_day=self._new_day,
            open_day=self._open_day,
            forget=self._forget,
            sweep=lambda: self._read_lane.run(self._readers.sweep),
            turn=self._writer.turn,
            gate=self._carry_gate,
            broken=self._writer.broken,
            short_of_room=lambda: self._checkpoints.short_of_room,
            disk=disk,
            layout=self._layout,
            lane=self._write_lane,
            clock=clock,
            limits=self._limits,
        )

    # -- life

    async def open(self) -> Sequence[RecoveryReport]:
        """Take the shards that can be had and mend them; a report for each.

        Raises:
            NewerFormat: A newer release wrote the store.
            Conflict: No shard of this slot is free to accept into.
        """
        stored = await self._write_lane.run(
            establish, self._layout, self._disk, shards=self._shards_new, slot=self._slot
        )
        self._shard_count = stored.shards
        reports = await self._write_lane.run(self._take_over)
        free = [number for number in self._mine() if number not in self._shards]
        first = min(self._shards, default=None)
        if first is None:
            first = await self._write_lane.run(self._take_new, free)
            reports = [RecoveryReport(first, 0, 0)]
        self._accepting = self._shards[first]
        await self._write_lane.run(self._begin_day, self._accepting, day_of(self._clock.now()))
        return reports

    async def run(self) -> None:
        """Write groups, copy WALs back, carry and retire old days, and take over shards, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._writer.write_groups())
            group.create_task(self._writer.watch_deadlines())
            group.create_task(self._checkpoints.run(self._clock))
            group.create_task(self._take_over_later())
            group.create_task(self._janitor.run())

    async def close(self) -> None:
        """Write what waits, close the files and give the shards back."""
        self._closing = True
        await self._writer.close()
        await self._janitor.close()
        await self._checkpoints.close()
        async with self._writer.turn:
            await self._read_lane.run(self._readers.close)
            for shard in self._shards.values():
                await self._write_lane.run(shard.close)
            self._shards.clear()
        for lane in (self._read_lane, self._spool_lane, self._write_lane):
            lane.close()

    def heed(self, last_words: bytes) -> None:
        """Know the last words of a predecessor whose shards are not taken over yet."""
        if last_words:
            self._voids += [MessageKey(*key) for key in _LAST_WORDS.decode(last_words)]

    @property
    def broken(self) -> asyncio.Event:
        """Set when a sync failed: nothing is believed any more and the worker must end."""
        return self._writer.broken

    def last_words(self) -> bytes:
        """Messages that may be stored and were never acknowledged, for the successor to void."""
        return msgspec.msgpack.encode([(key.shard, key.day, key.serial) for key in self._writer.in_doubt])

    # -- QueueStore

    def owned(self) -> Sequence[int]:
        """The shards that this worker owns now, in order."""
        return sorted(self._shards)

    @property
    def shard_count(self) -> int:
        """How many shards there are, whoever owns them; 0 before ``open``."""
        return self._shard_count

    def allocate(self, recipients: int) -> MessageKey:
        """A key in the shard that accepts."""
        return self._accepting_shard().allocate(recipients)

    def commit(self, transition: Transition | Later, *, deadline: float) -> Handed:
        """Make one transition durable."""
        return self._writer.commit(transition, deadline=deadline)

    async def due(self, *, after: DueMark, until: float, limit: int) -> Sequence[Pending]:
        """Pending recipients in the order of (due, shard, serial)."""
        async with self._carry_gate:  # a recipient on its way between two files would be seen twice or not at all
            return await self._read(self._questions.due, after, until, limit)

    async def message(self, key: MessageKey) -> Message | None:
        """The message, None when there is none."""
        found = await self._read(self._questions.find, key)
        return None if found is None else rows.decode_message(found[1].meta)

    async def body(self, key: MessageKey) -> bytes | None:
        """The octets of its body."""
        found = await self._read(self._questions.find, key)
        return None if found is None else await self.read(found[1].body)

    async def recipients(self, key: MessageKey) -> Sequence[RecipientView]:
        """The message's recipients."""
        return await self._read(self._questions.recipients, key)

    async def recipient(self, pending: Pending) -> RecipientView | None:
        """One recipient, with its variables."""
        return await self._read(self._questions.recipient, pending)

    async def idempotent(self, scope: bytes) -> IdempotencyRecord | None:
        """The unexpired record of that scope, of any shard of the node."""
        return await self._read(self._questions.idempotent, scope, self._clock.now(), self._shard_count)

    def place(self) -> str:
        """None that others could know the end of."""
        return ""

    async def is_over(self, place: str) -> bool:  # noqa: ARG002  # there is one answer
        """Nobody knows."""
        return False

    def reason_to_shed(self) -> str | None:
        """Why doors should refuse just now, or None."""
        if self._checkpoints.short_of_room:
            return "the disk is nearly full"
        return self._writer.reason_to_shed()

    # -- EventLog

    def shards(self) -> Sequence[int]:
        """The shards with events that this worker owns."""
        return [number for number in self.owned() if self._shards[number].seq_durable]

    def head(self, shard: int) -> int:
        """The highest seq that may be shown."""
        owned = self._shards.get(shard)
        return 0 if owned is None else owned.seq_visible()

    async def tail(self, shard: int, *, after: int, limit: int) -> Sequence[LogEntry]:
        """Events after a seq, in order."""
        if self.head(shard) <= after:
            return ()
        return await self._read(self._questions.tail, shard, after, limit)

    # -- the ledger

    async def ledger(self, shard: int) -> Ledger | None:
        """What was counted of a shard."""
        return await self._read(self._questions.ledger, shard, self._clock.now())

    # -- BodyStore

    def spool(self) -> Spool:
        """Start receiving a body."""
        return BodySpool(
            self._accepting_shard,
            disk=self._disk,
            layout=self._layout,
            lane=self._spool_lane,
            limits=self._limits,
        )

    async def read(self, ref: BodyRef) -> bytes:
        """The octets of a body, checked."""
        return await self._read_lane.run(read_body, self._disk, self._layout, ref)

    # -- shards

    def _mine(self) -> Iterable[int]:
        return range(self._slot % self._slots, self._shard_count, self._slots)

    def _accepting_shard(self) -> Shard:
        assert self._accepting is not None, "the store is open before it is used"
        return self._accepting

    def _writers_connection(self, shard: int, day: int) -> apsw.Connection | None:
        owned = self._shards.get(shard)
        file = None if owned is None else owned.files.get(day)
        return None if file is None else file.open(self._disk)

    def _take_over(self) -> list[RecoveryReport]:
        """Take the shards of this slot that have a folder and whose lock is free. May block."""
        reports = []
        for number in self._mine():
            if number not in self._shards and self._disk.list(self._layout.shard(number)):
                report = self._take(number)
                if report is not None:
                    reports.append(report)
        return reports

    def _take_new(self, numbers: Sequence[int]) -> int:
        """Take the first shard that is free to accept into. May block."""
        for number in numbers:
            if self._take(number) is not None:
                return number
        raise Conflict("Every shard of this worker is held by another process.", retry_after_s=1.0)

    def _take(self, number: int) -> RecoveryReport | None:
        self._disk.make_folder(self._layout.segments(number))
        lock = self._disk.lock(self._layout.lock(number))
        if lock is None:
            return None
        self._taking = number
        shard = Shard(number, disk=self._disk, layout=self._layout, limits=self._limits, lock=lock)
        try:
            report = recover(
                shard,
                disk=self._disk,
                layout=self._layout,
                limits=self._limits,
                now=self._clock.now(),
                voids=self._voids,
            )
        except BaseException:
            shard.close()
            raise
        self._shards[number] = shard
        return report

    async def _take_over_later(self) -> None:
        pause = _TAKE_OVER_S
        while True:
            await self._clock.sleep(pause)
            pause = _TAKE_OVER_S
            if sum(1 for _ in self._mine()) > len(self._shards):
                try:
                    async with self._writer.turn:
                        if self._closing:
                            return
                        reports = await self._write_lane.run(self._take_over)
                except (apsw.Error, OSError) as error:  # A full disk, say, must not end a worker that serves.
                    if failure.unsynced(error):
                        self._writer.broken.set()
                    reports = [RecoveryReport(self._taking, 0, 0, (f"It cannot be taken over yet ({error}).",))]
                    pause = _TAKE_OVER_AGAIN_S
                for report in reports:
                    if self._taken is not None:
                        self._taken(report)

    async def _new_day(self) -> None:
        shard = self._accepting_shard()
        day = day_of(self._clock.now())
        if day > shard.today:
            await self._write_lane.run(self._begin_day, shard, day)

    def _begin_day(self, shard: Shard, day: int) -> None:
        """Open the day's file for accepting, with a higher epoch than any before. May block."""
        day = max(day, *shard.files) if shard.files else day  # a clock that went back opens no older file
        file = shard.day_file(day)
        connection = file.open(self._disk)
        epoch = shard.epoch + 1
        with connection:
            connection.execute("UPDATE state SET epoch = ?, seq_floor = ?", (epoch, shard.seq_next))
        shard.start_accepting(epoch=epoch, day=day)

    def _open_day(self, shard: Shard, day: int) -> None:
        """Open a day's file of a shard that only empties, to carry into. May block."""
        connection = shard.day_file(day).open(self._disk)
        with connection:
            connection.execute("UPDATE state SET epoch = ?, seq_floor = ?", (shard.epoch, shard.seq_next))

    async def _forget(self, path: str) -> None:
        await self._read_lane.run(self._readers.forget, path)
        await self._checkpoints.forget(path)

    # -- reading, on the lane

    async def _read(self, question: Callable[..., T], *args: object) -> T:
        try:
            if self._disk.shared_memory:
                return await self._read_lane.run(question, *args)
            async with self._writer.turn:  # one connection: between its groups
                return await self._read_lane.run(question, *args)
        except (apsw.Error, OSError) as error:
            raise StoreBusy("The queue could not be read.", retry_after_s=1.0) from error


_LAST_WORDS: Final = msgspec.msgpack.Decoder(list[tuple[int, int, int]])


def _unhide(shard: Shard, serial: int) -> None:
    shard.hidden.discard(serial)
