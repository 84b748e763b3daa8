"""Two locations without a witness: when one is lost the other has no quorum for leases, and a person has to decide.

Leases are agreed upon by a quorum over all locations. With a witness the loss of any location leaves one. Without one
the location that is left cannot tell whether the other is dead or cut off, so it stands still until an operator *gives
the other up*. What that is stands in a row for each location that was ever given up:

``leaving``     nobody owns anything, anywhere: leases of both sides run out (seconds)
``lost``        its successor agrees on leases among its own replicas alone; the lost location owns nothing
``returning``   nobody owns anything, anywhere: what the successor wrote alone is being brought over (seconds)
``here``        as if nothing had been

Why no two own one shard. The row is written at a quorum of the successor's replicas; everybody else reads it at a
quorum of *each* location before each renewal and begins the lease's time before that reading. So a lease that was
renewed without knowing of the row ends within a lease's time of its writing, and the successor begins after that time
and a quarter more. Who cannot read the other location's replicas, because the link is cut, cannot renew either. The
way back is the same: those who own are told to stop, and the others begin when the time is over.

What protects against both locations giving each other up is the operator alone: then both accept and deliver. They
count their epochs in residue classes of their own, so that even then neither writes over what the other wrote, and as
soon as they see each other neither of them owns anything until one of them is brought back, which then goes on alone.
What the other one accepted in between stays where it is, in epochs that are not read.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import BadRequest, Conflict, Fault, NotFound, StoreBusy
from pigeonry.stores.cassandra.session import Consistency

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock
    from pigeonry.stores.cassandra.session import Session

__all__ = ["LOCATION_TABLES", "LocationRow", "Locations", "Operator", "Standing", "alone_epoch", "needs_operator"]

LOCATION_TABLES: Final = ("CREATE TABLE IF NOT EXISTS location(name text PRIMARY KEY, state text, successor text)",)

LOOK_S: Final = 1.5  # seconds for a look: the time between two renewals; what the others do not say by then is unknown
FRESH_S: Final = 2.0  # seconds for which a look is believed: with the time that a statement takes less than a lease
ASK_S: Final = 5.0  # seconds for one of an operator's statements
LEVEL_S: Final = 30.0  # seconds for a page of rows at all replicas
LEVEL_ROWS: Final = 500  # rows of such a page: documents of 64 KB at the most
WAITED: Final = 1.25  # lease times after which every lease is over: ``membership.MARGIN``
EPOCHS: Final = 32
"""How far epochs jump while a location is alone. More than a shard can have moved without the survivors hearing of it:
each move took one of their replicas. Also the classes in which locations count."""

_READ: Final = "SELECT name, state, successor FROM {table}"
_MAKE: Final = "INSERT INTO {table}(name, state, successor) VALUES (?,?,?) IF NOT EXISTS"
_CHANGE: Final = "UPDATE {table} SET state = ?, successor = ? WHERE name = ? IF state = ? AND successor = ?"
_TABLES: Final = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?"


class Standing(enum.Enum):
    """How this location may agree on leases."""

    AGREED = "agreed"  # with all others
    ALONE = "alone"  # among its own replicas: the other location was given up
    OUT = "out"  # not at all: it was given up, or a change is under way


class LocationRow(msgspec.Struct, frozen=True):
    """A location that was given up once.

    Args:
        state: ``leaving``, ``lost``, ``returning`` or ``here``.
        successor: The location that goes on without it.
    """

    name: str
    state: str
    successor: str


def needs_operator(replication: Mapping[str, int], location: str) -> bool:
    """Whether no quorum is left when a location is lost."""
    return replication.get(location, 0) * 2 >= sum(replication.values())


def alone_epoch(epoch: int, *, place: int) -> int:
    """The epoch of a shard that is taken while its taker's location is alone.

    Args:
        epoch: The last one that is known here.
        place: Of the location among all.
    """
    return (epoch // EPOCHS + 2) * EPOCHS + place % EPOCHS


class Locations:
    """What a process knows of where it stands; ``Session.reach`` is to be its ``consistency``.

    Args:
        session: Speaks to the nodes of this location.
        keyspace: Of the leases.
        mine: This location.
        names: All that hold leases.
    """

    def __init__(self, session: Session, *, keyspace: str, mine: str, names: Sequence[str], clock: Clock) -> None:
        self._session = session
        self._read = _READ.format(table=f"{keyspace}.location")
        self._mine = mine
        self._clock = clock
        self._until = float("-inf")
        self._looking = asyncio.Lock()
        self.place = sorted(names).index(mine)
        """This location's place among all."""
        self.standing = Standing.AGREED
        """As it was when looked last."""

    async def look(self) -> Standing:
        """Read where this location stands.

        Raises:
            Fault: It is not known: nothing is denied by silence.
        """
        began = self._clock.monotonic()
        here, everywhere = await asyncio.gather(
            self._rows(Consistency.LOCAL_QUORUM), self._rows(Consistency.EACH_QUORUM), return_exceptions=True
        )
        if not isinstance(everywhere, BaseException):
            standing = _standing(everywhere, self._mine)
        elif isinstance(here, BaseException):
            raise here
        else:
            standing = _standing(here, self._mine)
            if standing is Standing.AGREED:
                raise everywhere
        self.standing, self._until = standing, began + FRESH_S
        return standing

    async def consistency(self, asked: Consistency) -> Consistency:
        """The consistency at which a statement is to be run that asked for this one.

        Raises:
            StoreBusy: This location may agree on nothing just now.
            Fault: It is not known whether it may.
        """
        if asked not in _ALONE:
            return asked
        if self._clock.monotonic() >= self._until:
            async with self._looking:
                if self._clock.monotonic() >= self._until:
                    await self.look()
        if self.standing is Standing.AGREED:
            return asked
        if self.standing is Standing.OUT and asked is Consistency.SERIAL:
            raise StoreBusy(f"The location {self._mine} was given up, or comes back just now.", retry_after_s=5.0)
        return _ALONE[asked]

    async def _rows(self, consistency: Consistency) -> list[LocationRow]:
        rows = await self._session.execute(self._read, (), timeout_s=LOOK_S, consistency=consistency)
        return [LocationRow(name, state, successor) for name, state, successor in rows]


