"""Shares of limits in memory: for tests, simulation and a node of one worker.

Several ``MemoryQuota`` over one ``Table`` are what several workers over one file are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pigeonry.quota.negotiation import Pot, holders, negotiated
from pigeonry.quota.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pigeonry.ports.environment import Clock
    from pigeonry.ports.quota import Ask, Grant

__all__ = ["MemoryQuota", "Table"]


class Table:
    """What several instances share: who has how much, who lives, and who was called for which limits."""

    def __init__(self) -> None:
        self.pots: dict[str, Pot] = {}
        self.beats: dict[str, int] = {}
        self.calls: dict[str, set[str]] = {}


class MemoryQuota:
    """See ``ports.quota.Quota`` for the contract.

    Args:
        clock: Its monotonic time tells who of the others lives.
        table: Shared with other instances; an own one when not given.
    """

    def __init__(self, clock: Clock, table: Table | None = None) -> None:
        self._clock = clock
        self._table = table or Table()
        self._witness = Witness(clock)

    async def join(self, session: str) -> None:
        """Begin a session."""
        self._table.beats[session] = 1

    async def attend(self, session: str) -> Collection[str]:
        """Say that a session lives; the limits for which it should ask anew."""
        self._table.beats[session] = self._table.beats.get(session, 0) + 1
        return self._table.calls.pop(session, set())

    async def negotiate(self, session: str, asks: Sequence[Ask], *, former: Collection[str] = ()) -> Sequence[Grant]:
        """Ask for shares, all at once."""
        return [self._one(session, ask, former) for ask in asks]

    async def leave(self, session: str) -> None:
        """End a session."""
        table = self._table
        table.beats.pop(session, None)
        table.calls.pop(session, None)
        for name, pot in tuple(table.pots.items()):
            if session in holders(pot):
                self._keep(name, tuple(holding for holding in pot if holding.session != session))

    def _one(self, session: str, ask: Ask, former: Collection[str]) -> Grant:
        table = self._table
        pot = table.pots.get(ask.name, ())
        beats = {other: table.beats.get(other, 0) for other in holders(pot) - {session, *former}}
        over, gone = self._witness.judge(beats, began=self._clock.monotonic())
        pot, grant, call = negotiated(pot, session, ask, former=former, over=over, gone=gone)
        self._keep(ask.name, pot)
        for other in call:
            table.calls.setdefault(other, set()).add(ask.name)
        return grant

    def _keep(self, name: str, pot: Pot) -> None:
        if pot:
            self._table.pots[name] = pot
        else:
            self._table.pots.pop(name, None)
