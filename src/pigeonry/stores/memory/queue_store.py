"""The queue store in memory: for tests, simulation and a trial run. Nothing of it outlives the process.

A ``MemoryNode`` is what stands on the disk of a node; each ``MemoryStore`` over it is one worker's. A worker that
crashes (``crash``) leaves the node as it was made durable; another ``MemoryStore`` over the same node is its successor.
What a write costs and how it fails is a parameter, ``sync``: a group is durable once that has returned, all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import Conflict, StoreBusy, StoreInDoubt
from pigeonry.domain.message import (
    Accept,
    BodyRef,
    DotSent,
    IdempotencyRecord,
    Message,
    MessageKey,
    Note,
    Pending,
    RecipientView,
    Settle,
    Transition,
    Void,
)
from pigeonry.stores.handed import Handed
from pigeonry.stores.memory.shard import MemoryShard
from pigeonry.stores.memory.spool import MemorySpool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from pigeonry.ports.body_store import Spool
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.event_log import LogEntry
    from pigeonry.ports.ledger import Ledger
    from pigeonry.ports.queue_store import DueMark, Later, RecoveryReport

__all__ = ["MemoryLimits", "MemoryNode", "MemoryStore"]

_DAY_S: Final = 86_400.0  # a UTC day has no leap seconds here
_GRAIN_S: Final = 0.02  # Deadlines are looked at this often; an answer may be early by as much, and is never late.


class MemoryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds.

    Args:
        backlog_transitions_max: Waiting transitions above which new messages are refused; doors shed from half of it.
        octets_max: Octets of bodies a node keeps, above which new messages are refused.
        spool_octets_max: A body up to this size is handed back as octets.
        in_doubt_delay_s: How long after opening a recipient whose attempt was in doubt is held back (invariant I4).
        retention_s: How long after its day is over a message with nothing pending is kept, and an event.
        full_retry_s: How long new messages are refused after ``sync`` found no room.
    """

    backlog_transitions_max: int = 20_000
    octets_max: int = 1024 * 1024 * 1024
    spool_octets_max: int = 256 * 1024
    in_doubt_delay_s: float = 600.0
    retention_s: float = 7 * _DAY_S
    full_retry_s: float = 1.0


class MemoryNode:
    """What several workers share, and what outlives them.

    Args:
        shards: How many there are.
    """

    def __init__(self, *, shards: int = 16) -> None:
        self.shards = [MemoryShard(number) for number in range(shards)]
        self.stores: list[MemoryStore] = []

    @property
    def octets(self) -> int:
        """What bodies take of the memory."""
        return sum(shard.octets for shard in self.shards)


