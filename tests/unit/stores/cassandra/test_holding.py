"""Shards that cannot be read, and whom that concerns."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.ports.queue_store import RecoveryReport
from pigeonry.stores.cassandra import holding
from pigeonry.stores.cassandra.checkpoints import ShardUnreadable
from pigeonry.stores.cassandra.holding import UNREADABLE_S_MAX, Holding
from pigeonry.stores.cassandra.journal import Buckets
from pigeonry.stores.cassandra.limits import Limits
from pigeonry.stores.cassandra.membership import MemberRow
from pigeonry.stores.cassandra.served import Served
from pigeonry.stores.cassandra.session import Consistency
from pigeonry.stores.cassandra.shard import Shard
from pigeonry.stores.cassandra.shares import Shares
from pigeonry.stores.cassandra.takeover import Takeover
from support.day_files import SetClock


class Rows:
    """The table of shards, as far as its statements are those of ``shares``."""

    def __init__(self, *shards: tuple[str, str]) -> None:
        self.rows = {
            number: {"owner": owner, "epoch": 1, "serving": True, "location": location}
            for number, (owner, location) in enumerate(shards)
        }

    async def execute(self, _cql: str, _values: object, **_: Any) -> list[tuple[Any, ...]]:
        return [(number, *row.values()) for number, row in self.rows.items()]

    async def conditional(self, cql: str, values: tuple[Any, ...], **_: Any) -> tuple[bool, dict[str, Any]]:
        changes = re.match(r"UPDATE shard SET (.*?) WHERE number = ", cql)
        assert changes
        given = list(values)
        row = self.rows[given[-3]]
        if (row["epoch"], row["owner"]) != tuple(given[-2:]):
            return False, {}
        for change in changes[1].split(", "):
            column, _, value = change.partition(" = ")
            row[column] = given.pop(0) if value == "?" else {"true": True, "false": False, "''": ""}[value]
        return True, {}


class Me:
    """The only member that is alive."""

    def __init__(self) -> None:
        self.name = "me/0/x"
        self.location = "here"
        self.lost: Any = None

    async def look(self) -> None:
        pass

    def alive(self) -> list[MemberRow]:
        return [MemberRow(self.name, 1, "serving", self.location, "")]

    members = alive

    @staticmethod
    def is_alone() -> bool:
        return False

    @staticmethod
    def next_epoch(epoch: int) -> int:
        return epoch + 1


class Held:
    """What a worker holds, and what happens when it reads a shard."""

    def __init__(self, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = SetClock()
        self.served: dict[int, Served] = {}
        self.errors: dict[int, Exception] = {}
        self.tried: list[tuple[int, Consistency]] = []
        at: Any = SimpleNamespace(read_at=lambda reads: reads)
        me: Any = Me()
        monkeypatch.setattr(holding, "take_over", self.take_over)
        self.holding = Holding(
            self.served,
            membership=me,
            shares=Shares(cast("Any", rows), me, timeout_s=1.0),
            checkpoints=at,
            journal=at,
            messages=at,
            records=at,
            behind=at,
            writer=at,
            clock=cast("Any", self.clock),
            limits=Limits(),
            taken=None,
        )

    async def take_over(self, number: int, *, epoch: int, journal: Consistency, **_: Any) -> Takeover:
        self.tried.append((number, journal))
        if number in self.errors:
            raise self.errors[number]
        report = RecoveryReport(number, 0, 0, ())
        return Takeover(Shard(number, epoch=epoch), Buckets([]), report, [], [], [], 0)

    async def round(self) -> list[int]:
        """The shards that were tried in a round."""
        self.tried.clear()
        await self.holding._round(lambda _: None)  # what ``run`` does again and again
        return [number for number, _ in self.tried]


@pytest.mark.parametrize(
    "error", [msgspec.DecodeError("no entry"), KeyError(7), ShardUnreadable("A part is missing.")], ids=repr
)
async def test_a_shard_whose_rows_make_no_sense_stops_neither_its_worker_nor_the_others(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(("", ""), ("", ""), ("", ""))
    held = Held(rows, monkeypatch)
    held.errors[1] = error
    assert await held.round() == [0, 1, 2]
    assert sorted(held.served) == [0, 2]
    assert rows.rows[1]["owner"] == ""  # another may try
    assert await held.round() == []
    for _ in range(20):  # not each round: a try is an epoch that later owners have to look at
        held.clock.time += UNREADABLE_S_MAX
        assert await held.round() == [1]
        held.clock.time += UNREADABLE_S_MAX / 2
    assert await held.round() == []
    held.errors.clear()
    held.clock.time += UNREADABLE_S_MAX
    assert await held.round() == [1]
    assert sorted(held.served) == [0, 1, 2]


async def test_who_could_not_read_a_shard_asks_its_last_location_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what that location had not brought over yet would be taken for never written."""
    held = Held(Rows(("gone/0/x", "there")), monkeypatch)
    held.errors[0] = StoreBusy("It does not answer.")
    for _ in range(2):
        with pytest.raises(StoreBusy):
            await held.round()
        assert held.tried == [(0, Consistency.EACH_QUORUM), (0, Consistency.LOCAL_QUORUM)]
    held.errors.clear()
    await held.round()
    assert held.tried == [(0, Consistency.EACH_QUORUM)]
    assert sorted(held.served) == [0]
