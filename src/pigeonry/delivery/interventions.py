"""The operator's interventions, as delivery asks for them: at most three questions for each attempt.

What a recipient's entry in the queue tells is asked when it is dispatched, the site and the source when they are
known, and tags when its message is at hand. Where nothing of a kind stands, the question is whether a list is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.intervention import ACTIONS
from pigeonry.domain.outcome import Attempt, Deferred, Withdrawn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pigeonry.domain.intervention import Intervention
    from pigeonry.domain.message import Pending
    from pigeonry.ports.environment import Clock

__all__ = ["Interventions"]

SUSPENDED: Final = 451  # what is told of a recipient whose time was over while it was suspended
_ORDER: Final = {action: place for place, action in enumerate(ACTIONS)}


class Interventions:
    """Those that stand.

    Attributes:
        all: Every one, those that are over included until ``stand`` is called again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.all: tuple[Intervention, ...] = ()
        self._rebinding: Sequence[Intervention] = ()
        self._plain: Sequence[Intervention] = ()
        self._placed: Sequence[Intervention] = ()
        self._tagged: Sequence[Intervention] = ()

    def stand(self, interventions: Iterable[Intervention]) -> bool:
        """These stand from now on, and no others; whether they are others than before."""
        before = self.all
        self.all = tuple(sorted(interventions, key=lambda each: (_ORDER[each.action], each.made_at, each.id)))
        self._rebinding = [each for each in self.all if each.action == "rebind"]
        ending = [each for each in self.all if each.action != "rebind"]
        self._tagged = [each for each in ending if each.scope.tag]
        self._placed = [each for each in ending if not each.scope.tag and (each.scope.site or each.scope.source)]
        self._plain = [each for each in ending if not (each.scope.tag or each.scope.site or each.scope.source)]
        return self.all != before

    @property
    def by_tag(self) -> bool:
        """Whether tags have to be looked at."""
        return bool(self._tagged)

    def of(self, pending: Pending) -> Intervention | None:
        """What is to be done with a recipient that is due, other than to send it."""
        return self._first(self._plain, pending) if self._plain else None

    def rebound(self, pending: Pending) -> str:
        """The egress pool that a recipient leaves by whatever its domain says; empty when nothing is said of it."""
        told = self._first(self._rebinding, pending) if self._rebinding else None
        return "" if told is None else told.pool

    def on_path(self, pending: Pending, *, source: str, site: str) -> Intervention | None:
        """The same, once it is known from where to where it would go."""
        return self._first(self._placed, pending, source, site) if self._placed else None

    def outcome(self, told: Intervention, pending: Pending) -> Deferred | Withdrawn | None:
        """What becomes of a recipient that something else is done with than to send it; None for nothing yet."""
        why = f": {told.reason}" if told.reason else ""
        if told.action == "drop":
            return Withdrawn("dropped", f"Dropped by the operator{why}")
        if self._clock.now() < pending.expires_at:
            return None
        return Deferred(Attempt(), SUSPENDED, description=f"Suspended by the operator{why}", held=True)

    def of_message(self, pending: Pending, tags: Sequence[str], *, source: str, site: str) -> Intervention | None:
        """The same, once its message is at hand."""
        return self._first(self._tagged, pending, source, site, tags) if self._tagged else None

    def _first(
        self,
        among: Sequence[Intervention],
        pending: Pending,
        source: str = "",
        site: str = "",
        tags: Sequence[str] = (),
    ) -> Intervention | None:
        now = self._clock.now()
        for each in among:
            scope = each.scope
            if (
                now < each.until
                and scope.concerns(pending)
                and scope.source in ("", source)
                and scope.site in ("", site)
                and (not scope.tag or scope.tag in tags)
            ):
                return each
        return None
