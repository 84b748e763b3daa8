"""Roll-ups in memory: for tests and simulation.

Several ``MemoryCounters`` over one ``Sheet`` are what several workers over one file are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.ports.counters import Cell, Count, Total

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryCounters", "Sheet"]


class Sheet:
    """What several instances share: by cell and shard, and how far each shard is counted."""

    def __init__(self) -> None:
        self.numbers: dict[Cell, dict[int, int]] = {}
        self.cursors: dict[int, int] = {}


class MemoryCounters:
    """See ``ports.counters.Counters`` for the contract.

    Args:
        sheet: Shared with other instances; an own one when not given.
    """

    def __init__(self, sheet: Sheet | None = None) -> None:
        self._sheet = sheet or Sheet()

    async def open(self) -> None:
        """There is nothing to open; the stores are used alike."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def cursor(self, shard: int) -> int:
        """Up to which entry all is counted."""
        return self._sheet.cursors.get(shard, 0)

    async def count(self, shard: int, counts: Sequence[Count], *, upto: int) -> None:
        """Count what entries after the cursor add."""
        counted = self._sheet.cursors.get(shard, 0)
        for count in counts:
            if count.seq > counted:
                shards = self._sheet.numbers.setdefault(count.cell, {})
                shards[shard] = shards.get(shard, 0) + count.number
        self._sheet.cursors[shard] = max(counted, upto)

    async def totals(self, scope: str, *, begin: int, end: int, tag: str | None = "") -> Sequence[Total]:
        """The sums over all shards."""
        found = [
            Total(cell, sum(shards.values()))
            for cell, shards in self._sheet.numbers.items()
            if cell.scope == scope and begin <= cell.hour < end and tag in (None, cell.tag)
        ]
        return sorted(found, key=lambda total: _order(total.cell))


def _order(cell: Cell) -> tuple[str, int, str, str]:
    return cell.tag, cell.hour, cell.event, cell.provider
