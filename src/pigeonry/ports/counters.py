"""Roll-ups: how often what happened, by hour, so that statistics are read and never counted.

What is counted is a *cell*: what happened (event, tag, provider) to whom (a domain or an account: the scope) in which
hour. Each shard of the event log has a running total of its own in each cell, and it is known up to which entry of the
log that counts. So nothing is counted twice, however often entries are brought again after a crash, and nothing is left
out: no number is added to blindly. What is read is the sum over all shards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Cell", "Count", "Counters", "Total"]


class Cell(msgspec.Struct, frozen=True):
    """What is counted together.

    Args:
        scope: Whose; what is asked for at once: a domain, an account.
        hour: Hours since the Unix epoch, UTC.
        event: What happened: ``delivered``, ``opened``...
        tag: For one tag; empty for all, those without a tag included.
        provider: Who serves the recipients; empty when that is not known.
    """

    scope: str
    hour: int
    event: str
    tag: str = ""
    provider: str = ""


class Count(msgspec.Struct, frozen=True):
    """What one entry of the log adds to a cell.

    Args:
        seq: The entry's number in its shard.
    """

    seq: int
    cell: Cell
    number: int = 1


class Total(msgspec.Struct, frozen=True):
    """How often it happened."""

    cell: Cell
    number: int


class Counters(Protocol):
    """Where roll-ups are kept. tests/conformance/test_counters.py holds every implementation to this.

    A shard's counts come from its owner alone, through one instance at a time.
    """

    async def cursor(self, shard: int) -> int:
        """Up to which entry of a shard's log all is counted; 0 in the beginning.

        Raises:
            StoreBusy: The store does not answer in time.
        """
        ...

    async def count(self, shard: int, counts: Sequence[Count], *, upto: int) -> None:
        """Count what entries after the cursor add, and move the cursor to ``upto``.

        Durable when this returns, and nothing more when it is done again, also in other pieces: an entry that a cell
        has counted is not counted there again. After an error some of it may have been done: go on from ``cursor``.

        Args:
            counts: In the order of their entries, all that those up to ``upto`` add, none beyond.

        Raises:
            Fault: The store did not do it in time.
        """
        ...

    async def totals(self, scope: str, *, begin: int, end: int, tag: str | None = "") -> Sequence[Total]:
        """The sums over all shards of a scope's cells, in the order of tag, hour, event, provider.

        Args:
            begin, end: Hours since the Unix epoch; the last one not included.
            tag: The tag of the cells; None for those of any tag and of none.

        Raises:
            StoreBusy: The store does not answer in time.
        """
        ...
