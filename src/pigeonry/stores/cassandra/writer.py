"""Group commit on a cluster: one row of the journal for all that came while the last one was written.

In three steps, of which only the middle one decides. First the messages of the group with their bodies and records, at
the same time: nothing names them yet. Then one row for each shard, written again and again, the same, until its end is
known or the shard is lost. Last, when the lease still holds, idempotency records are confirmed and all are told.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import Fault, ShardMoved, StoreBusy, StoreInDoubt
from pigeonry.domain.message import Accept, Note, Void
from pigeonry.stores.cassandra import entries
from pigeonry.stores.cassandra.entries import Settled, Voided
from pigeonry.stores.cassandra.journal import Place
from pigeonry.stores.cassandra.tables import GROUPS_A_BUCKET
from pigeonry.stores.handed import Handed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pigeonry.domain.message import MessageKey, Transition
    from pigeonry.ports.environment import Clock
    from pigeonry.stores.backlog import Backlog
    from pigeonry.stores.cassandra.behind import Behind
    from pigeonry.stores.cassandra.entries import Entry
    from pigeonry.stores.cassandra.journal import Journal
    from pigeonry.stores.cassandra.late import Copies
    from pigeonry.stores.cassandra.limits import Limits
    from pigeonry.stores.cassandra.membership import Membership
    from pigeonry.stores.cassandra.messages import Messages
    from pigeonry.stores.cassandra.records import Records
    from pigeonry.stores.cassandra.served import Served
    from pigeonry.stores.cassandra.shard import Group

__all__ = ["GroupWriter"]

AGAIN_S: Final = 0.1  # before a group whose end is not known is written again


class _OwnVoid(Handed):
    """Of a message that was stored and that nobody waits for any more."""

    __slots__ = ()


class _Adoption(Handed):
    """Of a group that appeared late."""

    __slots__ = ("copies",)

    def __init__(self, copies: Copies, *, deadline: float) -> None:
        super().__init__(Note(b""), deadline=deadline)
        self.copies = copies


class _Part(msgspec.Struct):
    """What of a group goes to one shard."""

    served: Served
    group: Group
    entries: list[Entry] = msgspec.field(default_factory=list)
    items: list[Handed] = msgspec.field(default_factory=list)


class GroupWriter:
    """Writes group after group.

    Args:
        served: The shards that this worker owns and has read, by number.
        accepting: The number of the one that accepts, None when there is none just now.

    Attributes:
        turn: Held while a group is written: who holds it sees a shard of which nothing is under way.
        in_doubt: Keys of messages that may be stored and were never acknowledged.
    """

    def __init__(
        self,
        *,
        served: Mapping[int, Served],
        accepting: Callable[[], int | None],
        backlog: Backlog,
        behind: Behind,
        journal: Journal,
        messages: Messages,
        records: Records,
        membership: Membership,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._served = served
        self._accepting = accepting
        self._backlog = backlog
        self._behind = behind
        self._journal = journal
        self._messages = messages
        self._records = records
        self._membership = membership
        self._clock = clock
        self._bodies = asyncio.Semaphore(limits.bodies_at_once)
        self._writing: asyncio.Future[None] | None = None
        self.turn = asyncio.Lock()
        self.in_doubt: list[MessageKey] = []

    async def write_groups(self) -> None:
        """Write group after group until cancelled. The one that is under way then is finished all the same."""
        while True:
            await self._backlog.some()
            self._writing = asyncio.ensure_future(self._write_in_turn())
            await asyncio.shield(self._writing)

    async def write_all(self) -> None:
        """Write all that waits, and what is under way."""
        await self._write_in_turn()
        while len(self._backlog):
            await self._write_in_turn()

    def crash(self) -> None:
        """Leave what is under way as it is."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write_in_turn(self) -> None:
        async with self.turn:
            await self._write_group()

    async def _write_group(self) -> None:
        batch = self._backlog.gather()
        await self._keep(batch)
        parts = self._judge(batch)
        await asyncio.gather(*(self._append(part) for part in parts))
        for part in parts:
            await self._told(part)
        self._backlog.flying = []

    def void(self, key: MessageKey, recipients: int) -> None:
        """Void a message that was never acknowledged, before anything else is written."""
        self.in_doubt.append(key)
        self._backlog.first(_OwnVoid(Void(key, recipients), deadline=float("inf")))

    async def adopt(self, copies: Copies, *, deadline: float) -> None:
        """Copy a group that appeared late into the journal.

        Raises:
            StoreBusy, StoreInDoubt: It may not be: it is found again.
        """
        item = _Adoption(copies, deadline=deadline)
        self._backlog.last(item)
        await item

    # -- first: what nothing names yet

    async def _keep(self, batch: Sequence[Handed]) -> None:
        accepts = [item for item in batch if type(item.transition) is Accept]
        if accepts:
            await asyncio.gather(*(self._keep_one(item) for item in accepts))

    async def _keep_one(self, item: Handed) -> None:
        accept = item.transition
        assert type(accept) is Accept
        served = self._served.get(accept.message.key.shard)
        if served is None:
            return
        try:
            async with self._bodies:
                if not item.ended:
                    await self._messages.keep(accept)
                    if accept.idempotency is not None:
                        await self._records.put(accept.idempotency, accept.message.key, epoch=served.shard.epoch)
        except Fault as error:  # nothing names it, nor will
            item.end(StoreBusy("The queue could not store it.", retry_after_s=error.retry_after_s or 1.0))

    # -- second: the journal

    def _judge(self, batch: Sequence[Handed]) -> list[_Part]:
        """What goes to which shard, in order; who changes nothing is among the items all the same."""
        parts: dict[int, _Part] = {}
        for item in batch:
            if item.ended:
                self._unname(item.transition)
                continue
            served = self._served.get(self._place(item))
            if served is None:
                item.end(ShardMoved("The message's shard is not served here.", retry_after_s=1.0))
                continue
            part = parts.get(served.shard.number)
            if part is None:
                part = parts[served.shard.number] = _Part(served, served.shard.begin())
            if type(item) is _Adoption:
                part.entries += served.shard.adopt(item.copies.entries, part.group)
                part.items.append(item)
                continue
            try:
                entry = served.shard.judge(item.transition, part.group)
            except StoreBusy as error:
                item.end(error)
                continue
            if entry is not None:
                part.entries.append(entry)
            part.items.append(item)
        for part in parts.values():
            if part.entries:
                part.served.shard.close(part.group)
        return list(parts.values())

    def _unname(self, transition: Transition) -> None:
        """A message may be written that the journal will not name: it is no message."""
        if type(transition) is Accept:
            key = transition.message.key
            self.follow_void(key.shard, Voided(key.serial, len(transition.recipients), key.day))

    def _place(self, item: Handed) -> int:
        if type(item) is _Adoption:
            return item.copies.shard
        transition = item.transition
        kind = type(transition)
        if kind is Accept:
            return transition.message.key.shard  # type: ignore[union-attr]
        if kind is Void:
            return transition.message.shard  # type: ignore[union-attr]
        pending = getattr(transition, "pending", None)
        if pending is not None:
            shard: int = pending.message.shard
            return shard
        accepting = self._accepting()
        return -1 if accepting is None else accepting

    async def _append(self, part: _Part) -> None:
        """Until it is known to be durable and the lease holds, or the shard is lost."""
        if not part.entries:
            return
        shard, group = part.served.shard, part.group
        octets = entries.encode(part.entries)
        while not part.served.lost.is_set():
            try:
                await self._journal.append(shard.number, shard.epoch, group.number, group.seq, octets)
                break
            except Fault:
                await self._clock.sleep(AGAIN_S)
        await part.served.unless_lost(self._membership.confirmed())

    # -- third: who waits is told

    async def _told(self, part: _Part) -> None:
        served, shard = part.served, part.served.shard
        if served.lost.is_set():
            for item in part.items:
                item.end(_lost(item.transition))
            return
        if part.entries:
            if not part.group.number % GROUPS_A_BUCKET:
                served.buckets.add(Place(part.group.seq, shard.epoch, part.group.number // GROUPS_A_BUCKET))
            shard.seq_durable = part.group.seq + len(part.group.events) - 1
            shard.remember(part.group)
            served.events_since += len(part.group.events)
        await self._confirm(part)
        self._follow(part)
        for item in part.items:
            self._end(part, item)

    async def _confirm(self, part: _Part) -> None:
        """Records are confirmed before anybody is told."""
        kept = [item for item in part.items if type(item.transition) is Accept and item.transition.idempotency]
        if kept:
            await asyncio.gather(*(self._confirm_one(item) for item in kept))

    async def _confirm_one(self, item: Handed) -> None:
        accept = item.transition
        assert type(accept) is Accept
        if item.ended or accept.idempotency is None:
            return
        try:
            key = accept.message.key
            await self._records.confirm(accept.idempotency.scope, key.shard, key.serial)
        except Fault:
            item.end(StoreInDoubt("The queue did not confirm in time.", retry_after_s=1.0))

    def _follow(self, part: _Part) -> None:
        """What is written behind the journal."""
        for entry in part.entries:
            kind = type(entry)
            if kind is Settled and entry.state:  # type: ignore[union-attr]
                self.follow_end(part.served.shard.number, entry)  # type: ignore[arg-type]
            elif kind is Voided:
                self.follow_void(part.served.shard.number, entry)  # type: ignore[arg-type]

    def follow_end(self, shard: int, entry: Settled) -> None:
        """Have an outcome written."""
        self._behind.put((shard, entry.serial), entry, lambda: self._messages.end(shard, entry))

    def follow_void(self, shard: int, entry: Voided) -> None:
        """Have a message marked as void."""
        self._behind.put((shard, entry.serial, "void"), entry, lambda: self._messages.void(shard, entry.serial))

    def _end(self, part: _Part, item: Handed) -> None:
        transition, shard = item.transition, part.served.shard
        kind = type(transition)
        if kind is Accept:
            key = transition.message.key  # type: ignore[union-attr]
            if item.ended:
                self.void(key, len(transition.recipients))  # type: ignore[union-attr, arg-type]
                return
            shard.hidden.pop(key.serial, None)
        elif kind is Void and type(item) is _OwnVoid:
            shard.hidden.pop(transition.message.serial, None)  # type: ignore[union-attr]
            with contextlib.suppress(ValueError):
                self.in_doubt.remove(transition.message)  # type: ignore[union-attr, arg-type]
        item.end()


def _lost(transition: Transition) -> Fault:
    """A shard went to another worker while this was written: it may be there, and is the new owner's to judge."""
    if type(transition) is Accept:
        return StoreInDoubt("The message's shard went to another worker.", retry_after_s=1.0)
    return ShardMoved("The message's shard went to another worker.", retry_after_s=1.0)
