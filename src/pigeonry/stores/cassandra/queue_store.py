"""The queue store of one worker of a cluster: QueueStore, EventLog and BodyStore on Cassandra.

The worker is a member of the cluster and owns a share of the shards (``shares``), each in an epoch of its own. A shard
is in memory as far as it waits (``shard``); what is written goes through ``writer``, what a new owner needs is read
once, by ``takeover``. One shard accepts; the rest empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import Conflict, Fault, StoreBusy
from pigeonry.domain.message import (
    BodyRef,
    IdempotencyRecord,
    Message,
    MessageKey,
    Pending,
    RecipientState,
    RecipientView,
    Transition,
)
from pigeonry.ports.event_log import LogEntry
from pigeonry.stores.backlog import Backlog, Bounds
from pigeonry.stores.cassandra.behind import Behind
from pigeonry.stores.cassandra.carrier import carry, round_of
from pigeonry.stores.cassandra.checkpoints import Checkpoints
from pigeonry.stores.cassandra.entries import Accepted, Settled
from pigeonry.stores.cassandra.journal import Journal
from pigeonry.stores.cassandra.limits import Limits
from pigeonry.stores.cassandra.messages import Messages
from pigeonry.stores.cassandra.records import Records
from pigeonry.stores.cassandra.served import Served
from pigeonry.stores.cassandra.shard import Group
from pigeonry.stores.cassandra.shares import Shares
from pigeonry.stores.cassandra.spool import CassandraSpool
from pigeonry.stores.cassandra.takeover import take_over
from pigeonry.stores.cassandra.writer import GroupWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.ports.body_store import Spool
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.queue_store import DueMark, Later, RecoveryReport
    from pigeonry.stores.cassandra.membership import Membership
    from pigeonry.stores.cassandra.session import Session
    from pigeonry.stores.cassandra.shares import ShardRow
    from pigeonry.stores.handed import Handed

__all__ = ["CassandraStore"]

_DAY_S: Final = 86_400.0
_OPEN_S: Final = 60.0  # how long a worker waits for its first shard: others give theirs up, or are found dead
_KEY: Final = msgspec.msgpack.Decoder(list[tuple[int, int, int]])


class CassandraStore:
    """See ``ports.queue_store``, ``ports.event_log`` and ``ports.body_store`` for the contracts.

    Args:
        session: Speaks to the queue's keyspace.
        leases: Speaks to the keyspace of the leases.
        membership: This worker's.
        last_words: What ``last_words`` of the predecessor gave: messages to void before anything is served.
        taken: Told of each shard that is taken over later than at the opening, and of what was mended in it.
    """

    def __init__(
        self,
        session: Session,
        *,
        leases: Session,
        membership: Membership,
        clock: Clock,
        shards: int = 16,
        limits: Limits | None = None,
        last_words: bytes = b"",
        taken: Callable[[RecoveryReport], None] | None = None,
    ) -> None:
        limits = self._limits = limits or Limits()
        self._clock = clock
        self._count = shards
        self._taken = taken
        self._voids: list[MessageKey] = []
        self._membership = membership
        membership.lost = self._deposed
        self._shares = Shares(leases, membership, timeout_s=limits.request_s)
        kept_s, request_s = limits.retention_s, limits.request_s
        self._messages = Messages(session, kept_s=kept_s, timeout_s=request_s)
        self._records = Records(session, kept_s=2 * _DAY_S, timeout_s=request_s)
        self._journal = Journal(session, kept_s=kept_s, timeout_s=request_s)
        self._checkpoints = Checkpoints(session, kept_s=kept_s, timeout_s=request_s)
        self._behind = Behind(clock)
        self._served: dict[int, Served] = {}
        self._accepting: int | None = None
        self._closing = False
        self._gone = False
        bounds = Bounds(
            group_transitions_max=limits.group_transitions_max,
            group_recipients_max=limits.group_recipients_max,
            backlog_transitions_max=limits.backlog_transitions_max,
            backlog_octets_max=limits.backlog_octets_max,
        )
        self._backlog = Backlog(clock=clock, bounds=bounds, closed=self._closed, full=self._full)
        self._writer = GroupWriter(
            served=self._served,
            accepting=lambda: self._accepting,
            backlog=self._backlog,
            behind=self._behind,
            journal=self._journal,
            messages=self._messages,
            records=self._records,
            membership=membership,
            clock=clock,
            limits=limits,
        )
        self.broken = asyncio.Event()
        """Set when this worker must end; a store whose shards went to others goes on with what it gets next."""
        self.heed(last_words)

    # -- life

    async def open(self) -> Sequence[RecoveryReport]:
        """Join the cluster, and take a first share of its shards; a report for each.

        Raises:
            Conflict: No shard could be had.
            StoreBusy: The store does not answer.
        """
        until = self._clock.monotonic() + _OPEN_S
        await self._join(until)
        beating = asyncio.ensure_future(self._membership.run())
        try:
            await self._shares.make(self._count)
            reports = await self._round()
            while not self._served:
                if self._clock.monotonic() > until:
                    raise Conflict("Every shard is held by other workers.", retry_after_s=1.0)
                await self._clock.sleep(self._limits.round_s / 4)
                reports += await self._round()
            return reports
        finally:
            beating.cancel()

    async def _join(self, until: float) -> None:
        while True:
            try:
                return await self._membership.join()
            except StoreBusy:
                if self._clock.monotonic() > until:
                    raise
                await self._clock.sleep(self._limits.round_s / 4)

    async def run(self) -> None:
        """Write groups, keep the lease and a fair share of the shards, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._membership.run())
                group.create_task(self._writer.write_groups())
                group.create_task(self._backlog.watch_deadlines())
                group.create_task(self._behind.run())
                group.create_task(self._rounds())
                group.create_task(self._write_checkpoints())
                group.create_task(self._carry())
        finally:
            self._gone = True
            self._backlog.abandon()

    async def close(self) -> None:
        """Write what waits, leave each shard a checkpoint, and give them back."""
        self._closing = True
        while len(self._backlog) and self._membership.holds():
            async with self._writer.turn:
                await self._writer.write_group()
        async with self._writer.turn:
            self._gone = True
            self._backlog.refuse_all("The queue is closing.")
            for number in list(self._served):
                await self._release(number)
            await self._membership.leave()

    def heed(self, last_words: bytes) -> None:
        """Know the last words of a predecessor whose shards are not taken over yet."""
        if last_words:
            self._voids += [MessageKey(*key) for key in _KEY.decode(last_words)]

    def last_words(self) -> bytes:
        """Messages that may be stored and were never acknowledged, for the successor to void."""
        return msgspec.msgpack.encode([(key.shard, key.day, key.serial) for key in self._writer.in_doubt])

    # -- QueueStore

    def owned(self) -> Sequence[int]:
        """The shards that this worker owns now, in order."""
        return sorted(self._served)

    def allocate(self, recipients: int) -> MessageKey:
        """A key in the shard that accepts.

        Raises:
            StoreBusy: Every shard of this worker went to others a moment ago.
        """
        served = None if self._accepting is None else self._served.get(self._accepting)
        if served is None:
            raise StoreBusy("The queue has no shard just now.", retry_after_s=1.0)
        return served.shard.allocate(recipients, day=int(self._clock.now() // _DAY_S))

    def commit(self, transition: Transition | Later, *, deadline: float) -> Handed:
        """Make one transition durable."""
        return self._backlog.commit(transition, deadline=deadline)

    async def due(self, *, after: DueMark, until: float, limit: int) -> Sequence[Pending]:
        """Pending recipients in the order of (due, shard, serial)."""
        pages = [served.shard.due(after=after, until=until) for served in self._served.values()]
        merged = heapq.merge(*pages, key=_mark)
        return [pending for _, pending in zip(range(limit), merged, strict=False)]

    async def message(self, key: MessageKey) -> Message | None:
        """The message, None when there is none."""
        if self._may_be_seen(key):
            stored = await self._messages.find(key)
            return None if stored is None else stored.message
        return None

    async def body(self, key: MessageKey) -> bytes | None:
        """The octets of its body."""
        if not self._may_be_seen(key):
            return None
        stored = await self._messages.find(key)
        return None if stored is None else await self._messages.octets(stored.body)

    async def recipients(self, key: MessageKey) -> Sequence[RecipientView]:
        """The message's recipients."""
        return await self._views(key, None)

    async def recipient(self, pending: Pending) -> RecipientView | None:
        """One recipient, with its variables."""
        found = await self._views(pending.message, [pending.serial - pending.message.serial])
        return found[0] if found else None

    async def idempotent(self, scope: bytes) -> IdempotencyRecord | None:
        """The unexpired record of that scope.

        Raises:
            StoreBusy: Its message's owner ended in the middle, and nobody has taken the shard over yet.
        """
        found = await self._records.find(scope)
        if found is None or found.record.expires_at <= self._clock.now():
            return None
        served = self._served.get(found.shard)
        if served is not None and found.serial in served.shard.voided:
            return None
        if found.confirmed:
            return found.record
        rows = await self._shares.read()
        over = any(row.number == found.shard and row.epoch > found.epoch and row.serving for row in rows)
        if over or (served is not None and found.epoch <= served.shard.epoch):
            return None  # whoever wrote it has ended, or is told by this store that nothing was stored
        raise StoreBusy("A request with this Idempotency-Key is being settled.", retry_after_s=1.0)

    def reason_to_shed(self) -> str | None:
        """Why doors should refuse just now, or None."""
        return self._backlog.reason_to_shed()

    # -- EventLog

    def shards(self) -> Sequence[int]:
        """The shards with events that this worker owns."""
        return [number for number in self.owned() if self._served[number].shard.head()]

    def head(self, shard: int) -> int:
        """The highest seq that may be shown."""
        served = self._served.get(shard)
        return 0 if served is None else served.shard.head()

    async def tail(self, shard: int, *, after: int, limit: int) -> Sequence[LogEntry]:
        """Events after a seq, in order."""
        served = self._served.get(shard)
        if served is None or served.shard.head() <= after:
            return ()
        found = served.shard.recent(after=after, limit=limit)
        if found is None:
            found = await self._older(served, after=after, limit=limit)
        return [LogEntry(seq, octets) for seq, octets in found]

    # -- BodyStore

    def spool(self) -> Spool:
        """Start receiving a body."""
        return CassandraSpool(
            self._messages,
            self.allocate(1),
            memory_octets_max=self._limits.spool_memory_octets_max,
            behind_octets_max=self._limits.spool_behind_octets_max,
        )

    async def read(self, ref: BodyRef) -> bytes:
        """The octets of a body, checked."""
        return await self._messages.octets(ref)

    # -- who and what

    def _closed(self) -> str | None:
        return "the store is closing" if self._closing or self._gone else None

    def _full(self) -> str | None:
        if len(self._behind) >= self._limits.behind_max:
            return "too many outcomes wait for the store"
        return None

    def _may_be_seen(self, key: MessageKey) -> bool:
        """Not void, and not on its way to be, as far as its owner is asked."""
        if self._behind.get((key.shard, key.serial, "void")) is not None:
            return False
        served = self._served.get(key.shard)
        return served is None or (key.serial not in served.shard.hidden and key.serial not in served.shard.voided)

    async def _views(self, key: MessageKey, indexes: Sequence[int] | None) -> Sequence[RecipientView]:
        if not self._may_be_seen(key):
            return []
        stored = await self._messages.find(key)
        if stored is None:
            return []
        chosen = range(len(stored.recipients)) if indexes is None else indexes
        serials = [key.serial + index for index in chosen]
        while True:
            before = [self._known(key.shard, serial) for serial in serials]
            views = await self._messages.views(key, stored, indexes)
            if before == [self._known(key.shard, serial) for serial in serials]:
                return [_as_known(view, known) for view, known in zip(views, before, strict=False)]

    def _known(self, shard: int, serial: int) -> Settled | Pending | None:
        """What this worker knows better than what is written: who waits, and what is not written yet."""
        end = self._behind.get((shard, serial))
        if isinstance(end, Settled):
            return end
        served = self._served.get(shard)
        return None if served is None else served.shard.waiting.get(serial)

    async def _older(self, served: Served, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Events from the journal itself."""
        shard, found, head = served.shard, list[tuple[int, bytes]](), served.shard.head()
        while len(found) < limit and after < head:
            place = served.buckets.of(after + 1)
            if place is None:
                break
            bucket, end = place
            number = await self._journal.number_of(shard.number, bucket, after + 1)
            before = after
            async for row in self._journal.bucket(shard.number, bucket.epoch, bucket.bucket, number=number):
                if row.seq >= end:
                    break  # behind a gap: it was never acknowledged
                for seq, octets in enumerate(_events(row.entries(), shard.voided, row.number), row.seq):
                    if after < seq <= head and len(found) < limit:
                        found.append((seq, octets))
                        after = seq
                if len(found) >= limit:
                    break
            if after == before:
                after = end - 1  # nothing of it is kept any more
        return found

    # -- shards

    async def _rounds(self) -> None:
        while True:
            await self._clock.sleep(self._limits.round_s)
            try:
                for report in await self._round():
                    if self._taken is not None:
                        self._taken(report)
            except Fault:
                continue

    async def _round(self) -> list[RecoveryReport]:
        """Look who is alive, and take or give shards so that each has its share.

        Raises:
            Fault: The store does not answer.
        """
        if self._closing:
            return []
        if not self._membership.incarnation:
            await self._membership.join()
        await self._membership.look()
        rows = await self._shares.read()
        share = self._shares.share(len(rows))
        for row in rows:
            if row.number in self._served and not self._is_mine(row):
                self._lose(row.number)
        reports = []
        for row in self._shares.free(rows):
            if len(self._served) >= share:
                break
            report = await self._take(row)
            if report is not None:
                reports.append(report)
        for number in self._surplus(share):
            async with self._writer.turn:
                await self._release(number)
        self._choose()
        return reports

    def _is_mine(self, row: ShardRow) -> bool:
        served = self._served[row.number]
        return row.owner == self._membership.name and row.epoch == served.shard.epoch

    def _surplus(self, share: int) -> list[int]:
        """Shards to give away: never the one that accepts while there is another."""
        others = [number for number in self.owned() if number != self._accepting]
        return others[: max(0, len(self._served) - max(share, 0))]

    async def _take(self, row: ShardRow) -> RecoveryReport | None:
        owner = self._shares.owner(row)
        alive = owner is not None and owner.beat >= 0 and owner.incarnation == row.incarnation
        if alive and owner is not None and not await self._membership.depose(owner):
            return None
        epoch = await self._shares.take(row)
        if epoch is None:
            return None
        now = self._clock.now()
        found = await take_over(
            row.number,
            epoch=epoch,
            journal=self._journal,
            checkpoints=self._checkpoints,
            records=self._records,
            voids=self._voids,
            hold_back_until=now + self._limits.in_doubt_delay_s,
            now=now,
        )
        served = Served(found.shard, found.buckets, now=self._clock.monotonic())
        for end in found.ends:
            self._writer.follow_end(row.number, end)
        if not await self._shares.serve(row.number, epoch=epoch):
            return None
        self._served[row.number] = served
        self._choose()
        for void in found.voids:
            self._writer.void(MessageKey(row.number, void.day, void.serial), void.recipients)
        return found.report

    def _choose(self) -> None:
        if self._accepting not in self._served:
            self._accepting = min(self._served, default=None)

    async def _release(self, number: int) -> None:
        """Give a shard back with all that its next owner needs; called inside a turn."""
        served = self._served.pop(number)
        self._choose()
        with contextlib.suppress(Fault):  # else the next owner reads the journal, once this lease is over
            if await self._behind.level_within(self._limits.request_s) and self._membership.holds():
                snapshot = self._checkpoints.begin(served.shard)
                head = await self._checkpoints.write_parts(served.shard, snapshot)
                await self._checkpoints.write_head(number, head)
            await self._shares.release(number, epoch=served.shard.epoch)
        served.lost.set()

    def _lose(self, number: int) -> None:
        served = self._served.pop(number, None)
        if served is not None:
            served.lost.set()
        self._choose()

    def _deposed(self) -> None:
        """Every shard is another's; this worker begins anew with what it gets."""
        self._membership.incarnation = ""
        for number in self.owned():
            self._lose(number)

    async def _write_checkpoints(self) -> None:
        limits = self._limits
        while True:
            await self._clock.sleep(limits.round_s)
            for number in self.owned():
                served = self._served.get(number)
                if served is None:
                    continue
                age = self._clock.monotonic() - served.checkpoint_at
                wanted = served.events_since >= limits.checkpoint_events
                wanted |= served.events_since > 0 and age >= limits.checkpoint_s
                if wanted or age >= limits.checkpoint_again_s:
                    await self._checkpoint(served)

    async def _carry(self) -> None:
        kept_s = self._limits.retention_s
        while True:
            await self._clock.sleep(self._limits.round_s)
            current = round_of(self._clock.now(), kept_s=kept_s)
            for number in self.owned():
                served = self._served.get(number)
                if served is not None and served.shard.carried < current:
                    with contextlib.suppress(Fault):  # again in the next look
                        await carry(served, self._messages, current=current)
                        served.events_since += 1  # so that the next checkpoint says so

    async def _checkpoint(self, served: Served) -> None:
        """Write one, once all outcomes before it are written."""
        events, began = served.events_since, self._clock.monotonic()
        try:
            await self._behind.level()
            async with self._writer.turn:
                snapshot = self._checkpoints.begin(served.shard)
            head = await self._checkpoints.write_parts(served.shard, snapshot)
            async with self._writer.turn:  # what the parts may tell of is durable
                if served.lost.is_set() or not self._membership.holds():
                    return
                await self._checkpoints.write_head(served.shard.number, head)
            served.events_since -= events
            served.checkpoint_at = began
        except Fault:
            return


def _events(found: Sequence[object], voided: dict[int, int], number: int) -> list[bytes]:
    """The events of a group, those of void messages empty."""
    group = Group(number, 0)
    for entry in found:
        if type(entry) is Accepted:
            void = entry.serial in voided
            group.events += [b""] * len(entry.events) if void else entry.events
        else:
            event = getattr(entry, "event", b"")
            if event:
                group.events.append(event)
    return group.events


def _as_known(view: RecipientView, known: Settled | Pending | None) -> RecipientView:
    if isinstance(known, Settled):
        pending = msgspec.structs.replace(
            view.pending, due=known.due, attempts=known.attempts, first_attempt_at=known.first_attempt_at
        )
        return msgspec.structs.replace(view, pending=pending, state=RecipientState(known.state))
    return view if known is None else msgspec.structs.replace(view, pending=known)


def _mark(pending: Pending) -> tuple[float, int, int]:
    return pending.due, pending.message.shard, pending.serial
