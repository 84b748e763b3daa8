"""The shards that a worker holds: taken when they are free, given away when it has more than its share.

A round looks who is alive, takes what nobody alive owns, up to a fair share, and gives back what is over it. A shard is
given away with a checkpoint, so that its next owner has nothing else to read.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from pigeonry.domain.errors import Conflict, Fault
from pigeonry.domain.message import MessageKey
from pigeonry.stores.cassandra.carrier import carry, round_of
from pigeonry.stores.cassandra.checkpoints import ShardUnreadable
from pigeonry.stores.cassandra.late import look
from pigeonry.stores.cassandra.served import Served
from pigeonry.stores.cassandra.session import Consistency
from pigeonry.stores.cassandra.takeover import take_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pigeonry.ports.environment import Clock
    from pigeonry.ports.queue_store import RecoveryReport
    from pigeonry.stores.cassandra.behind import Behind
    from pigeonry.stores.cassandra.checkpoints import Checkpoints
    from pigeonry.stores.cassandra.journal import Journal
    from pigeonry.stores.cassandra.limits import Limits
    from pigeonry.stores.cassandra.membership import Membership
    from pigeonry.stores.cassandra.messages import Messages
    from pigeonry.stores.cassandra.records import Records
    from pigeonry.stores.cassandra.shares import ShardRow, Shares
    from pigeonry.stores.cassandra.takeover import Takeover
    from pigeonry.stores.cassandra.writer import GroupWriter

__all__ = ["Holding"]

TAKEN_AT_ONCE: Final = 4  # shards that are read at the same time: while one waits for its next page others are folded
UNREADABLE_S_MAX: Final = 300.0  # seconds between two tries to read a shard whose rows make no sense; each is an epoch
OPEN_S: Final = 60.0  # how long a worker waits for its first shard: others give theirs up, or are found dead


class Holding:
    """Takes and gives away.

    Args:
        served: The shards that are held and were read; filled here.
        taken: Told of each shard that is taken over later than at the opening, and of what was mended in it.

    Attributes:
        accepting: The number of the shard that accepts, None when there is none just now.
        voids: Messages that a predecessor could not void before it ended.
    """

    def __init__(
        self,
        served: dict[int, Served],
        *,
        membership: Membership,
        shares: Shares,
        checkpoints: Checkpoints,
        journal: Journal,
        messages: Messages,
        records: Records,
        behind: Behind,
        writer: GroupWriter,
        clock: Clock,
        limits: Limits,
        taken: Callable[[RecoveryReport], None] | None,
    ) -> None:
        self._served = served
        self._membership = membership
        self._shares = shares
        self._checkpoints = checkpoints
        self._journal = journal
        self._messages = messages
        self._records = records
        self._behind = behind
        self._writer = writer
        self._clock = clock
        self._limits = limits
        self._taken = taken or _nobody
        self._unreadable: dict[int, tuple[float, float]] = {}  # the pause before the next try, and its end
        self.accepting: int | None = None
        self.voids: list[MessageKey] = []
        membership.lost = self._deposed

    async def open(self, count: int) -> list[RecoveryReport]:
        """Join the cluster, and take a first share; a report for each shard.

        Args:
            count: How many shards a new cluster gets.

        Raises:
            Conflict: No shard could be had.
            Fault: The store does not answer.
        """
        until = self._clock.monotonic() + OPEN_S
        await self._patiently(self._membership.join, until)
        beating = asyncio.ensure_future(self._membership.run())
        reports: list[RecoveryReport] = []
        try:
            await self._patiently(lambda: self._shares.make(count), until)
            await self._patiently(lambda: self._round(reports.append), until)
            while not self._served:
                if self._clock.monotonic() > until:
                    raise Conflict("Every shard is held by other workers.", retry_after_s=1.0)
                await self._clock.sleep(self._limits.round_s / 4)
                await self._patiently(lambda: self._round(reports.append), until)
            self.accepting = None  # nothing was accepted yet: the lowest, whichever was read first
            self._choose()
            return reports
        finally:
            beating.cancel()

    async def run(self) -> None:
        """Go round, write checkpoints and carry, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rounds())
            group.create_task(self._write_checkpoints())
            group.create_task(self._carry())
            group.create_task(self._look_for_late())

    async def release_all(self) -> None:
        """Give every shard back; called inside a turn of the writer."""
        for number in sorted(self._served):
            await self._release(number)

    # -- rounds

    async def _patiently(self, work: Callable[[], Awaitable[object]], until: float) -> None:
        """Do it, again when the store is slow: a worker that ends for it only has to begin anew."""
        while True:
            try:
                await work()
            except Fault:
                if self._clock.monotonic() > until:
                    raise
                await self._clock.sleep(self._limits.round_s / 4)
            else:
                return

    async def _rounds(self) -> None:
        while True:
            await self._clock.sleep(self._limits.round_s)
            with contextlib.suppress(Fault):
                await self._round(self._taken)

    async def _round(self, taken: Callable[[RecoveryReport], None]) -> None:
        """Look who is alive, and take or give shards so that each has its share.

        Args:
            taken: Told of each shard as soon as it is served.

        Raises:
            Fault: The store does not answer.
        """
        if not self._membership.name:
            await self._membership.join()
        await self._membership.look()
        rows = await self._shares.read()
        for row in rows:
            if row.number in self._served and not self._is_mine(row):
                self._lose(row.number)
        wanted = self._shares.wanted(rows)
        await self._take_all(await self._takeable(rows, wanted), taken)
        for number in self._surplus(wanted):
            async with self._writer.turn:
                await self._release(number)
        self._choose()

    async def _takeable(self, rows: Sequence[ShardRow], wanted: Mapping[str, int]) -> list[ShardRow]:
        """What this worker has room for and may take; owners that do not renew are deposed, each once."""
        room = {home: most - len(self._held(home)) for home, most in wanted.items()}
        takeable: list[ShardRow] = []
        gone: dict[str, bool] = {}
        for row in [*self._unread(rows), *self._shares.free(rows)]:
            home = self._shares.home(row.number)
            if room[home] <= 0 or self._clock.monotonic() < self._unreadable.get(row.number, (0.0, 0.0))[1]:
                continue
            if row.owner not in gone:
                gone[row.owner] = await self._is_gone(row)
            if gone[row.owner]:
                takeable.append(row)
                room[home] -= 1
        return takeable

    async def _is_gone(self, row: ShardRow) -> bool:
        """Whether a shard's owner acknowledges nothing of it any more."""
        owner = self._shares.owner(row)
        expired = owner is not None and owner.beat >= 0 and owner.name != self._membership.name
        return owner is None or not expired or await self._membership.depose(owner)

    async def _take_all(self, rows: Sequence[ShardRow], taken: Callable[[RecoveryReport], None]) -> None:
        """Take shards, some at the same time; what could not be read is read in the next round."""
        places = asyncio.Semaphore(TAKEN_AT_ONCE)

        async def take(row: ShardRow) -> None:
            async with places:
                report = await self._take(row)
            if report is not None:
                taken(report)

        ends = await asyncio.gather(*(take(row) for row in rows), return_exceptions=True)
        failed = [end for end in ends if end is not None]
        if failed:
            raise failed[0]

    def _unread(self, rows: Sequence[ShardRow]) -> list[ShardRow]:
        """Those that are this worker's and that it could not read to the end."""
        return [row for row in rows if row.owner == self._membership.name and row.number not in self._served]

    def _held(self, home: str) -> list[int]:
        return [number for number in sorted(self._served) if self._shares.home(number) == home]

    def _is_mine(self, row: ShardRow) -> bool:
        served = self._served[row.number]
        return row.owner == self._membership.name and row.epoch == served.shard.epoch

    def _surplus(self, wanted: Mapping[str, int]) -> list[int]:
        """Shards to give away. Before the one that accepts goes another one accepts for a round; the last one stays.

        When all are to go, it is the one with the least in it that stays.
        """
        surplus: list[int] = []
        for home, most in wanted.items():
            held = sorted(self._held(home), key=self._accepts)
            surplus += held[: max(0, len(held) - most)]
        if self.accepting in surplus:
            surplus.remove(self.accepting)
            stays = [each for each in sorted(self._served) if each not in surplus]
            lightest = min((self.accepting, *surplus), key=self._weight)
            if stays == [self.accepting] != [lightest]:
                surplus.remove(lightest)
                stays = [lightest]
            self.accepting = next(iter(stays), self.accepting)
        return surplus

    def _weight(self, number: int) -> int:
        return len(self._served[number].shard.waiting)

    def _accepts(self, number: int) -> bool:
        return number == self.accepting

    async def _take(self, row: ShardRow) -> RecoveryReport | None:
        epoch = await self._shares.take(row)
        if epoch is None:
            return None
        try:
            found = await self._read(row, epoch)
        except Exception as error:  # whatever is wrong with the rows of one shard stops neither us nor the others
            if isinstance(error, Fault) and not isinstance(error, ShardUnreadable):
                raise
            await self._put_off(row.number, epoch, error)
            return None
        self._unreadable.pop(row.number, None)
        served = Served(found.shard, found.buckets, now=self._clock.monotonic())
        served.events_since = found.events  # a checkpoint soon, or the next takeover has to read them as well
        for end in found.ends:
            self._writer.follow_end(row.number, end)
        for mark in found.marks:
            self._writer.follow_void(row.number, mark)
        if not await self._shares.serve(row.number, epoch=epoch):
            return None
        self._served[row.number] = served
        self._choose()
        for void in found.voids:
            self._writer.void(MessageKey(row.number, void.day, void.serial), void.recipients)
        return found.report

    async def _put_off(self, number: int, epoch: int, error: Exception) -> None:
        """Leave a shard to whoever can read it, another release perhaps, and try again later; each time later still."""
        pause_s = min(2.0 * self._unreadable.get(number, (self._limits.round_s / 2.0, 0.0))[0], UNREADABLE_S_MAX)
        self._unreadable[number] = (pause_s, self._clock.monotonic() + pause_s)
        reason = f"{type(error).__name__}: {error}"
        structlog.get_logger().error("shard_unreadable", shard=number, again_in_s=pause_s, reason=reason)
        await self._shares.release(number, epoch=epoch)

    async def _read(self, row: ShardRow, epoch: int) -> Takeover:
        """Read a shard. What another location wrote is asked there too, and is taken without it when it is not there.

        A location that is alone does not even know who owned the shard last.

        Raises:
            Fault: It cannot be read now.
        """
        if self._membership.is_alone():
            return await self._read_at(Consistency.LOCAL_QUORUM, row, epoch, complete=False)
        if row.location in ("", self._membership.location):
            return await self._read_at(Consistency.LOCAL_QUORUM, row, epoch, complete=True)
        try:
            return await self._read_at(Consistency.EACH_QUORUM, row, epoch, complete=True)
        except Fault:
            return await self._read_at(Consistency.LOCAL_QUORUM, row, epoch, complete=False)

    async def _read_at(self, reads: Consistency, row: ShardRow, epoch: int, *, complete: bool) -> Takeover:
        return await take_over(
            row.number,
            epoch=epoch,
            journal=self._journal.read_at(reads),
            checkpoints=self._checkpoints.read_at(reads),
            records=self._records,
            voids=self.voids,
            clock=self._clock,
            in_doubt_delay_s=self._limits.in_doubt_delay_s,
            complete=complete,
        )

    def _choose(self) -> None:
        if self.accepting not in self._served:
            at_home = self._held(self._membership.location) or self._served
            self.accepting = min(at_home, default=None)

    async def _release(self, number: int) -> None:
        """Give a shard back with all that its next owner needs; called inside a turn."""
        served = self._served.pop(number, None)
        if served is None:
            return  # it was lost meanwhile
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
        for number in sorted(self._served):
            self._lose(number)

    async def _write_checkpoints(self) -> None:
        limits = self._limits
        while True:
            await self._clock.sleep(limits.round_s)
            for number in sorted(self._served):
                served = self._served.get(number)
                if served is None:
                    continue
                age = self._clock.monotonic() - served.checkpoint_at
                wanted = served.events_since >= limits.checkpoint_events
                wanted |= served.events_since > 0 and age >= limits.checkpoint_s
                if wanted or age >= limits.checkpoint_again_s:
                    await self._checkpoint(served)

    async def _look_for_late(self) -> None:
        limits = self._limits
        while True:
            await self._clock.sleep(limits.late_look_s)
            for number in sorted(self._served):
                served = self._served.get(number)
                if served is not None and served.shard.late:
                    with contextlib.suppress(Fault):  # again in the next look
                        for copies in await look(served.shard, self._journal, self._messages):
                            await self._writer.adopt(copies, deadline=self._clock.monotonic() + limits.late_look_s)

    async def _carry(self) -> None:
        kept_s = self._limits.retention_s
        while True:
            await self._clock.sleep(self._limits.round_s)
            current = round_of(self._clock.now(), kept_s=kept_s)
            for number in sorted(self._served):
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


def _nobody(_report: RecoveryReport) -> None:
    """Nobody wants to know."""
