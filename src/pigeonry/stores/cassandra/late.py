"""Groups that appear late: what a lost location had acknowledged and not yet brought over when its shards were taken.

Each location is asked until all of them answer. Then the lost one is there again, and with it what stands behind the
place to which its epoch was read: its messages are written here, and its groups copied into the journal of the epoch
that is current. Late, not lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.domain.message import MessageKey
from pigeonry.stores.cassandra.entries import Accepted, Adopted
from pigeonry.stores.cassandra.session import Consistency
from pigeonry.stores.cassandra.tables import GROUPS_A_BUCKET

if TYPE_CHECKING:
    from pigeonry.stores.cassandra.entries import Entry
    from pigeonry.stores.cassandra.journal import Journal
    from pigeonry.stores.cassandra.messages import Messages
    from pigeonry.stores.cassandra.shard import Shard

__all__ = ["Copies", "look"]


class Copies:
    """Entries of a closed epoch on their way into a shard's journal.

    Args:
        shard: The shard's number.
        entries: The first one says how far they go.
    """

    def __init__(self, shard: int, entries: list[Entry]) -> None:
        self.shard = shard
        self.entries = entries


async def look(shard: Shard, journal: Journal, messages: Messages) -> list[Copies]:
    """What every location together have by now, in order; a closed epoch's last one says that it is complete.

    Gaps do not matter here: what is behind one was acknowledged as well as not, and is kept rather than lost.

    Raises:
        StoreBusy, StoreInDoubt: Not every location answers.
    """
    found: list[Copies] = []
    journal, everywhere = journal.read_at(Consistency.EACH_QUORUM), messages.read_at(Consistency.EACH_QUORUM)
    for epoch, number in sorted(shard.late.items()):
        bucket, more = number // GROUPS_A_BUCKET, True
        while more:
            more = False
            async for row in journal.bucket(shard.number, epoch, bucket, number=number):
                more, entries = True, row.entries()
                for entry in entries:
                    if type(entry) is Accepted:
                        await everywhere.carry(MessageKey(shard.number, entry.day, entry.serial))
                found.append(Copies(shard.number, [Adopted(epoch, row.number + 1), *entries]))
            bucket += 1
        found.append(Copies(shard.number, [Adopted(epoch, Adopted.COMPLETE)]))
    return found
