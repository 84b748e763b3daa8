"""The counts of a ledger in memory: see ``ports.ledger``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.domain.message import minute_of
from pigeonry.ports.ledger import AUDITED_S, KEPT_S, Ledger, LedgerRow

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Counts"]


class Counts:
    """Accepted, delivered and failed of each domain and minute of acceptance."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], list[int]] = {}
        self._pending = 0

    def accepted(self, domain: str, minute: int, recipients: int) -> None:
        """So many were accepted; less than none: they were voided."""
        self._row(domain, minute)[0] += recipients
        self._pending += recipients

    def ended(self, domain: str, minute: int, *, delivered: bool) -> None:
        """One has its end."""
        self._row(domain, minute)[1 if delivered else 2] += 1
        self._pending -= 1

    def put(self, rows: Iterable[LedgerRow]) -> None:
        """Count what was counted before."""
        for row in rows:
            counted = self._row(row.domain, row.minute)
            counted[0] += row.accepted
            counted[1] += row.delivered
            counted[2] += row.failed
            self._pending += row.pending

    def all(self) -> list[LedgerRow]:
        """Everything."""
        return [LedgerRow(domain, minute, *counted) for (domain, minute), counted in self._rows.items()]

    def fold_away(self, now: float) -> None:
        """Forget the minutes that are out of ``KEPT_S`` and balance."""
        kept = minute_of(now - KEPT_S)
        over = [at for at, (accepted, *ends) in self._rows.items() if at[1] < kept and accepted == sum(ends)]
        for at in over:
            del self._rows[at]

    def told(self, now: float, *, seq: int, waiting: int) -> Ledger:
        """As ``ports.ledger`` has it."""
        kept, audited = minute_of(now - KEPT_S), minute_of(now - AUDITED_S)
        rows = tuple(row for row in self.all() if row.minute >= kept or (row.minute >= audited and row.pending))
        return Ledger(seq, self._pending, waiting, rows)

    def _row(self, domain: str, minute: int) -> list[int]:
        row = self._rows.get((domain, minute))
        if row is None:
            row = self._rows[domain, minute] = [0, 0, 0]
        return row