class MemoryStore:
    """See ``ports.queue_store``, ``ports.event_log`` and ``ports.body_store`` for the contracts.

    Args:
        node: Shared with other workers; an own one when not given.
        slot, slots: Which worker this is, and of how many.
        sync: Awaited once for each group. ``OSError`` means that nothing of it was written, ``StoreInDoubt`` that
            nobody knows: the group is there for the successor to find, and this store is broken.
        last_words: What ``last_words`` of the predecessor gave.
    """

    def __init__(
        self,
        node: MemoryNode | None = None,
        *,
        clock: Clock,
        slot: int = 0,
        slots: int = 1,
        sync: Callable[[], Awaitable[None]] | None = None,
        limits: MemoryLimits | None = None,
        last_words: bytes = b"",
    ) -> None:
        self._node = node or MemoryNode()
        self._clock = clock
        self._slot, self._slots = slot, slots
        self._sync = sync or _at_once
        self._limits = limits or MemoryLimits()
        self._voids: list[MessageKey] = []
        self._accepting: MemoryShard | None = None
        self._day = 0
        self._waiting: deque[Handed] = deque()
        self._flying: list[Handed] = []
        self._wake = asyncio.Event()
        self._full_until = float("-inf")
        self._closed = False
        self._in_doubt: list[MessageKey] = []
        self._uncertain: list[Transition] = []
        self.broken = asyncio.Event()
        """Set when ``sync`` left a group in doubt: the worker must end."""
        self.heed(last_words)

    # -- life

    async def open(self) -> Sequence[RecoveryReport]:
        """Take the shards that can be had; a report for each.

        Raises:
            Conflict: No shard of this slot is free to accept into.
        """
        reports = self._take_over() or self._take_new()
        self._accepting = self._node.shards[reports[0].shard]
        self._node.stores.append(self)
        self._new_day()
        return reports

    async def run(self) -> None:
        """Write groups and watch deadlines, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_groups())
            group.create_task(self._watch_deadlines())

    async def close(self) -> None:
        """Write what waits, then give the shards back."""
        self._closed = True
        while (self._waiting or self._flying) and not self.broken.is_set():
            await self._clock.sleep(_GRAIN_S)
        self._let_go()

    def crash(self) -> None:
        """End as kill -9 does: what is not durable is gone, and whoever waits for it with it."""
        self._closed = True
        for item in [*self._flying, *self._waiting]:
            item.withdraw()
        self._waiting.clear()
        self._flying = []
        self._let_go()

    def heed(self, last_words: bytes) -> None:
        """Know the last words of a predecessor whose shards are not taken over yet."""
        if last_words:
            self._voids += [MessageKey(*key) for key in _LAST_WORDS.decode(last_words)]

    def last_words(self) -> bytes:
        """Messages that may be stored and were never acknowledged, for the successor to void."""
        return msgspec.msgpack.encode([(key.shard, key.day, key.serial) for key in self._in_doubt])

    # -- QueueStore

    def owned(self) -> Sequence[int]:
        """The shards that this worker owns now, in order."""
        return [shard.number for shard in self._node.shards if shard.owner is self]

    def allocate(self, recipients: int) -> MessageKey:
        """A key in the shard that accepts."""
        return self._accepting_shard().allocate(recipients, day=self._day)

    def commit(self, transition: Transition | Later, *, deadline: float) -> Handed:
        """Make one transition durable."""
        item = Handed(transition, deadline=deadline)
        refusal = self._refusal(item)
        if refusal is not None:
            item.end(refusal)
            return item
        self._waiting.append(item)
        self._wake.set()
        return item

    def apply(self, transition: Transition) -> None:
        """Make one transition durable at once, past all who wait.

        Raises:
            StoreBusy: Its shard is another worker's, or a message with this key is stored.
        """
        shard = self._accepting_shard()
        if not isinstance(transition, Note):
            shard = self._node.shards[_key_of(transition).shard]
        if shard.owner is not self:
            raise StoreBusy("The message's shard is not served here.")
        shard.apply(transition, day=self._day)

    async def due(self, *, after: DueMark, until: float, limit: int) -> Sequence[Pending]:
        """Pending recipients in the order of (due, shard, serial)."""
        owned = [shard for shard in self._node.shards if shard.owner is self]
        found = (each for shard in owned for each in shard.due(after=after, until=until))
        return [pending for _, pending in heapq.nsmallest(limit, found, key=_mark)]

    async def message(self, key: MessageKey) -> Message | None:
        """The message, None when there is none."""
        shard = self._shard(key.shard)
        stored = None if shard is None else shard.find(key)
        return None if stored is None else stored.message

    async def body(self, key: MessageKey) -> bytes | None:
        """The octets of its body."""
        shard = self._shard(key.shard)
        stored = None if shard is None else shard.find(key)
        if stored is None:
            return None
        return stored.body if isinstance(stored.body, bytes) else await self.read(stored.body)

    async def recipients(self, key: MessageKey) -> Sequence[RecipientView]:
        """The message's recipients."""
        shard = self._shard(key.shard)
        stored = None if shard is None else shard.find(key)
        if shard is None or stored is None:
            return []
        views = (shard.view(key.serial + index) for index in range(stored.recipients))
        return [view for view in views if view is not None]

    async def recipient(self, pending: Pending) -> RecipientView | None:
        """One recipient, with its variables."""
        shard = self._shard(pending.message.shard)
        return None if shard is None else shard.view(pending.serial)

    async def idempotent(self, scope: bytes) -> IdempotencyRecord | None:
        """The unexpired record of that scope, of any shard of the node."""
        now = self._clock.now()
        found = (shard.record(scope) for shard in self._node.shards)
        return next((record for record in found if record is not None and record.expires_at > now), None)

    def place(self) -> str:
        """None that others could know the end of."""
        return ""

    async def is_over(self, place: str) -> bool:  # noqa: ARG002  # there is one answer
        """Nobody knows."""
        return False

    def reason_to_shed(self) -> str | None:
        """Why doors should refuse just now, or None."""
        if self.broken.is_set() or self._closed:
            return "the store is closing"
        if self._full_until > self._clock.monotonic():
            return "the disk is full"
        if len(self._waiting) > self._limits.backlog_transitions_max // 2:
            return "too many transitions wait for the disk"
        if self._node.octets >= self._limits.octets_max:
            return "the memory is full"
        return None

    # -- EventLog

    def shards(self) -> Sequence[int]:
        """The shards with events that this worker owns."""
        return [number for number in self.owned() if self._node.shards[number].seq_last]

    def head(self, shard: int) -> int:
        """The highest seq that may be shown."""
        owned = self._shard(shard)
        return 0 if owned is None or owned.owner is not self else owned.seq_last

    async def tail(self, shard: int, *, after: int, limit: int) -> Sequence[LogEntry]:
        """Events after a seq, in order."""
        return () if self.head(shard) <= after else self._node.shards[shard].tail(after=after, limit=limit)

    # -- the ledger

    async def ledger(self, shard: int) -> Ledger | None:
        """What was counted of a shard."""
        owned = self._shard(shard)
        return None if owned is None or owned.owner is not self else owned.ledger(now=self._clock.now())

    # -- BodyStore

    def spool(self) -> Spool:
        """Start receiving a body."""
        return MemorySpool(
            self._accepting_shard(),
            short_of_room=lambda octets: self._node.octets + octets > self._limits.octets_max,
            octets_max=self._limits.spool_octets_max,
        )

    async def read(self, ref: BodyRef) -> bytes:
        """The octets of a body, checked."""
        shard = self._shard(ref.shard)
        octets = None if shard is None else shard.file(ref)
        if octets is None:
            raise StoreBusy("The message's body could not be read.", retry_after_s=1.0)
        return octets

    # -- shards

    def _shard(self, number: int) -> MemoryShard | None:
        return self._node.shards[number] if 0 <= number < len(self._node.shards) else None

    def _accepting_shard(self) -> MemoryShard:
        assert self._accepting is not None, "the store is open before it is used"
        return self._accepting

    def _mine(self) -> Sequence[MemoryShard]:
        return self._node.shards[self._slot % self._slots :: self._slots]

    def _take_over(self) -> list[RecoveryReport]:
        """Take the shards of this slot that were used before and are free."""
        return [self._take(shard) for shard in self._mine() if shard.used and shard.owner is None]

    def _take_new(self) -> list[RecoveryReport]:
        """Take the first shard that is free to accept into."""
        for shard in self._mine():
            if shard.owner is None:
                return [self._take(shard)]
        raise Conflict("Every shard of this worker is held by another.", retry_after_s=1.0)

    def _take(self, shard: MemoryShard) -> RecoveryReport:
        now = self._clock.now()
        shard.owner, shard.used = self, True
        return shard.recover(voids=self._voids, hold_back_until=now + self._limits.in_doubt_delay_s, now=now)

    def _let_go(self) -> None:
        for transition in self._uncertain:
            with contextlib.suppress(StoreBusy):
                self.apply(transition)
        self._uncertain.clear()
        for shard in self._node.shards:
            if shard.owner is self:
                shard.owner = None
        if self in self._node.stores:
            self._node.stores.remove(self)
            for store in self._node.stores:
                store._take_over()  # noqa: SLF001  # a fellow of the same node

    def _new_day(self) -> None:
        day = int(self._clock.now() // _DAY_S)
        if day > self._day:
            self._day = day
            for shard in self._node.shards:
                if shard.owner is self:
                    shard.retire(now=self._clock.now(), retention_s=self._limits.retention_s)

    # -- groups

    def _refusal(self, item: Handed) -> StoreBusy | None:
        now = self._clock.monotonic()
        if self._closed or self.broken.is_set():
            return StoreBusy("The queue is closing.", retry_after_s=1.0)
        if item.deadline <= now:
            return StoreBusy("The queue could not take it in time.", retry_after_s=1.0)
        if not item.brings:
            return None
        limits = self._limits
        backlog = len(self._waiting) >= limits.backlog_transitions_max
        if self._full_until > now or backlog or self._node.octets >= limits.octets_max:
            return StoreBusy("The queue has no room just now.", retry_after_s=limits.full_retry_s)
        return None

    async def _write_groups(self) -> None:
        while not self.broken.is_set():
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            self._new_day()
            await self._write_group()

    async def _write_group(self) -> None:
        """All that waits, as one group."""
        waiting, self._waiting = self._waiting, deque()  # who is told that his cannot be made may commit meanwhile
        group = self._flying = [item for item in waiting if item.make()]
        try:
            await self._sync()
        except OSError:
            self._full_until = self._clock.monotonic() + self._limits.full_retry_s
            _fail(self._flying, StoreBusy("The queue could not store it.", retry_after_s=self._limits.full_retry_s))
        except StoreInDoubt:
            self._break()
        else:
            if self._flying is group:  # Nobody crashed meanwhile.
                for item in group:
                    self._store(item)
        self._flying = []

    def _store(self, item: Handed) -> None:
        transition = item.transition
        try:
            self.apply(transition)
        except StoreBusy as error:
            item.end(error)
            return
        if item.ended and isinstance(transition, Accept):  # Nobody waits for it any more: it was never acknowledged.
            self.apply(Void(transition.message.key, len(transition.recipients)))
        item.end()

    def _break(self) -> None:
        self.broken.set()
        for item in self._flying:
            if isinstance(item.transition, Accept):
                self._in_doubt.append(item.transition.message.key)
            self._uncertain.append(item.transition)  # nothing of it may be seen here: it waits for the successor
        _fail(self._flying, StoreInDoubt("The disk did not confirm."))
        _fail(self._waiting, StoreBusy("The queue is closing.", retry_after_s=1.0))
        self._waiting.clear()

    async def _watch_deadlines(self) -> None:
        while True:
            await self._wake.wait()
            while self._waiting or self._flying:
                limit = self._clock.monotonic() + _GRAIN_S
                late = [item for item in self._waiting if item.deadline < limit]
                _fail(late, StoreBusy("The queue could not take it in time.", retry_after_s=1.0))
                late = [item for item in self._flying if item.deadline < limit]
                _fail(late, StoreInDoubt("The queue did not confirm in time."))
                await self._clock.sleep(_GRAIN_S)
            self._wake.clear()


_LAST_WORDS: Final = msgspec.msgpack.Decoder(list[tuple[int, int, int]])


async def _at_once() -> None:
    return


def _key_of(transition: Accept | DotSent | Settle | Void) -> MessageKey:
    if isinstance(transition, Accept):
        return transition.message.key
    return transition.message if isinstance(transition, Void) else transition.pending.message


def _mark(found: tuple[DueMark, Pending]) -> DueMark:
    return found[0]


def _fail(items: Iterable[Handed], error: StoreBusy | StoreInDoubt) -> None:
    for item in items:
        item.end(type(error)(error.text, retry_after_s=error.retry_after_s))
