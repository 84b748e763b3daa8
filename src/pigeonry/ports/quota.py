"""Limits that hold over all workers and nodes, leased out in shares.

A *limit* has a name (``connections:SOURCE:SITE``, ``rate:ACCOUNT``) and a number of units. Members ask for what they
want; each gets its fair part of it at once when that is free, and as the others give back what is more than theirs.
A member speaks in *sessions*: a session lives as long as it calls ``attend`` often enough, measured by each side's own
monotonic clock, so that no two machines' wall clocks are ever compared. ``quota.shares`` is the one who speaks here;
nothing is asked per message.

What is promised: the units that all sessions may use never add up to more than the limit, whatever is lost, delayed or
set back, and whoever dies. A session may use what it was granted for ``TTL_S`` after it began its last ``attend`` that
succeeded, then its ``safe`` share, and nothing after ``FORGOTTEN_S``; what others are granted leaves that out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["FORGOTTEN_S", "MARGIN", "TTL_S", "Ask", "Grant", "Quota"]

TTL_S: Final = 3.0
"""Seconds that a session lives without ``attend``: a dozen of its rounds, and no longer than a dead worker's share of
a limit may lie idle."""
FORGOTTEN_S: Final = 300.0
"""Seconds without ``attend`` after which a session that cannot be proved dead has no safe share any more either: a
store that stays away for longer keeps a node from delivering at all."""
MARGIN: Final = 1.2
"""Factor by which others wait longer than a session itself: two clocks may run at rates that differ by a fifth."""


class Ask(msgspec.Struct, frozen=True):
    """What a session says of one limit.

    Args:
        name: Of the limit.
        limit: Units; while members differ about it, as during a change of settings, the lowest counts.
        keep: Units it uses, or may yet use before it has this answer.
        want: Units it could use.
        safe: The safe share it relies on, as it last heard; no more than it keeps.
        weight: Its part when there is not enough for all, relative to the others'.
        yields: Whether it had its turn: those who have nothing come first.
    """

    name: str
    limit: int
    keep: int
    want: int
    safe: int = 0
    weight: float = 1.0
    yields: bool = False


class Grant(msgspec.Struct, frozen=True):
    """The answer to one ``Ask``.

    Args:
        units: What the session has now; at least what it keeps, if it had that.
        target: What it should have: it uses no more than that from now on, and says so as soon as it does.
        safe: What it may go on using when its session is over (``TTL_S``) until ``FORGOTTEN_S``.
        scarce: Whether a member has less than it wants: what is not needed is to be given back soon.
        turns: Whether there are more members than units: after a while with its units it is to yield.
    """

    name: str
    units: int
    target: int
    safe: int
    scarce: bool
    turns: bool


class Quota(Protocol):
    """Where shares are kept. tests/conformance/test_quota.py holds every implementation to this.

    A session speaks through one instance, from ``join`` to ``leave``.

    A method that raises ``StoreBusy`` has done nothing; after ``StoreInDoubt`` it may have, and will do nothing later.
    """

    async def join(self, session: str) -> None:
        """Begin a session, under a name that was never used before.

        Raises:
            Fault: The store did not do it in time.
        """
        ...

    async def attend(self, session: str) -> Collection[str]:
        """Say that a session lives; the limits for which it should ask anew, since others wait or gave back.

        Raises:
            Fault: The store did not do it in time: whether the session lives on, others know better.
        """
        ...

    async def negotiate(self, session: str, asks: Sequence[Ask], *, former: Collection[str] = ()) -> Sequence[Grant]:
        """Ask for shares, each of another limit, all at once; the grants in the same order.

        Who keeps nothing and wants nothing has given its share back.

        Args:
            former: The same member's sessions before this one, whose shares go over to it.

        Raises:
            Fault: The store did not do it in time; some of it may have been done.
        """
        ...

    async def leave(self, session: str) -> None:
        """End a session. What it did not give back goes to the others, who must not find it in use.

        Raises:
            Fault: The store did not do it in time.
        """
        ...
