"""The scheduled queue: knows what falls due, and hands it to delivery when it does.

Only what falls due soon is in memory; the store has the rest, however many millions. A loader reads pages of due
recipients in their order and keeps a mark: all that is due up to the mark is in memory, or ended. Whatever has to be
left to the store with an earlier time (there was no room, or a command let it go) pulls the mark back, and the next
load finds it, and so does a shard that is taken over from a predecessor, whose recipients may be due before the mark.
What is in memory is known by its serial, so that reading it again changes nothing.

A page is a snapshot, and things go on while it is read. Three rules keep a recipient from being dispatched twice:
what settled while a page was read is remembered until the page is dealt with; a message whose commit is under way is
*expected*, and left to those who will offer it; what a command or an attempt holds is *claimed*. None of this is
durable: after a crash the store's ``due`` says everything again.

One timer stands for the earliest recipient in memory; there is no task for each.

Fresh mail and what is loaded from the store have separate halves of the room, so that neither a backlog of a million
nor a flood at the doors can starve the other; and no tenant's flood another tenant's fresh mail.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import Fault, ShardMoved
from pigeonry.domain.message import Pending, RecipientState
from pigeonry.ports.queue_store import DueMark, Later
from pigeonry.queue.limits import SchedulerLimits
from pigeonry.queue.room import FreshRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.domain.message import MessageKey, Settle
    from pigeonry.ports.environment import Clock, Dice
    from pigeonry.ports.queue_store import QueueStore
    from pigeonry.queue.content import ContentCache

__all__ = ["Scheduler", "SchedulerLimits"]

LOAD_GAP_S: Final = 0.25  # seconds between loads that reached their end: one query serves all that came meanwhile
FAULT_PAUSE_S: Final = 0.5  # seconds, spread by chance: how soon a store that could not is asked again
FIRED_MAX: Final = 1_000  # recipients dispatched in one turn of the loop, some milliseconds
SHARDS_S: Final = 1.0  # seconds between looks whether a shard was taken over, which happens at a restart
STALE_MAX: Final = 1_000  # entries of the heap that stand for nobody any more, beside as many as are in memory
TIMER_S_MAX: Final = 30.0  # seconds; the wall clock may be set, so that no timer is trusted for longer
START: Final = DueMark(-math.inf)


class Scheduler:
    """What falls due, for one worker.

    Args:
        store: Has everything that is not in memory.
        clock, dice: Time and chance.
        limits: Bounds.
        content: Told when a recipient's content is no longer needed.
    """

    def __init__(
        self,
        store: QueueStore,
        clock: Clock,
        dice: Dice,
        limits: SchedulerLimits | None = None,
        *,
        content: ContentCache | None = None,
    ) -> None:
        self.dispatch: Callable[[Pending], None]
        """Set by wiring. Called once for each recipient that is due. Does no I/O and does not raise."""
        self._store = store
        self._clock = clock
        self._dice = dice
        self._limits = limits or SchedulerLimits()
        self._content = content
        self._half = max(1, self._limits.recipients_max // 2)
        self._known: dict[int, Pending] = {}  # all that is in memory, as it was last dispatched or scheduled
        self._fresh = FreshRoom(self._half)  # those of them that were offered, not loaded
        self._heap: list[tuple[float, int, Pending]] = []  # those of them that wait for their time
        self._claimed: set[int] = set()  # held by an attempt or a command
        self._expected: set[int] = set()  # messages whose commit is under way
        self._gone: set[int] | None = None  # settled while a page is being read
        self._mark = START
        self._shards: frozenset[int] = frozenset()  # those whose recipients the mark speaks of
        self._left = math.inf  # earliest time of what was left to the store since the last load
        self._next_load_at = 0.0  # monotonic
        self._stalled = 0  # settles that the store could not take yet
        self._ended = False
        self._insisting: dict[asyncio.Future[None], None] = {}  # those who ask it again, in their order
        self._running: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = asyncio.Event()

    # -- what is in memory

    @property
    def in_memory(self) -> int:
        """Recipients in memory: waiting, dispatched, or in an attempt."""
        return len(self._known)

    @property
    def paused(self) -> bool:
        """Whether the store cannot take outcomes just now: delivery should start nothing."""
        return self._stalled > 0

    def expect(self, key: MessageKey) -> None:
        """A message's commit begins: until it is offered or abandoned, nothing of it is loaded."""
        self._expected.add(key.serial << 16 | key.shard)

    def abandon(self, key: MessageKey) -> None:
        """A message that was expected will not be offered: it was not stored, or is void."""
        self._expected.discard(key.serial << 16 | key.shard)

    def offer(self, pendings: Sequence[Pending]) -> int:
        """Take the recipients of one message whose commit is durable; how many are now in memory.

        What is due is dispatched at once. What finds no room, or is due later than the horizon, is left to the store.
        """
        now = self._clock.now()
        taken = 0
        for pending in pendings:
            ident = pending.serial << 16 | pending.message.shard
            if self._fresh.enter(ident, pending.tenant):  # before it is dispatched, which may set it aside
                if self._take(ident, pending, now):
                    taken += 1
                    continue
                self._fresh.leave(ident, pending.tenant)
            self._leave(pending.due)
        self.abandon(pendings[0].message)
        return taken

    def claim(self, pending: Pending) -> bool:
        """Whether this dispatched recipient may be attempted; if so nobody else can have it until it is settled.

        False for one that was cancelled or changed since it was dispatched: drop it.
        """
        ident = pending.serial << 16 | pending.message.shard
        if ident in self._claimed or self._known.get(ident) is not pending:
            return False
        self._claimed.add(ident)
        return True

    def is_claimed(self, pending: Pending) -> bool:
        """Whether an attempt or a command has it."""
        return pending.serial << 16 | pending.message.shard in self._claimed

    def postpone(self, pending: Pending, *, seconds: float) -> None:
        """Take back a dispatched recipient that could not be attempted: it is dispatched again after so long.

        Nothing is written: after a crash it is due when it was.
        """
        ident = pending.serial << 16 | pending.message.shard
        if self._known.get(ident) is pending:
            self._claimed.discard(ident)
            self._schedule(ident, msgspec.structs.replace(pending, due=self._clock.now() + seconds))

    def set_aside(self, pending: Pending) -> None:
        """Leave a dispatched recipient to the store, for which nothing can be done now: ``look_again`` finds it."""
        ident = pending.serial << 16 | pending.message.shard
        if self._known.get(ident) is pending and ident not in self._claimed:
            self._remove(ident)
            if self._content is not None:
                self._content.release(pending.message)

    def look_again(self) -> None:
        """Load all that is due and not in memory: what was set aside can perhaps be attempted now."""
        self._leave(-math.inf)

    # -- what commands hold

    def hold(self, key: MessageKey, recipients: int) -> list[int]:
        """Claim all recipients of a message that are in no attempt; their serials, in order.

        Each must be settled, or be let go.
        """
        held = []
        for serial in range(key.serial, key.serial + recipients):
            ident = serial << 16 | key.shard
            if ident not in self._claimed:
                self._claimed.add(ident)
                held.append(serial)
        return held

    def let_go(self, pending: Pending) -> None:
        """Give back a held recipient, as it is in the store or with an earlier time: it is dispatched when due."""
        ident = pending.serial << 16 | pending.message.shard
        self._claimed.discard(ident)
        if ident in self._known:
            # A new object: whoever still has the old one is refused when he claims it.
            self._schedule(ident, msgspec.structs.replace(pending))
        elif not self._take(ident, pending, self._clock.now()):
            self._leave(pending.due)

    def hasten(self, pending: Pending) -> bool:
        """Dispatch a recipient now, with nothing written; False when there is no room, or it is being seen to."""
        ident = pending.serial << 16 | pending.message.shard
        hastened = msgspec.structs.replace(pending, due=self._clock.now())
        if ident in self._known and ident not in self._claimed:
            self._schedule(ident, hastened)
            return True
        return ident not in self._claimed and self._take(ident, hastened, hastened.due)

    def forget(self, key: MessageKey, serial: int) -> None:
        """Give back a held recipient that has already come to its end."""
        ident = serial << 16 | key.shard
        self._claimed.discard(ident)
        self._remove(ident)

    def give_up(self, key: MessageKey, serial: int) -> None:
        """Give back a held recipient of which nothing could be learned: it is as before."""
        known = self._known.get(serial << 16 | key.shard)
        if known is None:
            self._claimed.discard(serial << 16 | key.shard)
            self._leave(0.0)  # its time is not known, so the loader looks from the start
        else:
            self.let_go(known)

    # -- outcomes

    def settle(self, make: Callable[[], Settle], *, deadline: float, then: Callable[[], None]) -> None:
        """Make an outcome durable, then schedule the next attempt if there is one.

        A store that cannot take it is asked again until it does, and meanwhile nothing new is dispatched, so that
        delivery never outruns what can be settled.

        Args:
            make: Makes what is to be written; called once, when that is.
            deadline: Monotonic time for the first try.
            then: Called when it is durable, however long that takes, or when a bug of ours kept it from being made.
                Does not raise.
        """
        made: list[Settle] = []

        def once() -> Settle:
            made.append(make())
            return made[0]

        def told(error: Exception | None) -> None:
            if error is None:
                self._settled(made[0])
                then()
            elif not isinstance(error, Fault):
                # A bug of ours: the loop reports it, and the recipient stays claimed until a worker starts anew.
                then()
                raise error
            elif isinstance(error, ShardMoved) and made:
                self._forget(made[0].pending)
                then()
            elif not self._ended:  # Else it waits in the store as before, for whoever comes next.
                try:
                    settle = made[0] if made else once()
                except Exception:
                    then()
                    raise
                insisting = asyncio.ensure_future(self._insist(settle, then))
                self._insisting[insisting] = None
                insisting.add_done_callback(self._insisting.pop)

        self._store.commit(Later(once), deadline=deadline).then(told)

    async def settled(self, settle: Settle, *, deadline: float) -> None:
        """The same for those who wait: returns when it is durable. Cancelling the wait changes nothing of it."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then() -> None:
            if not waiter.done():
                waiter.set_result(None)

        self.settle(lambda: settle, deadline=deadline, then=then)
        await waiter

    async def _insist(self, settle: Settle, then: Callable[[], None]) -> None:
        # Not stored, or perhaps stored: the ids are fixed, so that writing it again is safe either way.
        self._stalled += 1
        moved = False
        try:
            while True:
                await self._clock.sleep(FAULT_PAUSE_S * (1.0 + self._dice.random()))
                try:
                    deadline = self._clock.monotonic() + self._limits.settle_deadline_s
                    await self._store.commit(settle, deadline=deadline)
                except ShardMoved:
                    moved = True
                except Fault:
                    continue
                break
        finally:
            self._stalled -= 1
            if not self._stalled:
                self._woken.set()
                self._arm()
        if moved:
            self._forget(settle.pending)
        else:
            self._settled(settle)
        then()

    def _forget(self, pending: Pending) -> None:
        """Leave a recipient to the new owner of its shard."""
        ident = pending.serial << 16 | pending.message.shard
        self._claimed.discard(ident)
        if self._remove(ident) and self._content is not None:
            self._content.release(pending.message)

    def _settled(self, settle: Settle) -> None:
        was = settle.pending
        ident = was.serial << 16 | was.message.shard
        self._claimed.discard(ident)
        in_memory = self._remove(ident)
        if self._content is not None and in_memory:
            self._content.release(was.message)
        if settle.state is not RecipientState.PENDING:
            return
        again = Pending(
            message=was.message,
            serial=was.serial,
            day=was.day,
            address=was.address,
            due=settle.due,
            tenant=was.tenant,
            domain=was.domain,
            pool=was.pool,
            expires_at=was.expires_at,
            attempts=settle.attempts,
            first_attempt_at=settle.first_attempt_at,
            in_doubt=settle.in_doubt,
            accepted_minute=was.accepted_minute,
        )
        if not self._take(ident, again, self._clock.now()):
            self._leave(settle.due)

    # -- room

    def _take(self, ident: int, pending: Pending, now: float) -> bool:
        """Take a recipient into memory if there is room and it is due soon."""
        if len(self._known) >= self._limits.recipients_max:
            return False
        if pending.due > now and (pending.due > now + self._limits.horizon_s or len(self._heap) >= self._half):
            return False
        if pending.due <= now and not self._stalled and self._running is not None:
            self._known[ident] = pending
            self.dispatch(pending)
        else:
            self._schedule(ident, pending)
        return True

    def _schedule(self, ident: int, pending: Pending) -> None:
        self._known[ident] = pending
        heapq.heappush(self._heap, (pending.due, ident, pending))
        if len(self._heap) > 2 * len(self._known) + STALE_MAX:  # who is scheduled anew leaves his old entry behind
            self._heap = [entry for entry in self._heap if self._known.get(entry[1]) is entry[2]]
            heapq.heapify(self._heap)
        if self._heap[0][2] is pending:
            self._arm()

    def _leave(self, due: float) -> None:
        """Something with this time is in the store only: a load up to here must not have passed it by."""
        if due < self._left:
            was_covered = self._left > self._mark.due
            self._left = due
            if was_covered and due <= self._mark.due:
                self._woken.set()

    def _remove(self, ident: int) -> bool:
        """Forget a recipient that ended or left memory; whether it was there."""
        if self._gone is not None:
            self._gone.add(ident)
        known = self._known.pop(ident, None)
        if known is None:
            return False
        if not self._fresh.leave(ident, known.tenant) and self._loaded() == self._half - self._wanted():
            self._woken.set()  # just now there is room for a page again
        return True

    def _loaded(self) -> int:
        return len(self._known) - len(self._fresh)

    def _wanted(self) -> int:
        """The room that makes a load worthwhile."""
        return min(self._limits.page, max(1, self._half // 4))

    # -- the timer

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None and self._heap and not self._stalled:
            delay = min(max(self._heap[0][0] - self._clock.now(), 0.0), TIMER_S_MAX)
            self._timer = self._running.call_later(delay, self._fire)

    def _fire(self) -> None:
        """Dispatch what is due; stop after a share and go on in the next turn of the loop."""
        now = self._clock.now()
        fired = 0
        while self._heap and self._heap[0][0] <= now and fired < FIRED_MAX and not self._stalled:
            _, ident, pending = heapq.heappop(self._heap)
            if self._known.get(ident) is pending and ident not in self._claimed:
                self.dispatch(pending)
                fired += 1
        self._arm()

    # -- the loader

    async def run(self) -> None:
        """Load and dispatch until cancelled."""
        self._running = asyncio.get_running_loop()
        try:
            self._arm()
            while True:
                self._woken.clear()
                self._look_for_shards()
                delay = self._until_load()
                if delay <= 0.0:
                    await self._load()
                else:
                    await self._sleep(delay)
        finally:
            self._running = None
            self._ended = True
            for insisting in tuple(self._insisting):
                insisting.cancel()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    async def _sleep(self, delay: float) -> None:
        assert self._running is not None
        timer = self._running.call_later(min(delay, SHARDS_S), self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()

    def _look_for_shards(self) -> None:
        owned = frozenset(self._store.owned())
        if owned - self._shards:
            self._leave(-math.inf)
        if gone := self._shards - owned:
            for ident, pending in list(self._known.items()):
                if pending.message.shard in gone and ident not in self._claimed:
                    self._forget(pending)
        self._shards = owned

    def _until_load(self) -> float:
        """Seconds until a load makes sense: 0.0 for now, infinity when something else must happen first."""
        if self._stalled or self._loaded() > self._half - self._wanted():
            return math.inf
        gap = self._next_load_at - self._clock.monotonic()
        if self._left <= self._mark.due:
            return gap
        if len(self._heap) >= self._half:
            return max(gap, self._mark.due - self._clock.now())
        # Half a horizon ahead of time, so that nothing is late because a page took long.
        return max(gap, self._mark.due - self._limits.horizon_s / 2.0 - self._clock.now())

    async def _load(self) -> None:
        """Read one page after the mark and take what is not known."""
        now = self._clock.now()
        if self._left <= self._mark.due:
            self._mark = DueMark(self._left)
        self._left = math.inf
        until = now if len(self._heap) >= self._half else now + self._limits.horizon_s
        limit = min(self._limits.page, self._half - self._loaded())
        self._gone = set()
        try:
            page = await self._store.due(after=self._mark, until=until, limit=limit)
            self._admit(page)
        except Fault:
            self._next_load_at = self._clock.monotonic() + FAULT_PAUSE_S * (1.0 + self._dice.random())
            return
        finally:
            self._gone = None
        if len(page) < limit:
            self._mark = max(self._mark, DueMark(until))
            self._next_load_at = self._clock.monotonic() + LOAD_GAP_S

    def _admit(self, page: Sequence[Pending]) -> None:
        now = self._clock.now()
        assert self._gone is not None
        for pending in page:
            ident = pending.serial << 16 | pending.message.shard
            message = pending.message
            seen = ident in self._known or ident in self._claimed or ident in self._gone
            if not seen and (message.serial << 16 | message.shard) not in self._expected:
                self._known[ident] = pending
                if pending.due <= now and not self._stalled:
                    self.dispatch(pending)
                else:
                    heapq.heappush(self._heap, (pending.due, ident, pending))
        if page:
            last = page[-1]
            self._mark = DueMark(last.due, last.message.shard, last.serial)
            self._arm()
