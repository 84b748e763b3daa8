"""A checkpoint gives back what it was made of: who waits, and what the ledger had counted."""

from __future__ import annotations

from typing import Any

from pigeonry.domain.message import MessageKey, Pending
from pigeonry.ports.ledger import LedgerRow
from pigeonry.stores.cassandra.checkpoints import PART_ROWS, Checkpoints
from pigeonry.stores.cassandra.shard import Shard
from support.day_files import SetClock


class Rows:
    """The two tables of checkpoints, by the beginnings of their statements."""

    def __init__(self) -> None:
        self.parts: dict[tuple[int, ...], bytes] = {}
        self.heads: list[tuple[int, int, bytes]] = []

    async def execute(self, cql: str, values: tuple[Any, ...], **_: Any) -> list[tuple[Any, ...]]:
        if cql.startswith("INSERT INTO checkpoint"):
            self.parts[values[:4]] = values[4]
        elif cql.startswith("INSERT INTO head"):
            self.heads.insert(0, values[1:4])
        elif "FROM head" in cql:
            return list(self.heads)
        else:
            return [(self.parts[values],)] if values in self.parts else []
        return []


async def test_the_ledger_is_in_it_in_as_many_parts_as_it_takes() -> None:
    rows = Rows()
    checkpoints = Checkpoints(rows, clock=SetClock(), kept_s=60.0, timeout_s=1.0)  # type: ignore[arg-type]
    shard = Shard(3, epoch=1)
    shard.waiting.put(Pending(MessageKey(3, 1, 7), 7, 1, "r@y.test", 1.0, "acct", "x.test", "", 1e12))
    counted = [LedgerRow("x.test", minute, 3, 1, 2) for minute in range(PART_ROWS + 1)]
    shard.counts.put(counted)
    shard.counts.accepted("x.test", 9, 1)
    snapshot = checkpoints.begin(shard)
    shard.counts.accepted("x.test", 9, 5)  # is folded over it
    await checkpoints.write_head(3, await checkpoints.write_parts(shard, snapshot))
    assert len(rows.parts) == 3
    read = Shard(3, epoch=2)
    await checkpoints.read(read)
    counted[9] = LedgerRow("x.test", 9, 4, 1, 2)
    assert read.counts.all() == counted
    assert read.counts.told(0.0, seq=0, waiting=len(read.waiting)).pending == len(read.waiting) == 1
