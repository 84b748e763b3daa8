"""The event ledger: what became of all that was accepted, counted by the writes that made it so.

For each sending domain and *minute of acceptance*, accepted = delivered + failed + pending. The counts change in the
very write that changes a recipient and appends its event (invariant I2), so that they can be held against what the
events say: ``events.ledger`` does that all the time, and any difference is an error of ours.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

__all__ = ["AUDITED_S", "KEPT_S", "Ledger", "LedgerRow", "StoreLedger"]

KEPT_S: Final = 600.0
"""Seconds that a minute is told of after it began, though nothing of it waits: ten audits, also by a worker that has
just taken the shard over."""
AUDITED_S: Final = 86_400.0
"""Seconds that a minute of which something waits is told of by itself. What waits for longer is carried to other places
of the store, and counts in ``waiting`` and ``pending`` alone."""


class LedgerRow(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """What became of a domain's recipients that were accepted in one minute.

    Args:
        domain: The sending domain.
        minute: ``Pending.accepted_minute``.
        accepted, delivered, failed: Recipients. One that was voided was never accepted.
    """

    domain: str
    minute: int
    accepted: int
    delivered: int
    failed: int

    @property
    def pending(self) -> int:
        """Those without an end."""
        return self.accepted - self.delivered - self.failed


class Ledger(msgspec.Struct, frozen=True):
    """The counts of one shard, all of one moment.

    Args:
        seq: All events up to it are counted. What else is counted is on its way into the log.
        pending: The sum of what every minute says is pending, also of those that have no row here.
        waiting: Recipients that really wait: another count of the same, so equal to ``pending``.
        rows: Of the minutes within ``KEPT_S``, and of those within ``AUDITED_S`` of which something is pending.
    """

    seq: int
    pending: int
    waiting: int
    rows: tuple[LedgerRow, ...]


class StoreLedger(Protocol):
    """A store that keeps the ledger of its shards. tests/conformance/test_ledger.py holds every queue store to this."""

    async def ledger(self, shard: int) -> Ledger | None:
        """The counts of a shard; None when this worker does not own it.

        Raises:
            StoreBusy: It cannot be read just now.
        """
        ...
