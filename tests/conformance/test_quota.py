"""Every store of shares is held to ``ports.quota.Quota``, with two instances as two workers have them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemIds
from pigeonry.net.lanes import ThreadLanes
from pigeonry.ports.quota import FORGOTTEN_S, MARGIN, TTL_S, Ask, Grant, Quota
from pigeonry.stores.cassandra.quota import CassandraQuota
from pigeonry.stores.cassandra.session import Session
from pigeonry.stores.memory.quota import MemoryQuota, Table
from pigeonry.stores.sqlite.quota import SqliteQuota
from pigeonry.testing.cassandra import Cluster
from support.cassandra_leases import LEASE_KEYSPACE, lease_sessions
from support.tenancy import HandClock

Two = tuple[Quota, Quota]
OVER_S = TTL_S * MARGIN + 0.1  # after which others know that a session is over


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "sqlite", "cassandra"])
def engine(request: pytest.FixtureRequest) -> str | Cluster:
    """Which store; for Cassandra its node, which starts where no loop runs."""
    return request.getfixturevalue("cassandra") if request.param == "cassandra" else request.param


@pytest.fixture
async def two(engine: str | Cluster, tmp_path: Path, clock: HandClock) -> AsyncIterator[Two]:
    if not isinstance(engine, str):
        async with lease_sessions(engine, 2) as sessions:
            prefix = uuid4().hex
            yield tuple(Named(cassandra(session, clock), prefix) for session in sessions)
        return
    if engine == "memory":
        table = Table()
        yield MemoryQuota(clock, table), MemoryQuota(clock, table)
        return
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    both = [sqlite(tmp_path, lane, clock) for lane in lanes]
    yield both[0], both[1]
    for one, lane in zip(both, lanes, strict=True):
        await one.close()
        lane.close()


class Named:
    """A store of shares with limits and sessions of one test's own."""

    def __init__(self, quota: Quota, prefix: str) -> None:
        self._quota = quota
        self._prefix = prefix

    async def join(self, session: str) -> None:
        await self._quota.join(self._prefix + session)

    async def attend(self, session: str) -> Collection[str]:
        return [name.removeprefix(self._prefix) for name in await self._quota.attend(self._prefix + session)]

    async def negotiate(self, session: str, asks: Sequence[Ask], *, former: Collection[str] = ()) -> Sequence[Grant]:
        meant = [msgspec.structs.replace(ask, name=self._prefix + ask.name) for ask in asks]
        former = [self._prefix + one for one in former]
        grants = await self._quota.negotiate(self._prefix + session, meant, former=former)
        return [msgspec.structs.replace(grant, name=grant.name.removeprefix(self._prefix)) for grant in grants]

    async def leave(self, session: str) -> None:
        await self._quota.leave(self._prefix + session)


def cassandra(session: Session, clock: HandClock) -> CassandraQuota:
    return CassandraQuota(session, keyspace=LEASE_KEYSPACE, clock=clock, ids=SystemIds())


def sqlite(folder: Path, lane, clock: HandClock, **options) -> SqliteQuota:
    return SqliteQuota(str(folder / "quota.db"), disk=LocalDisk(str(folder)), lane=lane, clock=clock, **options)


async def ask(quota: Quota, session: str, *, keep: int = 0, want: int, limit: int = 10, **more) -> Grant:
    former = more.pop("former", ())
    (grant,) = await quota.negotiate(session, [Ask("x", limit, keep, want, **more)], former=former)
    return grant


async def test_who_is_alone_gets_what_it_wants_up_to_the_limit(two: Two):
    await two[0].join("a")
    assert (await ask(two[0], "a", want=4)).units == 4
    assert (await ask(two[0], "a", keep=4, want=30)).units == 10


