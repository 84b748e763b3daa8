"""Ready queues: recipients that are due wait here for a connection, by egress path.

All tenants share a path's connections by deficit round robin: each in turn may take as many recipients as its
weight, so that a tenant with a million waiting delays one with ten by no more than a turn. Every operation is O(1).

The queues are bounded by the scheduler, which hands over no more recipients than it has room for.

Standards: M. Shreedhar and G. Varghese, "Efficient Fair Queueing Using Deficit Round Robin" (1995), with a
recipient as the unit of cost.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pigeonry.domain.message import Pending
    from pigeonry.domain.route import EgressPath

__all__ = ["ReadyQueues"]


class _Path:
    """What waits for one egress path: each tenant's queue, and the tenants in the order of their turns."""

    __slots__ = ("backlog", "deficit", "tenants", "turns")

    def __init__(self) -> None:
        self.tenants: dict[str, deque[Pending]] = {}
        self.turns: deque[str] = deque()
        self.deficit = 0  # what the tenant whose turn it is may still take
        self.backlog = 0


def _always(_pending: Pending) -> bool:
    return True


def _equal(_tenant: str) -> int:
    return 1


class ReadyQueues:
    """All ready queues of a worker.

    Args:
        claim: Asked when a recipient is taken out: whether it may be attempted now (``Scheduler.claim``). A
            recipient that was cancelled while it waited is thereby dropped.
        weight: How many recipients a tenant may take in one turn, at least 1.
    """

    def __init__(self, *, claim: Callable[[Pending], bool] = _always, weight: Callable[[str], int] = _equal) -> None:
        self._claim = claim
        self._weight = weight
        self._paths: dict[EgressPath, _Path] = {}

    def push(self, path: EgressPath, pending: Pending) -> None:
        """Append a recipient to its tenant's queue for a path."""
        waiting = self._paths.get(path)
        if waiting is None:
            waiting = self._paths[path] = _Path()
        queue = waiting.tenants.get(pending.tenant)
        if queue is None:
            queue = waiting.tenants[pending.tenant] = deque()
            waiting.turns.append(pending.tenant)
        queue.append(pending)
        waiting.backlog += 1

    def pop(self, path: EgressPath) -> Pending | None:
        """Take out the recipient to be attempted next, claimed; None when none waits."""
        while (waiting := self._paths.get(path)) is not None:
            pending = self._take(path, waiting)
            if self._claim(pending):
                return pending
        return None

    def backlog(self, path: EgressPath) -> int:
        """How many wait for a path, those included that were cancelled since."""
        waiting = self._paths.get(path)
        return 0 if waiting is None else waiting.backlog

    def tenants(self, path: EgressPath) -> int:
        """For how many tenants something waits there."""
        waiting = self._paths.get(path)
        return 0 if waiting is None else len(waiting.tenants)

    def paths(self) -> Iterator[EgressPath]:
        """The paths for which something waits."""
        return iter(tuple(self._paths))

    def total(self) -> int:
        """How many wait for any path."""
        return sum(waiting.backlog for waiting in self._paths.values())

    def _take(self, path: EgressPath, waiting: _Path) -> Pending:
        tenant = waiting.turns[0]
        if waiting.deficit <= 0:
            waiting.deficit = max(1, self._weight(tenant))
        queue = waiting.tenants[tenant]
        pending = queue.popleft()
        waiting.backlog -= 1
        waiting.deficit -= 1
        if not queue:
            del waiting.tenants[tenant]
            waiting.turns.popleft()
            waiting.deficit = 0
            if not waiting.turns:
                del self._paths[path]
        elif waiting.deficit == 0:
            waiting.turns.rotate(-1)
        return pending
