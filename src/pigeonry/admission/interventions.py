"""The operator's interventions as they are written, and every worker's view of them.

Each is a document of the Directory, so that all workers of all nodes hear of it by the change feed. One that is over
is no longer followed; the next that is made removes it.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import BadRequest, NotFound, Overloaded
from pigeonry.domain.intervention import Intervention, Scope
from pigeonry.ports.feed import POLL_S, Follower
from pigeonry.telemetry.views import tell_of_silence

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pigeonry.domain.intervention import Action
    from pigeonry.ports.documents import Change, Directory
    from pigeonry.ports.environment import Clock, IdSource

__all__ = ["INTERVENTION", "InterventionBook", "InterventionRegister"]

INTERVENTION: Final = "intervention"  # their kind in the Directory
LONGEST_S: Final = 90 * 86_400.0  # seconds; what is to hold longer is a setting, not an intervention
STANDING_MAX: Final = 200  # at once: each costs delivery a comparison for each message
REASON_MAX: Final = 200  # characters: it is shown in events
LOOK_S: Final = 600.0  # seconds between two looks at what is suspended, whether it has expired: each reads all of it
RETRY_AFTER_S: Final = 60.0  # seconds; for when there are too many
_DECODER: Final = msgspec.json.Decoder(Intervention)
_TELL: Final = tell_of_silence("directory", view="interventions", consequence="they stay as they were last known")


class InterventionRegister:
    """Writes interventions.

    Args:
        pools: Ids of the egress pools there are.
    """

    def __init__(self, directory: Directory, *, clock: Clock, ids: IdSource, pools: Collection[str] = ()) -> None:
        self._directory = directory
        self._clock = clock
        self._ids = ids
        self._pools = pools

    async def make(
        self, action: Action, scope: Scope, *, reason: str, lasting_s: float, pool: str = ""
    ) -> Intervention:
        """Intervene from now on.

        Raises:
            BadRequest: It names nothing, or what cannot be done.
            Overloaded: There are too many already.
        """
        if scope == Scope():
            raise BadRequest("Say whose mail: an account, a domain, a recipient domain, a tag, a site or a source.")
        if not 0.0 < lasting_s <= LONGEST_S:
            raise BadRequest(f"It can hold for at most {LONGEST_S / 86_400.0:.0f} days.")
        if len(reason) > REASON_MAX or not reason.isprintable():
            raise BadRequest(f"The reason has at most {REASON_MAX} printable characters.")
        if action == "rebind":
            if pool not in self._pools:
                raise BadRequest(f"There is no egress pool {pool!r}; there are: {', '.join(self._pools) or 'none'}.")
            if scope.tag or scope.site or scope.source:
                raise BadRequest("A pool is chosen before these are known: rebind by account, domain or recipients.")
        now = self._clock.now()
        standing = await self._tidy(now)
        if len(standing) >= STANDING_MAX:
            raise Overloaded(f"{STANDING_MAX} interventions stand already.", retry_after_s=RETRY_AFTER_S)
        scope = msgspec.structs.replace(scope, domain=scope.domain.lower(), to=scope.to.lower())
        made = Intervention(self._ids.octets(6).hex(), action, scope, reason, now, now + lasting_s, pool)
        await self._directory.put(INTERVENTION, made.id, msgspec.json.encode(made), expect=0)
        return made

    async def lift(self, name: str) -> None:
        """End one now.

        Raises:
            NotFound: There is none of that id.
        """
        if not await self._directory.delete(INTERVENTION, name, expect=None):
            raise NotFound(f"There is no intervention {name}.")

    async def standing(self) -> Sequence[Intervention]:
        """Those that stand, the oldest first."""
        now = self._clock.now()
        return [each for each in await self._all() if now < each.until]

    async def _tidy(self, now: float) -> Sequence[Intervention]:
        standing = []
        for each in await self._all():
            if now < each.until:
                standing.append(each)
            else:
                await self._directory.delete(INTERVENTION, each.id, expect=None)
        return standing

    async def _all(self) -> Sequence[Intervention]:
        found = [_DECODER.decode(each.value) for each in await self._directory.list(INTERVENTION)]
        return sorted(found, key=lambda each: each.made_at)


class InterventionBook:
    """A worker's view.

    Args:
        changed: Called with those that stand, whenever that may have changed, and every ten minutes while some do.
    """

    def __init__(
        self,
        directory: Directory,
        clock: Clock,
        changed: Callable[[Sequence[Intervention]], None],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._clock = clock
        self._changed = changed
        self._follower = Follower(directory, clock, self._apply, poll_s=poll_s)
        self._known: dict[str, Intervention] = {}
        self._news = asyncio.Event()

    async def refresh(self) -> None:
        """Take in all there are now.

        Raises:
            Fault: The Directory cannot be reached.
        """
        await self._follower.refresh()
        self._tell()

    async def run(self) -> None:
        """Follow them until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._follower.run(_TELL))
            both.create_task(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wait_s = self._until_next()
            timer = loop.call_later(wait_s, self._news.set) if wait_s < math.inf else None
            try:
                await self._news.wait()
            finally:
                if timer is not None:
                    timer.cancel()
            self._tell()

    def _until_next(self) -> float:
        """Seconds until the first is over, or all is to be looked at."""
        now = self._clock.now()
        return min((max(0.0, min(each.until - now, LOOK_S)) for each in self._known.values()), default=math.inf)

    def _tell(self) -> None:
        self._news.clear()
        now = self._clock.now()
        for name in [name for name, each in self._known.items() if each.until <= now]:
            del self._known[name]
        self._changed(tuple(self._known.values()))

    def _apply(self, change: Change) -> None:
        if change.kind != INTERVENTION:
            return
        if change.document is None:
            self._known.pop(change.id, None)
        else:
            self._known[change.id] = _DECODER.decode(change.document.value)
        self._news.set()
