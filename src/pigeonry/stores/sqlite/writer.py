"""Group commit: while one group is being written, the next one gathers.

A transition waits, flies (its group is being written) and ends. Who no longer waits for it decides what its end means:
withdrawn before it flew, nothing was stored; given up while it flew, an ``Accept`` is voided by the very next group,
and nothing of it is shown until then (invariant I1). Each group is one turn: other work on the same files (a new day,
carrying, restarting a WAL) takes turns with it by the same lock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import apsw

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.domain.message import Accept, BodyRef, DotSent, Settle, Void
from pigeonry.stores.backlog import Backlog, Bounds
from pigeonry.stores.handed import Handed
from pigeonry.stores.sqlite import failure
from pigeonry.stores.sqlite.segments import SyncFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from pigeonry.domain.message import MessageKey, Transition
    from pigeonry.ports.disk import Disk, Lane
    from pigeonry.ports.environment import Clock
    from pigeonry.stores.sqlite.day_file import DayFile
    from pigeonry.stores.sqlite.limits import Limits
    from pigeonry.stores.sqlite.shard import Shard

__all__ = ["GroupWriter"]

_VOID_RETRY_S: Final = 0.1  # How long a void that could not be written waits before it is tried again.


class _OwnVoid(Handed):
    """A void that the writer owes, and nobody waits for."""

    __slots__ = ()


class _Part:
    """A group's share of one file."""

    __slots__ = ("file", "items", "seq_after", "seq_before", "shard")

    def __init__(self, shard: Shard, file: DayFile) -> None:
        self.shard = shard
        self.file = file
        self.items: list[Handed] = []
        self.seq_before = 0
        self.seq_after = 0


