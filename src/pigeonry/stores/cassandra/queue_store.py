"""The queue store of one worker of a cluster: QueueStore, EventLog and BodyStore on Cassandra.

The worker is a member of the cluster and holds a share of the shards (``holding``), each in an epoch of its own. A
shard is in memory as far as it waits (``shard``); what is written goes through ``writer``, what a new owner needs is
read once, by ``takeover``. One shard accepts; the rest empty.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import StoreBusy
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
from pigeonry.stores.cassandra.checkpoints import Checkpoints
from pigeonry.stores.cassandra.entries import Accepted, Settled
from pigeonry.stores.cassandra.holding import Holding
from pigeonry.stores.cassandra.journal import Journal
from pigeonry.stores.cassandra.limits import Limits
from pigeonry.stores.cassandra.messages import Messages
from pigeonry.stores.cassandra.records import FoundRecord, Records
from pigeonry.stores.cassandra.session import Consistency
from pigeonry.stores.cassandra.shard import Group
from pigeonry.stores.cassandra.shares import Shares
from pigeonry.stores.cassandra.spool import CassandraSpool
from pigeonry.stores.cassandra.writer import GroupWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.ports.body_store import Spool
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.ledger import Ledger
    from pigeonry.ports.queue_store import DueMark, Later, RecoveryReport
    from pigeonry.stores.cassandra.membership import Membership
    from pigeonry.stores.cassandra.served import Served
    from pigeonry.stores.cassandra.session import Session
    from pigeonry.stores.handed import Handed

__all__ = ["CassandraStore"]

_DAY_S: Final = 86_400.0  # seconds of a day
RECORDS_S: Final = 2 * _DAY_S  # how long an idempotency record is kept: twice as long as it may count
_KEY: Final = msgspec.msgpack.Decoder(list[tuple[int, int, int]])


class CassandraStore:
    """See ``ports.queue_store``, ``ports.event_log`` and ``ports.body_store`` for the contracts.

    Args:
        session: Speaks to the queue's keyspace.
        leases: Speaks to the keyspace of the leases.
        membership: This worker's.
        shards: How many a new cluster gets.
        homes: The locations that shards belong to; none when it makes no difference.
        writes: When something is durable: at a quorum of this location, or of each.
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
        homes: Sequence[str] = (),
        limits: Limits | None = None,
        writes: Consistency = Consistency.LOCAL_QUORUM,
        last_words: bytes = b"",
        taken: Callable[[RecoveryReport], None] | None = None,
    ) -> None:
        limits = self._limits = limits or Limits()
        self._clock = clock
        self._membership = membership
        kept_s, request_s = limits.retention_s, limits.request_s
        self._messages = Messages(session, kept_s=kept_s, timeout_s=request_s, writes=writes)
        self._records = Records(session, kept_s=RECORDS_S, timeout_s=request_s)
        self._journal = Journal(session, kept_s=kept_s, timeout_s=request_s, writes=writes)
        self._behind = Behind(clock)
        self._circuit = session.circuit
        self._served: dict[int, Served] = {}
        self._closed: str | None = None
        bounds = Bounds(
            group_transitions_max=limits.group_transitions_max,
            group_recipients_max=limits.group_recipients_max,
            backlog_transitions_max=limits.backlog_transitions_max,
            backlog_octets_max=limits.backlog_octets_max,
        )
        self._backlog = Backlog(
            clock=clock,
            bounds=bounds,
            closed=lambda: self._closed,
            full=self._full,
            silent=self._silent,
            doubt_retry_s=1.0,
        )
        self._writer = GroupWriter(
            served=self._served,
            accepting=lambda: self._holding.accepting,
            backlog=self._backlog,
            behind=self._behind,
            journal=self._journal,
            messages=self._messages,
            records=self._records,
            membership=membership,
            clock=clock,
            limits=limits,
        )
        self.shares = Shares(leases, membership, timeout_s=request_s, homes=homes)
        """Who owns which shard of the cluster."""
        self._holding = Holding(
            self._served,
            membership=membership,
            shares=self.shares,
            checkpoints=Checkpoints(session, clock=clock, kept_s=kept_s, timeout_s=request_s),
            journal=self._journal,
            messages=self._messages,
            records=self._records,
            behind=self._behind,
            writer=self._writer,
            clock=clock,
            limits=limits,
            taken=taken,
        )
        self._count = shards
        self.broken = asyncio.Event()
        """Never set: a store whose shards went to others goes on with what it gets next."""
        self.heed(last_words)

    # -- life

    async def open(self) -> Sequence[RecoveryReport]:
        """Join the cluster, and take a first share of its shards; a report for each.

        Raises:
            Conflict: No shard could be had.
            StoreBusy: The store does not answer.
        """
        return await self._holding.open(self._count)

    async def run(self) -> None:
        """Write groups, keep the lease and a fair share of the shards, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._membership.run())
            group.create_task(self._writer.write_groups())
            group.create_task(self._backlog.watch_deadlines())
            group.create_task(self._behind.run())
            group.create_task(self._holding.run())

    async def close(self) -> None:
        """Write what waits, leave each shard a checkpoint, and give them back; ``run`` has ended.

        All of it within the time of a lease: what is not done then is found by whoever takes the shards over.
        """
        beside = [asyncio.ensure_future(work) for work in (self._membership.run(), self._behind.run())]
        try:
            async with asyncio.timeout(self._limits.lease_s):
                self._closed = "the store is closing"
                await self._writer.write_all()
                async with self._writer.turn:
                    await self._holding.release_all()
                    await self._membership.leave()
        except TimeoutError:
            self._served.clear()
        finally:
            for task in beside:
                task.cancel()
            self.crash()

    def crash(self) -> None:
        """End as kill -9 does: what is not durable is gone, and who waits for it is told that it is in doubt."""
        self._closed = "the store is closing"
        self._writer.crash()
        self._backlog.abandon()

    def heed(self, last_words: bytes) -> None:
        """Know the last words of a predecessor whose shards are not taken over yet."""
        if last_words:
            self._holding.voids += [MessageKey(*key) for key in _KEY.decode(last_words)]

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
        accepting = self._holding.accepting
        served = None if accepting is None else self._served.get(accepting)
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
        found = await self._records.find(scope, now=self._clock.now())
        unconfirmed = [each for each in found if not each.confirmed]
        if unconfirmed:
            await self._decided(unconfirmed)
            # Only what is read after that is certain: a new owner confirms before it serves.
            found = await self._records.find(scope, now=self._clock.now())
        for each in found:
            if each.confirmed and not await self._is_void(each):
                return each.record
        return None

    def place(self) -> str:
        """The shard that accepts, and its epoch."""
        accepting = self._holding.accepting
        served = None if accepting is None else self._served.get(accepting)
        return "" if served is None else f"{served.shard.number}/{served.shard.epoch}"

    async def is_over(self, place: str) -> bool:
        """Whether the shard is served in a later epoch: who serves has read all that counts, and confirmed it."""
        number, _, epoch = place.partition("/")
        row = await self.shares.agreed(int(number))
        return row is not None and row.serving and row.epoch > int(epoch)

    def reason_to_shed(self) -> str | None:
        """Why doors should refuse just now, or None."""
        return self._backlog.reason_to_shed()

    def waiting(self) -> int:
        """Recipients that are pending in the shards that this worker owns."""
        return sum(len(served.shard.waiting) for served in self._served.values())

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

    # -- the ledger

    async def ledger(self, shard: int) -> Ledger | None:
        """What was counted of a shard, with the group that is being written."""
        served = self._served.get(shard)
        if served is None:
            return None
        mine, now = served.shard, self._clock.now()
        mine.counts.fold_away(now)
        return mine.counts.told(now, seq=mine.seq_next - 1, waiting=len(mine.waiting))

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

    def _full(self) -> str | None:
        if len(self._behind) >= self._limits.behind_max:
            return "too many outcomes wait for the store"
        return None

    async def _decided(self, records: Sequence[FoundRecord]) -> None:
        """Return when it is known of each whether its message is durable: what is not confirmed now never will be.

        Raises:
            StoreBusy: It is not known yet.
        """
        rows = {row.number: row for row in await self.shares.read()}
        for each in records:
            served, row = self._served.get(each.shard), rows.get(each.shard)
            if served is not None and each.epoch <= served.shard.epoch:
                continue  # who waited for it was told by this store that nothing was stored, or has ended
            if row is not None and row.serving and row.epoch > each.epoch:
                continue
            if not await self._is_void(each):
                raise StoreBusy("A request with this Idempotency-Key is being settled.", retry_after_s=1.0)

    async def _is_void(self, record: FoundRecord) -> bool:
        shard, serial = record.shard, record.serial
        if self._behind.get((shard, serial, "void")) is not None:
            return True
        served = self._served.get(shard)
        if served is not None and serial in served.shard.voided:
            return True
        return await self._messages.is_void(shard, serial)

    def _silent(self) -> str | None:
        return "the store does not answer" if self._circuit.is_open else None

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
