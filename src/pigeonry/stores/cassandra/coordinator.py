"""Leases over all nodes, by lightweight transactions.

A lease is a row; who changes it says in the same statement what it believes the row to be. Each time it is taken or
renewed it gets another *beat*, a number nobody guesses, so that a statement whose outcome was not heard is recognised
when the row is read again.

**When a lease is over** is measured, never calculated: an observer counts from when it first saw a beat until it has
seen the same one for the lease's life, on its own monotonic clock, and a fifth longer, since two clocks may run at
different rates. Only on the machine whose owner took the lease is there a clock that both have: the row says at which
time of which machine's clock (a boot has its own) the lease ends, and who is there may take it at that moment. Wall
clocks decide nothing. What it costs: after a machine's death its leases are free only when somebody has looked at them
for their life.

An epoch is never under the wall clock in milliseconds of who takes the lease: rows expire by themselves an hour after
the lease did, and what is leased anew then still has a higher epoch, if clocks are less than that apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.ports.coordinator import Lease
from pigeonry.ports.quota import MARGIN
from pigeonry.stores.cassandra.session import Consistency

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.stores.cassandra.session import Session

__all__ = ["COORDINATOR_TABLES", "CassandraCoordinator"]

TIMEOUT_S: Final = 3.0  # seconds for one statement; as a frozen replica that is not needed is passed over in 0.2 s
KEPT_S: Final = 3_600  # seconds that a row outlives its lease, for its epoch
TRIES: Final = 3  # when another changed the row at the same moment; the third of them is content to hear of it
SEEN_MAX: Final = 10_000  # leases of others remembered at once, 200 octets each; then those are forgotten

COORDINATOR_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS coordinator_lease (
    name text PRIMARY KEY, owner text, epoch bigint, beat bigint, life double, machine text, ends double)""",
)


class _Row(msgspec.Struct, frozen=True):
    """A lease as it is stored.

    Args:
        owner: Empty when it was given back.
        life: Seconds that it was taken for.
        machine, ends: Which monotonic clock says that it is over, and when.
    """

    owner: str
    epoch: int
    beat: int
    life: float
    machine: str
    ends: float


class CassandraCoordinator:
    """See ``ports.coordinator.Coordinator`` for the contract.

    Args:
        session: Connections to the nodes.
        keyspace: Of the leases.
        machine: What only processes have in common whose monotonic clocks are one: the boot's id.
    """

    def __init__(self, session: Session, *, keyspace: str, machine: str, clock: Clock, ids: IdSource) -> None:
        self._session = session
        self._machine = machine
        self._clock = clock
        self._ids = ids
        self._seen: dict[str, tuple[int, float]] = {}  # of leases of other machines: their beat, and since when
        table = f"{keyspace}.coordinator_lease"
        self._read = f"SELECT owner, epoch, beat, life, machine, ends FROM {table} WHERE name = ?"  # noqa: S608
        self._insert = (
            f"INSERT INTO {table} (owner, epoch, beat, life, machine, ends, name) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS USING TTL ?"
        )
        self._update = (
            f"UPDATE {table} USING TTL ? SET owner = ?, epoch = ?, beat = ?, life = ?, machine = ?, ends = ? "  # noqa: S608
            "WHERE name = ? IF beat = ?"
        )

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, ended: Callable[[str], Awaitable[bool]] | None = None
    ) -> Lease | None:
        """Take a lease that is free or over; None when it is held by another."""
        for _ in range(TRIES):
            looked, row = self._clock.monotonic(), await self._row(name)
            held = row is not None and row.owner != "" and not self._over(name, row, looked)
            if row is not None and held and row.owner != owner:
                if ended is None or not await ended(row.owner):
                    return None
                held = False
            epoch = row.epoch if row is not None and held else self._epoch(row)
            if await self._change(name, row, self._taken(owner, epoch, ttl_s)):
                return Lease(name, owner, epoch, self._clock.now() + ttl_s)
        return None

    async def renew(self, lease: Lease, *, ttl_s: float) -> Lease | None:
        """Extend a lease; None when it is another's by now, or was released."""
        for _ in range(TRIES):
            row = await self._row(lease.name)
            if row is None or (row.owner, row.epoch) != (lease.owner, lease.epoch):
                return None
            if await self._change(lease.name, row, self._taken(lease.owner, lease.epoch, ttl_s)):
                return Lease(lease.name, lease.owner, lease.epoch, self._clock.now() + ttl_s)
        return None

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        row = await self._row(lease.name)
        if row is not None and (row.owner, row.epoch) == (lease.owner, lease.epoch):
            await self._change(lease.name, row, self._taken("", lease.epoch, 0.0))

    def _taken(self, owner: str, epoch: int, ttl_s: float) -> _Row:
        beat = int.from_bytes(self._ids.octets(8), signed=True)
        return _Row(owner, epoch, beat, ttl_s, self._machine, self._clock.monotonic() + ttl_s)

    def _epoch(self, row: _Row | None) -> int:
        return max(int(self._clock.now() * 1000), 0 if row is None else row.epoch + 1)

    def _over(self, name: str, row: _Row, looked: float) -> bool:
        """Whether a lease is over, as far as this process can know.

        Args:
            looked: Monotonic time before the row was read.
        """
        now = self._clock.monotonic()
        if row.machine == self._machine:
            return looked >= row.ends
        seen = self._seen.get(name)
        if seen is None or seen[0] != row.beat:
            if len(self._seen) >= SEEN_MAX:
                self._seen.clear()
            self._seen[name] = (row.beat, now)
            return False
        return looked > seen[1] + row.life * MARGIN

    async def _row(self, name: str) -> _Row | None:
        rows = await self._session.execute(
            self._read, (name,), timeout_s=TIMEOUT_S, consistency=Consistency.SERIAL, idempotent=True
        )
        return _Row(*rows[0]) if rows else None

    async def _change(self, name: str, row: _Row | None, to: _Row) -> bool:
        """Put a row in the place of what was read; False when that is no longer there."""
        values = msgspec.structs.astuple(to)
        life = int(to.life) + KEPT_S
        try:
            if row is None:
                return await self._applied(self._insert, (*values, name, life))
            return await self._applied(self._update, (life, *values, name, row.beat))
        except StoreInDoubt as doubt:
            try:
                now = await self._row(name)  # agreed upon: what was not applied by then never will be
            except StoreBusy:
                raise doubt from None
            return now is not None and now.beat == to.beat

    async def _applied(self, cql: str, values: tuple[object, ...]) -> bool:
        applied, _ = await self._session.conditional(
            cql, values, timeout_s=TIMEOUT_S, consistency=Consistency.QUORUM, serial=Consistency.SERIAL
        )
        return applied
