"""Who is alive: a lease for each worker, renewed by lightweight transactions, judged by nobody's wall clock.

A member renews its row every ``BEAT`` of its time to live. It may acknowledge until its lease's end, which it counts on
its own monotonic clock from *before* the last renewal was sent. Who sees a row unchanged for that long and a margin, on
its own clock and from *after* the read that first showed it, may *depose* the member: by a transaction that holds only
if the row is still the same. After that no renewal of the deposed succeeds. So between the last acknowledgement of one
and the first reading of the next there is the margin, provided that both clocks run at the same rate to within it
(``MARGIN``) and go on while a machine is suspended.

A renewal whose end is unknown counts as none. A lease that ran out and that nobody took is renewed like any other: what
waited for its acknowledgement is acknowledged then.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.domain.errors import Fault, StoreBusy
from pigeonry.stores.cassandra.locations import Standing, alone_epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.stores.cassandra.locations import Locations
    from pigeonry.stores.cassandra.session import Session

__all__ = ["MemberRow", "Membership"]

BEATS: Final = 4  # renewals in the time that a lease lasts: two may fail
OVER_PAUSE: Final = 0.2  # of a beat, between two renewals of a lease that ran out: everybody waits for it
MARGIN: Final = 0.25  # of the time to live: clocks may differ in rate by a quarter, where a tenth of a percent is bad
UNWATCHED: Final = 3  # beats without a look, after which silence counts anew; with one more it is below the lease

KEPT_S: Final = 86_400  # seconds that the row of a worker that is gone stays

_NAME: Final = re.compile(r"[^/]+/[0-9]{1,9}/[^/]+")
_READ: Final = "SELECT name, beat, state, location, address FROM member"
_JOIN: Final = """INSERT INTO member(name, beat, state, location, address) VALUES (?,0,'serving',?,?)
    IF NOT EXISTS USING TTL ?"""
_RENEW: Final = (
    "UPDATE member USING TTL ? SET beat = ?, state = ?, location = ?, address = ? WHERE name = ? IF beat = ?"
)
_DEPOSE: Final = "UPDATE member USING TTL ? SET beat = -1, state = 'gone' WHERE name = ? IF beat = ?"


class MemberRow(msgspec.Struct, frozen=True):
    """A worker of the cluster as its row has it: ``ports.ownership.Member`` is one that is not known to be gone.

    Args:
        name: ``node/slot/life``: whoever begins anew is somebody else.
        beat: Rises with every renewal; -1 when it left or was deposed.
        state: ``serving``, ``draining`` or ``gone``.
        location: Where it is.
        address: Where its commands are heard.
    """

    name: str
    beat: int
    state: str
    location: str
    address: str


class Membership:
    """This worker among the others.

    Args:
        session: Speaks to the lease keyspace.
        worker: ``node/slot``.
        location, address: As in ``MemberRow``.
        ttl_s: How long a lease lasts.
        clock: Its monotonic time must go on while the machine is suspended.
        locations: Where a location can be given up: tells whether this one may have leases at all.
    """

    def __init__(
        self,
        session: Session,
        *,
        worker: str,
        location: str,
        address: str,
        ttl_s: float,
        clock: Clock,
        ids: IdSource,
        locations: Locations | None = None,
    ) -> None:
        self._session = session
        self._locations = locations
        self._standing = Standing.AGREED
        self._worker = worker
        self.name = ""
        """Empty while this is no member."""
        self.location = location
        self._address = address
        self._ttl_s = ttl_s
        self._clock = clock
        self._ids = ids
        self._beat = 0
        self._state = "serving"
        self._until = float("-inf")
        self._renewed = asyncio.Event()
        self._seen: dict[str, tuple[MemberRow, float]] = {}
        self._looked = float("-inf")
        self.lost: Callable[[], None] = _nothing
        """Called when this member was deposed: every shard is another's."""

    # -- this one

    async def join(self) -> None:
        """Become a member, with a new name.

        Raises:
            Fault: Not known to be one.
        """
        name = f"{self._worker}/{self._ids.octets(4).hex()}"
        began = self._clock.monotonic()
        await self._stand()
        if self._standing is Standing.OUT:
            raise StoreBusy(f"The location {self.location} was given up: it owns nothing until it is brought back.")
        applied, _ = await self._conditional(_JOIN, (name, self.location, self._address, KEPT_S))
        assert applied, "nobody else has this name"
        self.name, self._beat = name, 0
        self._extend(began)

    async def run(self) -> None:
        """Renew and look at the others, until cancelled."""
        while True:
            await self._clock.sleep(self._ttl_s / BEATS * (1.0 if self.holds() else OVER_PAUSE))
            try:
                await self.renew()
                await self.look()
            except Fault:
                continue  # the lease runs out by itself; who waits for it sees that

    async def renew(self) -> None:
        """Renew the lease.

        Raises:
            Fault: Not known to be renewed.
        """
        began = self._clock.monotonic()
        await self._stand()
        if not self.name:
            return
        values = (KEPT_S, self._beat + 1, self._state, self.location, self._address, self.name, self._beat)
        applied, row = await self._conditional(_RENEW, values)
        if applied:
            self._beat += 1
            self._extend(began)
        elif (row.get("beat") or -1) > self._beat:
            self._beat = row["beat"]  # an earlier renewal whose end was not known
            await self.renew()
        else:
            self._begin_anew()

    def next_epoch(self, epoch: int) -> int:
        """The epoch in which this member would take a shard whose last known one this is."""
        if self._locations is None or self._standing is Standing.AGREED:
            return epoch + 1
        return alone_epoch(epoch, place=self._locations.place)

    def is_alone(self) -> bool:
        """Whether another location was given up, so that nobody here knows all that was acknowledged."""
        return self._standing is Standing.ALONE

    def holds(self) -> bool:
        """Whether what was durable before this call may be acknowledged."""
        return self._clock.monotonic() < self._until

    async def confirmed(self) -> None:
        """Return once ``holds``: at once while the lease lasts, after its renewal when it ran out and stayed ours."""
        while not self.holds():
            self._renewed.clear()
            await self._renewed.wait()

    def drain(self) -> None:
        """Say to the others, with the next renewal, that this one gives its shards away."""
        self._state = "draining"

    async def leave(self) -> None:
        """Give the lease back; nothing happens when that cannot be said: it runs out."""
        self._until = float("-inf")
        if not self.name:
            return
        try:
            await self._conditional(_DEPOSE, (KEPT_S, self.name, self._beat))
        except Fault:
            return

    # -- the others

    async def look(self) -> None:
        """Read every member's row.

        While the store answered nobody, nobody could renew: who could not look for a while counts the silence of the
        others anew. Else all would depose each other as soon as it answers.

        Raises:
            Fault: They cannot be read.
        """
        rows = await self._session.execute(_READ, (), timeout_s=self._ttl_s / BEATS)
        at = self._clock.monotonic()
        watched = at - self._looked <= self._ttl_s / BEATS * UNWATCHED
        self._looked = at
        seen: dict[str, tuple[MemberRow, float]] = {}
        for name, beat, *rest in rows:
            if not _NAME.fullmatch(name):
                continue  # no worker wrote it, and none is to stumble over it
            member = MemberRow(name, beat or 0, *(text or "" for text in rest))
            known = self._seen.get(member.name)
            silent = watched and known is not None and known[0].beat == member.beat
            seen[member.name] = (member, known[1] if silent and known is not None else at)
        self._seen = seen

    def members(self) -> Sequence[MemberRow]:
        """All that were seen when looked last, gone ones too."""
        return [member for member, _ in self._seen.values()]

    def alive(self) -> Sequence[MemberRow]:
        """Those that have a lease as far as is known here, this one with them, by name."""
        return sorted(
            (each for each in self.members() if each.beat >= 0 and (each.name == self.name or not self.expired(each))),
            key=_name,
        )

    def expired(self, member: MemberRow) -> bool:
        """Whether it may be deposed: it did not renew for longer than its lease lasts."""
        known = self._seen.get(member.name)
        if known is None or known[0] != member:
            return False
        return member.beat < 0 or self._clock.monotonic() >= known[1] + self._ttl_s * (1.0 + MARGIN)

    async def depose(self, member: MemberRow) -> bool:
        """Take an expired member's lease away for good; False when it was renewed after all.

        Raises:
            Fault: Not known.
        """
        applied, row = await self._conditional(_DEPOSE, (KEPT_S, member.name, member.beat))
        return applied or row.get("beat") in (-1, None)

    # -- inside

    async def _stand(self) -> None:
        """Look where this location stands, and begin anew where that changed: what was agreed upon counts no more.

        Raises:
            Fault: It is not known.
        """
        if self._locations is None:
            return
        standing = await self._locations.look()
        if standing is not self._standing:
            self._standing = standing
            self._begin_anew()

    def _begin_anew(self) -> None:
        self.name, self._until = "", float("-inf")
        self.lost()

    def _extend(self, began: float) -> None:
        self._until = began + self._ttl_s
        self._renewed.set()

    async def _conditional(self, cql: str, values: Sequence[object]) -> tuple[bool, dict[str, Any]]:
        return await self._session.conditional(cql, values, timeout_s=self._ttl_s / BEATS)


def _name(member: MemberRow) -> str:
    return member.name


def _nothing() -> None:
    return