async def test_what_is_taken_is_given_to_another_when_its_holder_says_that_it_keeps_less(two: Two):
    await two[0].join("a")
    await two[1].join("b")
    await ask(two[0], "a", want=10)
    grant = await ask(two[1], "b", want=10)
    assert (grant.units, grant.target) == (0, 5)
    grant = await ask(two[0], "a", keep=10, want=10)
    assert (grant.units, grant.target) == (10, 5)
    assert (await ask(two[0], "a", keep=5, want=10)).units == 5
    assert (await ask(two[1], "b", want=10)).units == 5


async def test_holders_are_called_when_another_waits_and_those_who_wait_when_units_are_free(two: Two):
    await two[0].join("a")
    await two[1].join("b")
    await ask(two[0], "a", want=10)
    assert list(await two[0].attend("a")) == []
    await ask(two[1], "b", want=3)
    assert list(await two[0].attend("a")) == ["x"]
    assert list(await two[0].attend("a")) == []
    await ask(two[0], "a", keep=7, want=10)
    assert list(await two[1].attend("b")) == ["x"]


async def test_shares_follow_the_weights(two: Two):
    await two[0].join("a")
    await two[1].join("b")
    await ask(two[0], "a", want=10, weight=4.0)
    await ask(two[1], "b", want=10, weight=1.0)
    assert (await ask(two[0], "a", keep=10, want=10, weight=4.0)).target == 8


async def test_limits_do_not_touch_each_other_and_are_asked_for_together(two: Two):
    await two[0].join("a")
    grants = await two[0].negotiate("a", [Ask("x", 10, 0, 10), Ask("y", 3, 0, 10)])
    assert [(grant.name, grant.units) for grant in grants] == [("x", 10), ("y", 3)]


async def test_while_members_differ_about_a_limit_the_lowest_counts(two: Two):
    await two[0].join("a")
    await two[1].join("b")
    await ask(two[0], "a", want=2, limit=5)
    assert (await ask(two[1], "b", want=10, limit=10)).units == 3


async def test_what_is_claimed_to_be_kept_is_not_believed_beyond_what_was_granted(two: Two):
    await two[0].join("a")
    await two[1].join("b")
    await ask(two[0], "a", want=10)
    assert (await ask(two[1], "b", keep=10, want=10)).units == 0


async def test_session_that_is_over_leaves_all_but_its_safe_share(two: Two, clock: HandClock):
    await two[0].join("a")
    await two[1].join("b")
    held = await ask(two[0], "a", want=10)
    assert (held.units, held.safe) == (10, 5)
    assert (await ask(two[1], "b", want=10)).units == 0
    clock.at += OVER_S
    await two[1].attend("b")
    assert (await ask(two[1], "b", want=10)).units == 5


async def test_session_that_attends_is_not_over(two: Two, clock: HandClock):
    await two[0].join("a")
    await two[1].join("b")
    await ask(two[0], "a", want=10)
    await ask(two[1], "b", want=10)
    for _ in range(10):
        clock.at += OVER_S
        await two[0].attend("a")
        assert (await ask(two[1], "b", want=10)).units == 0


async def test_limit_of_one_leaves_no_safe_share(two: Two, clock: HandClock):
    await two[0].join("a")
    await two[1].join("b")
    assert (await ask(two[0], "a", want=1, limit=1)).safe == 0
    assert (await ask(two[1], "b", want=1, limit=1)).units == 0
    clock.at += OVER_S
    assert (await ask(two[1], "b", want=1, limit=1)).units == 1


async def test_safe_share_that_is_relied_on_stays_until_its_session_says_otherwise(two: Two, clock: HandClock):
    """An answer that got lost must not leave a member with more than the others leave it."""
    await two[0].join("a")
    await two[1].join("b")
    assert (await ask(two[0], "a", want=10)).safe == 5
    await ask(two[1], "b", want=10)
    assert (await ask(two[0], "a", keep=5, want=10, safe=5)).safe == 3
    clock.at += OVER_S
    await two[1].attend("b")
    assert (await ask(two[1], "b", want=10)).units == 5
    assert (await ask(two[0], "a2", keep=5, want=10, safe=3, former=["a"])).units == 5


