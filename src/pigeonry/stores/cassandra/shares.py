"""Which shards a worker has: each its fair share, all of the dead, none of the living.

A shard's row names its owner and its epoch; every change of it is a lightweight transaction that holds only if the row
is as it was read. A new owner raises the epoch. Whose member row is gone owns nothing.

With several locations each shard has a *home*, by its number. The members there share it out among themselves; while
there is none that serves, all members elsewhere do.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.stores.cassandra.session import Consistency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pigeonry.stores.cassandra.membership import MemberRow, Membership
    from pigeonry.stores.cassandra.session import Session

__all__ = ["ShardRow", "Shares"]

_READ: Final = "SELECT number, owner, epoch, serving, location FROM shard"
_AGREED: Final = f"{_READ} WHERE number = ?"
_MAKE: Final = "INSERT INTO shard(number, owner, epoch, serving) VALUES (?,'',0,false) IF NOT EXISTS"
_FIX: Final = "INSERT INTO shard(number, owner, epoch, serving) VALUES (?,'',?,false) IF NOT EXISTS"
_COUNT: Final = -1  # the number of the row whose epoch says how many shards there are
_TAKE: Final = """UPDATE shard SET owner = ?, epoch = ?, serving = false WHERE number = ?
    IF epoch = ? AND owner = ?"""
_SERVE: Final = "UPDATE shard SET serving = true, location = ? WHERE number = ? IF epoch = ? AND owner = ?"
_RELEASE: Final = "UPDATE shard SET owner = '' WHERE number = ? IF epoch = ? AND owner = ?"


class ShardRow(msgspec.Struct, frozen=True):
    """Who owns a shard.

    Args:
        owner: A member's name; empty when nobody does.
        epoch: Of its owner, or of its last one; 0 when there never was one.
        serving: Whether its owner has read it.
        location: Of who served it last: where what he wrote is level first. Who took it and could not read it wrote
            nothing, and whoever tries next must ask there too.
    """

    number: int
    owner: str
    epoch: int
    serving: bool
    location: str = ""


class Shares:
    """Reads and changes the rows.

    Args:
        session: Speaks to the lease keyspace.
        homes: The locations that shards belong to; none when it makes no difference.
        timeout_s: For one request.
    """

    def __init__(
        self, session: Session, membership: Membership, *, timeout_s: float, homes: Sequence[str] = ()
    ) -> None:
        self._homes = sorted(homes)
        self._session = session
        self._membership = membership
        self._timeout_s = timeout_s

    async def make(self, count: int) -> int:
        """Make the rows when there are none; how many there are. Their number is fixed by whoever came first.

        Raises:
            Fault: Some may be missing: again.
        """
        values = (_COUNT, count)
        made, row = await self._session.conditional(_FIX, values, timeout_s=self._timeout_s)
        fixed: int = count if made else row["epoch"]
        there = {row.number for row in await self.read()}
        for number in range(fixed):
            if number not in there:
                await self._session.conditional(_MAKE, (number,), timeout_s=self._timeout_s)
        return fixed

    async def read(self) -> Sequence[ShardRow]:
        """All of them, by number."""
        rows = await self._session.execute(_READ, (), timeout_s=self._timeout_s)
        return sorted(
            (
                ShardRow(number, owner or "", epoch, bool(on), location or "")
                for number, owner, epoch, on, location in rows
                if number != _COUNT
            ),
            key=_number,
        )

    async def agreed(self, number: int) -> ShardRow | None:
        """One of them, as all locations agree that it is; None when there is none."""
        rows = await self._session.execute(
            _AGREED, (number,), timeout_s=self._timeout_s, consistency=Consistency.SERIAL
        )
        return next((ShardRow(n, owner or "", epoch, bool(on), at or "") for n, owner, epoch, on, at in rows), None)

    async def take(self, row: ShardRow) -> int | None:
        """Own a shard that is free, in a new epoch; None when another was faster."""
        member, epoch = self._membership, self._membership.next_epoch(row.epoch)
        if not member.name:
            return None
        values = (member.name, epoch, row.number, row.epoch, row.owner)
        applied, _ = await self._session.conditional(_TAKE, values, timeout_s=self._timeout_s)
        return epoch if applied else None

    async def serve(self, number: int, *, epoch: int) -> bool:
        """Say that the shard is read and served; False when it is another's by now."""
        member = self._membership
        if not member.name:
            return False
        values = (member.location, number, epoch, member.name)
        applied, _ = await self._session.conditional(_SERVE, values, timeout_s=self._timeout_s)
        return applied

    async def release(self, number: int, *, epoch: int) -> None:
        """Give a shard back."""
        await self._session.conditional(_RELEASE, (number, epoch, self._membership.name), timeout_s=self._timeout_s)

    def free(self, rows: Sequence[ShardRow]) -> list[ShardRow]:
        """Those that nobody owns who is alive; their owners are gone, or may be deposed."""
        living = {each.name for each in self._membership.alive()}
        return [row for row in rows if row.owner not in living]

    def home(self, number: int) -> str:
        """The location that a shard belongs to."""
        return self._homes[number % len(self._homes)] if self._homes else ""

    def wanted(self, rows: Sequence[ShardRow]) -> Mapping[str, int]:
        """How many shards of each home are this worker's: divided evenly, the first by name taking what is left."""
        serving = [each for each in self._membership.alive() if each.state == "serving"]
        wanted: dict[str, int] = {}
        for home, count in Counter(self.home(row.number) for row in rows).items():
            there = [each.name for each in serving if not home or each.location == home]
            among = there or [each.name for each in serving]
            wanted[home] = 0
            if self._membership.name in among:
                least, more = divmod(count, len(among))
                wanted[home] = least + (among.index(self._membership.name) < more)
        return wanted

    def owner(self, row: ShardRow) -> MemberRow | None:
        """The owner's row, as it was seen when looked last."""
        return next((each for each in self._membership.members() if each.name == row.owner), None)


def _number(row: ShardRow) -> int:
    return row.number