class GroupWriter:
    """The one that writes.

    Args:
        shards: Those that are owned, by number; changed by the store.
        accepting: The shard that accepts.
        new_day: Makes today's file when the day has changed; called inside a turn.
        unhide: Called when a message may be seen again, or is voided for good.

    Attributes:
        turn: Held while the files are written.
        broken: Set when a sync failed: nothing is believed any more, and the worker must end.
        in_doubt: Keys of messages that may be stored and were never acknowledged.
        commit, reason_to_shed, watch_deadlines: Of what waits: see ``stores.backlog``.
    """

    def __init__(
        self,
        *,
        shards: Mapping[int, Shard],
        accepting: Callable[[], Shard],
        new_day: Callable[[], Awaitable[None]],
        unhide: Callable[[Shard, int], None],
        disk: Disk,
        lane: Lane,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._shards = shards
        self._accepting = accepting
        self._new_day = new_day
        self._unhide = unhide
        self._disk = disk
        self._lane = lane
        self._clock = clock
        self._limits = limits
        bounds = Bounds(
            group_transitions_max=limits.group_transitions_max,
            group_recipients_max=limits.group_recipients_max,
            backlog_transitions_max=limits.backlog_transitions_max,
            backlog_octets_max=limits.backlog_octets_max,
            full_retry_s=limits.full_retry_s,
        )
        self._backlog = Backlog(clock=clock, bounds=bounds, closed=self._is_closed, full=self._is_full, behind="disk")
        self.commit = self._backlog.commit
        self.reason_to_shed = self._backlog.reason_to_shed
        self.watch_deadlines = self._backlog.watch_deadlines
        self._full_until = float("-inf")
        self._closed = False
        self.turn = asyncio.Lock()
        self.broken = asyncio.Event()
        self.in_doubt: list[MessageKey] = []

    async def write_groups(self) -> None:
        """Write group after group until cancelled or broken."""
        while not self.broken.is_set():
            await self._backlog.some()
            async with self.turn:
                held_up = await self._begin_day() and await self._write_group()
            if held_up:
                await self._clock.sleep(_VOID_RETRY_S)

    async def close(self) -> None:
        """Write what waits, whoever wrote before, then refuse. A void that finds no room is left to the last words."""
        self._closed = True
        held_up = False
        while len(self._backlog) and not held_up and not self.broken.is_set():
            async with self.turn:
                held_up = await self._write_group()
        async with self.turn:  # a group that somebody else writes has landed
            self._backlog.refuse_all("The queue is closing.")

    def _is_closed(self) -> str | None:
        return "the store is closing" if self.broken.is_set() or self._closed else None

    def _is_full(self) -> str | None:
        return "the disk is full" if self._full_until > self._clock.monotonic() else None

    async def _begin_day(self) -> bool:
        """Begin the day if it is new; False when the store broke. While a day cannot begin, the old one goes on."""
        try:
            await self._new_day()
        except (apsw.Error, OSError) as error:
            if failure.unsynced(error):
                self._break(())
                return False
        return True

    async def _write_group(self) -> bool:
        """One group; True when a void could not be written and must wait."""
        batch = self._backlog.gather()
        try:
            routed, held_up = await self._route(batch)
            parts, undone = self._apply(routed)
            held_up |= undone
            if parts:
                done, error = await self._lane.run(_commit, parts)
                held_up |= self._end(parts, done, error)
        finally:
            self._backlog.flying = []
        return held_up

    async def _route(self, batch: Iterable[Handed]) -> tuple[Iterable[_Part], bool]:
        """The files that the group goes to; and whether a void found its file closed to it."""
        parts: dict[tuple[int, int], _Part] = {}
        held_up = False
        for item in batch:
            place = self._place(item.transition)
            shard = self._shards.get(place[0])
            try:
                file = None if shard is None else await self._file(shard, place[1], item)
            except (apsw.Error, OSError) as error:  # A finished day that must be opened again, and finds no room.
                held_up |= self._refused(item, error)
                continue
            if shard is None or file is None:
                item.end(StoreBusy("The message's shard is not served here."))
                continue
            part = parts.get((shard.number, file.day))
            if part is None:
                part = parts[shard.number, file.day] = _Part(shard, file)
            part.items.append(item)
            if type(item.transition) is Accept:
                shard.hidden.add(item.transition.message.key.serial)
                if type(item.transition.body) is BodyRef:
                    shard.held_files.add(item.transition.body.segment)
        return parts.values(), held_up

    async def _file(self, shard: Shard, day: int, item: Handed) -> DayFile | None:
        """Where an item of that day goes, open; None when that is nowhere."""
        file = shard.files.get(day) or await self._successor(shard, item)
        if file is None:
            return None
        if file.connection is None:
            await self._lane.run(file.open, self._disk)
        return await self._follow(shard, file, item) if file.carries else file

    async def _successor(self, shard: Shard, item: Handed) -> DayFile | None:
        """Where a recipient is now whose day file is gone."""
        transition = item.transition
        if type(transition) is Settle or type(transition) is DotSent:
            for file in shard.newest_first():
                if file.day > transition.pending.day:
                    if file.connection is None:
                        await self._lane.run(file.open, self._disk)
                    if file.holds(transition.pending.serial):
                        return file
        return None

    async def _follow(self, shard: Shard, file: DayFile, item: Handed) -> DayFile:
        if type(item.transition) is Settle or type(item.transition) is DotSent:
            serial = item.transition.pending.serial
            while (day := file.carried_to(serial)) is not None:
                newer = shard.files.get(day) or await self._successor(shard, item)
                if newer is None:
                    break
                file = newer
                if file.connection is None:
                    await self._lane.run(file.open, self._disk)
        return file

    def _place(self, transition: Transition) -> tuple[int, int]:
        kind = type(transition)
        if kind is Settle or kind is DotSent:
            pending = transition.pending  # type: ignore[union-attr]
            return pending.message.shard, pending.day
        if kind is Accept:
            key = transition.message.key  # type: ignore[union-attr]
            return key.shard, key.day
        if kind is Void:
            return transition.message.shard, transition.message.day  # type: ignore[union-attr]
        accepting = self._accepting()
        return accepting.number, accepting.today

    def _apply(self, parts: Iterable[_Part]) -> tuple[list[_Part], bool]:
        """Those that are ready to be committed; and whether a void is not."""
        applied = []
        held_up = False
        for part in parts:
            shard = part.shard
            part.seq_before = shard.seq_next
            try:
                part.seq_after = part.file.apply([item.transition for item in part.items], seq=shard.seq_next)
            except Exception as error:  # noqa: BLE001  # whatever went wrong, nothing of it is stored
                held_up |= self._undo(part, error)
            else:
                shard.seq_next = part.seq_after
                applied.append(part)
        return applied, held_up

    def _end(self, parts: list[_Part], done: int, error: Exception | None) -> bool:
        for part in parts[:done]:
            part.shard.seq_durable = part.seq_after - 1
            for item in part.items:
                self._stored(part, item)
        failed = parts[done:]
        if error is not None and (isinstance(error, SyncFailed) or failure.uncertain(error)):
            self._break(failed)
            return False
        held_up = False
        for part in reversed(failed):
            part.shard.seq_next = part.seq_before
            held_up |= self._undo(part, error or StoreBusy(""))
        return held_up

    def _stored(self, part: _Part, item: Handed) -> None:
        transition, shard = item.transition, part.shard
        kind = type(transition)
        if kind is Accept:
            if item.ended:
                key = transition.message.key  # type: ignore[union-attr]
                shard.doubts[key.serial] = part.seq_before
                self.in_doubt.append(key)
                self._void_first(Void(key, len(transition.recipients)))  # type: ignore[arg-type, union-attr]
                return
            self._show(shard, transition)  # type: ignore[arg-type]
        elif kind is Void and type(item) is _OwnVoid:
            shard.doubts.pop(transition.message.serial, None)  # type: ignore[union-attr]
            self._unhide(shard, transition.message.serial)  # type: ignore[union-attr]
            self.in_doubt.remove(transition.message)  # type: ignore[union-attr, arg-type]
        item.end()

    def _show(self, shard: Shard, accept: Accept) -> None:
        """Whether it is stored or not, there is no doubt about it."""
        self._unhide(shard, accept.message.key.serial)
        if type(accept.body) is BodyRef:
            shard.held_files.discard(accept.body.segment)

    def _void_first(self, void: Void) -> None:
        self._backlog.first(_OwnVoid(void, deadline=float("inf")))

    def _undo(self, part: _Part, error: Exception) -> bool:
        part.file.rollback()
        held_up = False
        for item in part.items:
            if type(item.transition) is Accept:
                self._show(part.shard, item.transition)
            held_up |= self._refused(item, error)
        return held_up

    def _refused(self, item: Handed, error: Exception) -> bool:
        """Nothing of it was stored: say so; True for a void that nobody waits for, which waits for its next turn."""
        if failure.full(error):
            self._full_until = self._clock.monotonic() + self._limits.full_retry_s
        if type(item) is _OwnVoid:
            self._void_first(item.transition)  # type: ignore[arg-type]
            return True
        item.end(StoreBusy("The queue could not store it.", retry_after_s=self._limits.full_retry_s))
        return False

    def _break(self, parts: Iterable[_Part]) -> None:
        self.broken.set()
        for part in parts:
            for item in part.items:
                if type(item.transition) is Accept:
                    self.in_doubt.append(item.transition.message.key)
                item.end(StoreInDoubt("The disk did not confirm."))
        self._backlog.refuse_all("The queue is closing.")


def _commit(parts: list[_Part]) -> tuple[int, Exception | None]:
    """On the lane: bodies first, then file after file. How many are durable, and what stopped the next."""
    done = 0
    try:
        for part in parts:
            part.file.segments.write_out()
        for part in parts:
            part.file.commit()
            done += 1
    except Exception as error:  # noqa: BLE001  # the loop judges it
        return done, error
    return done, None
