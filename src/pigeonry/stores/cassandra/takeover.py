"""Taking a shard over: the newest checkpoint, and every journal since then, folded.

An owner before this one can acknowledge nothing more: ownership has waited until its lease was over on every clock that
counts, and whatever it acknowledged in time was written at a quorum before this reading began.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.ports.queue_store import RecoveryReport
from pigeonry.stores.cassandra.checkpoints import Chain, Folded, ShardUnreadable
from pigeonry.stores.cassandra.entries import Accepted, Settled, Voided
from pigeonry.stores.cassandra.shard import Group, Shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.domain.message import MessageKey
    from pigeonry.ports.environment import Clock
    from pigeonry.stores.cassandra.checkpoints import Checkpoints
    from pigeonry.stores.cassandra.journal import Buckets, Journal, Row
    from pigeonry.stores.cassandra.records import Records

__all__ = ["Takeover", "take_over"]

CONFIRMED_AT_ONCE: Final = 64  # records that are confirmed at the same time


class Takeover(msgspec.Struct):
    """A shard that can be served once ``voids`` are written.

    Args:
        voids: Messages that a predecessor could not void before it ended.
        ends: Outcomes that may not be written yet.
        marks: Messages that were voided, which may not be written yet.
        events: How many are behind the checkpoint that was read.
    """

    shard: Shard
    buckets: Buckets
    report: RecoveryReport
    voids: list[Voided]
    ends: list[Settled]
    marks: list[Voided]
    events: int


async def take_over(
    number: int,
    *,
    epoch: int,
    journal: Journal,
    checkpoints: Checkpoints,
    records: Records,
    voids: Sequence[MessageKey],
    clock: Clock,
    in_doubt_delay_s: float,
    complete: bool = True,
) -> Takeover:
    """Read a shard whose epoch is this owner's from now on.

    Args:
        voids: Messages of any shard whose fate a predecessor could not settle.
        in_doubt_delay_s: Seconds before what may have been delivered is tried again.
        complete: Whether what is read overlaps with all that was acknowledged. If not, because a location is not there,
            groups may appear late.

    Raises:
        StoreBusy: It cannot be read now.
    """
    shard = Shard(number, epoch=epoch)
    chain, newest = await checkpoints.read(shard)
    read = _Read(shard)
    for part in chain.folded:
        await _fold_epoch(read, journal, part.epoch, clock, start=part.start, end=part.end)
    folded = list(chain.folded)
    base = chain.base
    for old in range(newest, epoch):
        start = base.number if base is not None and old == base.epoch else 0
        folded.append(Folded(old, start, await _fold_epoch(read, journal, old, clock, start=start)))
    if not complete:
        shard.late.update({each.epoch: each.end for each in folded})
    done = tuple(each for each in folded if each.end > each.start)
    await checkpoints.write_chain(number, epoch, Chain(base, done, dict(shard.late)))
    shard.seq_durable = shard.seq_next - 1
    mine = (_void(shard, key) for key in voids if key.shard == number)
    void = [each for each in mine if each is not None]
    for each in void:
        shard.hidden[each.serial] = 0
        read.scopes.pop(each.serial, None)
    await _confirm(records, number, read.scopes)
    now = clock.now()
    in_doubt = shard.hold_back(until=now + in_doubt_delay_s, now=now)
    repairs = []
    if void:
        repairs.append(f"Voided {len(void)} messages that were never acknowledged.")
    if in_doubt:
        repairs.append(f"Held back {in_doubt} recipients whose last attempt may have been delivered.")
    waiting = len(shard.waiting) - sum(each.recipients for each in void)
    report = RecoveryReport(number, waiting, in_doubt, tuple(repairs))
    events = shard.seq_next - (1 if base is None else base.seq)
    return Takeover(shard, await journal.buckets(number), report, void, read.ends, read.marks, events)


async def _confirm(records: Records, number: int, scopes: dict[int, bytes]) -> None:
    """Confirm the records of messages that the journal has."""
    serials = list(scopes)
    for first in range(0, len(serials), CONFIRMED_AT_ONCE):
        some = serials[first : first + CONFIRMED_AT_ONCE]
        await asyncio.gather(*(records.confirm(scopes[serial], number, serial) for serial in some))


def _void(shard: Shard, key: MessageKey) -> Voided | None:
    """The void of a message that was accepted; None when it is void already, or never was.

    None of its recipients can have an end, as it was never shown.
    """
    end = key.serial
    while _message_of(shard, end) == key.serial:
        end += 1
    return Voided(key.serial, end - key.serial, key.day) if end > key.serial else None


def _message_of(shard: Shard, serial: int) -> int:
    pending = shard.waiting.get(serial)
    return -1 if pending is None else pending.message.serial


async def _fold_epoch(
    read: _Read, journal: Journal, epoch: int, clock: Clock, *, start: int, end: int | None = None
) -> int:
    """Fold an epoch's groups; the number before which it ended."""
    number = start
    if end is not None and end <= start:
        return start
    async for row in journal.groups(read.shard.number, epoch, number=start):
        if number == end:
            break
        read.fold(row)
        number += 1
        await clock.sleep(0.0)  # a group is some milliseconds, a page of them would be a tenth of a second
    if end is not None and number < end:
        raise ShardUnreadable(f"Shard {read.shard.number} cannot be read: a part of its journal is missing.")
    return number


class _Read:
    """A shard being read, and what of it concerns others."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.scopes: dict[int, bytes] = {}
        self.ends: list[Settled] = []
        self.marks: list[Voided] = []

    def fold(self, row: Row) -> None:
        """Take a group in."""
        group = Group(row.number, self.shard.seq_next)
        for entry in row.entries():
            self.shard.fold(entry, group)
            kind = type(entry)
            if kind is Accepted:
                if entry.scope:  # type: ignore[union-attr]
                    self.scopes[entry.serial] = entry.scope  # type: ignore[union-attr]
            elif kind is Voided:
                self.scopes.pop(entry.serial, None)  # type: ignore[union-attr]
                self.marks.append(entry)  # type: ignore[arg-type]
            elif kind is Settled and entry.state:  # type: ignore[union-attr]
                self.ends.append(entry)  # type: ignore[arg-type]
        self.shard.seq_next = group.seq + len(group.events)
        self.shard.remember(group)
