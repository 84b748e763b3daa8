"""Taking a shard over: the newest checkpoint, and every journal since then, folded.

An owner before this one can acknowledge nothing more: ownership has waited until its lease was over on every clock that
counts, and whatever it acknowledged in time was written at a quorum before this reading began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pigeonry.domain.errors import StoreBusy
from pigeonry.ports.queue_store import RecoveryReport
from pigeonry.stores.cassandra.checkpoints import Chain, Folded
from pigeonry.stores.cassandra.entries import Accepted, Settled, Voided
from pigeonry.stores.cassandra.shard import Group, Shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.domain.message import MessageKey
    from pigeonry.stores.cassandra.checkpoints import Checkpoints
    from pigeonry.stores.cassandra.journal import Buckets, Journal, Row
    from pigeonry.stores.cassandra.records import Records

__all__ = ["Takeover", "take_over"]


class Takeover(msgspec.Struct):
    """A shard that can be served once ``voids`` are written.

    Args:
        voids: Messages that a predecessor could not void before it ended.
        ends: Outcomes that may not be written yet.
        marks: Messages that were voided, which may not be written yet.
        folded: How far each closed epoch was read: what appears behind that is late.
    """

    shard: Shard
    buckets: Buckets
    report: RecoveryReport
    voids: list[Voided]
    ends: list[Settled]
    marks: list[Voided]
    folded: tuple[Folded, ...]


async def take_over(
    number: int,
    *,
    epoch: int,
    journal: Journal,
    checkpoints: Checkpoints,
    records: Records,
    voids: Sequence[MessageKey],
    hold_back_until: float,
    now: float,
    complete: bool = True,
) -> Takeover:
    """Read a shard whose epoch is this owner's from now on.

    Args:
        voids: Messages of any shard whose fate a predecessor could not settle.
        hold_back_until: When what may have been delivered is tried again at the earliest, seconds since the Unix epoch.
        now: Likewise.
        complete: Whether what is read overlaps with all that was acknowledged. If not, because a location is not there,
            groups may appear late.

    Raises:
        StoreBusy: It cannot be read now.
    """
    shard = Shard(number, epoch=epoch)
    chain, newest = await checkpoints.read(shard)
    read = _Read(shard)
    for part in chain.folded:
        await _fold_epoch(read, journal, part.epoch, start=part.start, end=part.end)
    folded = list(chain.folded)
    base = chain.base
    for old in range(newest, epoch):
        start = base.number if base is not None and old == base.epoch else 0
        folded.append(Folded(old, start, await _fold_epoch(read, journal, old, start=start)))
    if not complete:
        shard.late.update({each.epoch: each.end for each in folded})
    done = tuple(each for each in folded if each.end > each.start)
    await checkpoints.write_chain(number, epoch, Chain(base, done, dict(shard.late)))
    accepted = read.accepted
    shard.seq_durable = shard.seq_next - 1
    mine = (_void(shard, key, accepted.get(key.serial)) for key in voids if key.shard == number)
    void = [each for each in mine if each is not None]
    for each in void:
        shard.hidden[each.serial] = 0
        read.scopes.pop(each.serial, None)
    for serial, scope in read.scopes.items():
        await records.confirm(scope, number, serial)
    in_doubt = shard.hold_back(until=hold_back_until, now=now)
    repairs = []
    if void:
        repairs.append(f"Voided {len(void)} messages that were never acknowledged.")
    if in_doubt:
        repairs.append(f"Held back {in_doubt} recipients whose last attempt may have been delivered.")
    waiting = len(shard.waiting) - sum(each.recipients for each in void)
    report = RecoveryReport(number, waiting, in_doubt, tuple(repairs))
    return Takeover(shard, await journal.buckets(number), report, void, read.ends, read.marks, tuple(folded))


def _void(shard: Shard, key: MessageKey, entry: Accepted | None) -> Voided | None:
    """The void of a message that was accepted; None when it is void already, or never was."""
    if key.serial in shard.voided:
        return None
    if entry is not None:
        return Voided(entry.serial, len(entry.recipients), entry.day)
    found = [serial for serial in shard.waiting.serials() if _message_of(shard, serial) == key.serial]
    return Voided(key.serial, max(found) - key.serial + 1, key.day) if found else None


def _message_of(shard: Shard, serial: int) -> int:
    pending = shard.waiting.get(serial)
    return -1 if pending is None else pending.message.serial


async def _fold_epoch(read: _Read, journal: Journal, epoch: int, *, start: int, end: int | None = None) -> int:
    """Fold an epoch's groups; the number before which it ended."""
    number = start
    if end is not None and end <= start:
        return start
    async for row in journal.groups(read.shard.number, epoch, number=start):
        if number == end:
            break
        read.fold(row)
        number += 1
    if end is not None and number < end:
        raise StoreBusy(f"Shard {read.shard.number} cannot be read: a part of its journal is missing.")
    return number


class _Read:
    """A shard being read, and what of it concerns others."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.accepted: dict[int, Accepted] = {}
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
                self.accepted[entry.serial] = entry  # type: ignore[assignment, union-attr]
                if entry.scope:  # type: ignore[union-attr]
                    self.scopes[entry.serial] = entry.scope  # type: ignore[union-attr]
            elif kind is Voided:
                self.scopes.pop(entry.serial, None)  # type: ignore[union-attr]
                self.marks.append(entry)  # type: ignore[arg-type]
            elif kind is Settled and entry.state:  # type: ignore[union-attr]
                self.ends.append(entry)  # type: ignore[arg-type]
        self.shard.seq_next = group.seq + len(group.events)
        self.shard.remember(group)