async def test_new_session_of_a_member_takes_over_what_its_former_one_had(two: Two, clock: HandClock):
    await two[0].join("a")
    await ask(two[0], "a", want=8)
    await two[0].join("a2")
    grant = await ask(two[0], "a2", keep=8, want=8, former=["a"])
    assert grant.units == 8
    await two[0].leave("a")
    await two[1].join("b")
    assert (await ask(two[1], "b", want=10)).units == 2


async def test_session_that_is_long_gone_has_no_safe_share_any_more(two: Two, clock: HandClock):
    await two[0].join("a")
    await two[1].join("b")
    await ask(two[0], "a", want=10)
    await ask(two[1], "b", want=10)
    clock.at += FORGOTTEN_S * MARGIN + 1
    assert (await ask(two[1], "b", want=10)).units == 10


async def test_who_keeps_and_wants_nothing_or_leaves_has_given_back(two: Two):
    await two[0].join("a")
    await two[1].join("b")
    await ask(two[0], "a", want=6)
    await ask(two[0], "a", keep=0, want=0)
    assert (await ask(two[1], "b", want=10)).units == 10
    await two[1].leave("b")
    assert (await ask(two[0], "a", want=10)).units == 10


async def test_fewer_units_than_members_go_round(two: Two):
    by = {"a": two[0], "b": two[1], "c": two[1]}
    for session, quota in by.items():
        await quota.join(session)
    held = await ask(two[0], "a", want=1, limit=1)
    assert not held.turns
    for session in ("b", "c"):
        assert (await ask(two[1], session, want=1, limit=1)).target == 0
    served = ["a"]
    for _ in range(5):
        holder = served[-1]
        assert list(await by[holder].attend(holder)) == ["x"]
        assert (await ask(by[holder], holder, keep=1, want=1, limit=1)).turns
        assert (await ask(by[holder], holder, keep=1, want=1, limit=1, yields=True)).target == 0
        assert (await ask(by[holder], holder, keep=0, want=1, limit=1)).units == 0
        served += [one for one, quota in by.items() if (await ask(quota, one, want=1, limit=1)).units]
    assert "".join(served) == "abcabc"


async def test_sqlite_share_of_a_process_that_is_gone_is_free_at_once(tmp_path: Path, clock: HandClock):
    lanes = [ThreadLanes().lane(name) for name in ("one", "two", "three")]
    killed, other, third = (sqlite(tmp_path, lane, clock) for lane in lanes)
    await killed.join("a")
    await ask(killed, "a", want=10)
    await other.join("b")
    assert (await ask(other, "b", want=10)).units == 0
    await killed.close()
    assert (await ask(other, "b", want=10)).units == 10
    await other.close()
    await third.join("c")  # clears away what is left of both
    assert await third._file.read(lambda connection: connection.execute("SELECT count(*) FROM pot").get) == 0
    assert [path.name for path in (tmp_path / "quota.db.sessions").iterdir()] == ["c"]
    await third.close()
    for lane in lanes:
        lane.close()


async def test_sqlite_store_that_stays_locked_is_busy_and_grants_nothing(tmp_path: Path, clock: HandClock):
    lanes = [ThreadLanes().lane(name) for name in ("one", "two")]
    quota, locker = sqlite(tmp_path, lanes[0], clock, timeout_s=0.05), sqlite(tmp_path, lanes[1], clock)
    await quota.join("a")
    connection = await locker._file.read(lambda connection: connection)
    await lanes[1].run(lambda: connection.execute("BEGIN IMMEDIATE"))
    with pytest.raises(StoreBusy):
        await ask(quota, "a", want=1)
    with pytest.raises(StoreBusy):
        await quota.join("b")
    await lanes[1].run(lambda: connection.execute("ROLLBACK"))
    assert [path.name for path in (tmp_path / "quota.db.sessions").iterdir()] == ["a"]
    assert (await ask(quota, "a", want=10)).units == 10
    for one, lane in zip((quota, locker), lanes, strict=True):
        await one.close()
        lane.close()