_ALONE: Final = {Consistency.SERIAL: Consistency.LOCAL_SERIAL, Consistency.QUORUM: Consistency.LOCAL_QUORUM}


def _standing(rows: Sequence[LocationRow], mine: str) -> Standing:
    if any(row.state in ("leaving", "returning") or (row.state == "lost" and row.name == mine) for row in rows):
        return Standing.OUT
    return Standing.ALONE if any(row.state == "lost" for row in rows) else Standing.AGREED


class Operator:
    """What an operator does to locations, from the one that is left.

    Args:
        session: Speaks to the nodes of that location; its consistencies are its own.
        keyspace: Of the leases.
        mine: That location.
        replication: Of the leases.
        lease_s: How long a worker's lease lasts.
    """

    def __init__(
        self,
        session: Session,
        *,
        keyspace: str,
        mine: str,
        replication: Mapping[str, int],
        lease_s: float,
        clock: Clock,
    ) -> None:
        self._session = session
        self._keyspace = keyspace
        self._table = f"{keyspace}.location"
        self._mine = mine
        self._replication = replication
        self._lease_s = lease_s
        self._clock = clock

    async def rows(self) -> Sequence[LocationRow]:
        """Those that were ever given up, as is known here."""
        return await self._rows(Consistency.LOCAL_QUORUM)

    async def check(self, lost: str) -> None:
        """See that a location may be given up from here.

        Raises:
            BadRequest: It is none of the others, or its shards move without a person.
            Conflict: It answers, or this location was given up itself.
            StoreBusy: This location does not answer.
        """
        if lost == self._mine or lost not in self._replication:
            others = sorted(set(self._replication) - {self._mine})
            raise BadRequest(f"{lost!r} is no other location of this cluster; there are: {', '.join(others)}.")
        if not needs_operator(self._replication, lost):
            raise BadRequest(f"Without {lost} there is a quorum: its part of the queue moves by itself.")
        rows = await self.rows()
        if any(row.name == self._mine and row.state != "here" for row in rows):
            raise Conflict(f"{self._mine} itself was given up: decide first which of the two goes on.")
        try:
            await self._rows(Consistency.EACH_QUORUM)
        except Fault:
            return
        raise Conflict(f"{lost} answers: it is not lost. Nothing was done.")

    async def give_up(self, lost: str) -> None:
        """Go on without a location; may be repeated when it was interrupted.

        Raises:
            As ``check``.
        """
        await self.check(lost)
        state = await self._state(lost)
        if state == "lost":
            return
        if state != "leaving":
            await self._change(lost, state, "leaving")
        await self._clock.sleep(self._lease_s * WAITED)  # no lease of before lasts longer
        await self._change(lost, "leaving", "lost")

    async def bring_back(self, lost: str) -> None:
        """End the time without a location; may be repeated when it was interrupted.

        Nobody owns anything while it takes.

        Raises:
            NotFound: It was not given up from here.
            StoreBusy: A node of the store does not answer: nothing was changed.
        """
        state = await self._state(lost)
        if state not in ("lost", "returning"):
            raise NotFound(f"{lost} was not given up by {self._mine}.")
        await self._level()  # most of it while this location serves; and every node must be there for it
        if state == "lost":
            await self._change(lost, "lost", "returning", everywhere=True)
        async with self._unless_done(lost):
            await self._clock.sleep(self._lease_s * WAITED)
            await self._level()
            await self._change(lost, "returning", "here", everywhere=True)

    @asynccontextmanager
    async def _unless_done(self, lost: str) -> AsyncIterator[None]:
        """Go on as before when it could not be done."""
        try:
            yield
        except Fault:
            await self._change(lost, "returning", "lost")
            raise

    async def _level(self) -> None:
        """Read each row of the leases' keyspace at all replicas, which mends those that differ.

        Raises:
            StoreBusy: One of them does not answer.
        """
        tables = await self._session.execute(_TABLES, (self._keyspace,), timeout_s=ASK_S, consistency=Consistency.ONE)
        for (table,) in tables:
            pages = self._session.pages(
                f"SELECT * FROM {self._keyspace}.{table}",  # noqa: S608  # names of the schema
                timeout_s=LEVEL_S,
                page_rows=LEVEL_ROWS,
                consistency=Consistency.ALL,
            )
            async for _ in pages:
                pass

    async def _state(self, lost: str) -> str:
        return next((row.state for row in await self.rows() if row.name == lost and row.successor == self._mine), "")

    async def _change(self, lost: str, before: str, after: str, *, everywhere: bool = False) -> None:
        """Change the row, if it still is as it was.

        Raises:
            Conflict: Another operator was faster.
            StoreBusy, StoreInDoubt: Not known to be changed: again.
        """
        cql = _CHANGE if before else _MAKE
        values = (after, self._mine, lost, before, self._mine) if before else (lost, after, self._mine)
        applied, row = await self._session.conditional(
            cql.format(table=self._table),
            values,
            timeout_s=ASK_S,
            consistency=Consistency.EACH_QUORUM if everywhere else Consistency.LOCAL_QUORUM,
            serial=Consistency.LOCAL_SERIAL,
        )
        if not applied and (row.get("state"), row.get("successor")) != (after, self._mine):
            raise Conflict(f"Another operator changes {lost} just now: it is {row.get('state')}.")

    async def _rows(self, consistency: Consistency) -> list[LocationRow]:
        rows = await self._session.execute(
            _READ.format(table=self._table), (), timeout_s=ASK_S, consistency=consistency
        )
        return [LocationRow(name, state, successor) for name, state, successor in rows]
