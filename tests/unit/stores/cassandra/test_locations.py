"""A location that is given up without a witness owns nothing, whenever the link to it comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import product
from typing import Any

import pytest

from pigeonry.domain.errors import BadRequest, Conflict, NotFound, StoreBusy
from pigeonry.stores.cassandra.locations import EPOCHS, Locations, Operator, Standing, alone_epoch
from pigeonry.stores.cassandra.membership import Membership
from pigeonry.stores.cassandra.session import Consistency
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededDice, SeededIds
from pigeonry.testing.loop import VirtualLoop

LEASE_S = 6.0
REPLICATION = {"dc1": 3, "dc2": 3}
Rows = dict[str, dict[str, Any]]


class Link:
    """Two locations and what their replicas have. A quorum of both may be one location and a laggard of the other."""

    def __init__(self) -> None:
        self.up = True
        self.thin = False
        """One replica of the other location answers: enough for a quorum over both, not for one of each."""
        self.tables: dict[str, dict[str, Rows]] = {place: {"location": {}, "member": {}} for place in REPLICATION}
        self.levelled = 0
        self.nodes_up = True


class Replicas:
    """As much of a session as is used, in one location."""

    def __init__(self, link: Link, mine: str) -> None:
        self._link = link
        self._mine = mine
        self.reach = None

    async def execute(
        self, cql: str, values: Sequence[Any], *, timeout_s: float, consistency: Any = Consistency.LOCAL_QUORUM
    ) -> list[tuple[Any, ...]]:
        if "system_schema" in cql:
            return [("member",)]
        table = "location" if "location FROM" not in cql and ".location" in cql else "member"
        rows = dict(self._link.tables[self._mine][table])
        if consistency is Consistency.EACH_QUORUM:
            self._needs_link(quorum=True)
            for other in self._link.tables.values():
                rows |= {key: row for key, row in other[table].items() if row["at"] > rows.get(key, {"at": -1})["at"]}
        return [tuple(value for name, value in row.items() if name != "at") for row in rows.values()]

    async def pages(self, cql: str, *_: Any, **__: Any) -> AsyncIterator[Any]:
        if not self._link.nodes_up:
            raise StoreBusy("A node is down.")
        self._link.levelled += 1
        for table in ("location", "member"):
            both: Rows = {}
            for other in self._link.tables.values():
                both |= {k: row for k, row in other[table].items() if row["at"] > both.get(k, {"at": -1})["at"]}
            for other in self._link.tables.values():
                other[table] = dict(both)
        yield []

    async def conditional(
        self, cql: str, values: Sequence[Any], *, timeout_s: float, consistency: Any = None, serial: Any = None
    ) -> tuple[bool, dict[str, Any]]:
        wide = serial is None
        if wide and self.reach is not None:
            wide = await self.reach(Consistency.SERIAL) is Consistency.SERIAL
        places = [self._mine]
        if wide or consistency is Consistency.EACH_QUORUM:
            self._needs_link(quorum=consistency is Consistency.EACH_QUORUM)
            places = list(self._link.tables) if consistency is Consistency.EACH_QUORUM else places
        table = "location" if ".location" in cql else "member"
        rows, at = self._link.tables[self._mine][table], asyncio.get_running_loop().time()
        if table == "location":
            key, row, before = _location(cql, values, at)
        else:
            key, row, before = _member(cql, values, at, rows)
        now = rows.get(key)
        applied = now is None if before is None else now is not None and all(now[k] == v for k, v in before.items())
        if applied:
            for place in places:
                self._link.tables[place][table][key] = row
        return applied, {} if now is None else dict(now)

    def _needs_link(self, *, quorum: bool) -> None:
        if not self._link.up or (quorum and self._link.thin):
            raise StoreBusy("The other location does not answer.")


def _location(cql: str, values: Sequence[Any], at: float) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    if cql.startswith("INSERT"):
        name, state, successor = values
        return name, {"name": name, "state": state, "successor": successor, "at": at}, None
    state, successor, name, old, before = values
    row = {"name": name, "state": state, "successor": successor, "at": at}
    return name, row, {"state": old, "successor": before}


def _member(
    cql: str, values: Sequence[Any], at: float, rows: Rows
) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    if cql.startswith("INSERT"):
        name, location, address, _ = values
        beat, state, before = 0, "serving", None
    elif "'gone'" in cql:
        _, name, old = values
        beat, state, before = -1, "gone", {"beat": old}
        location, address = rows[name]["location"], rows[name]["address"]
    else:
        _, beat, state, location, address, name, old = values
        before = {"beat": old}
    return (
        name,
        {"name": name, "beat": beat, "state": state, "location": location, "address": address, "at": at},
        before,
    )


class Worker:
    """The one member of a location, which joins again when it has no name."""

    def __init__(self, link: Link, mine: str, clock: VirtualClock) -> None:
        session: Any = Replicas(link, mine)
        self.locations = Locations(session, keyspace="l", mine=mine, names=tuple(REPLICATION), clock=clock)
        session.reach = self.locations.consistency
        self.member = Membership(
            session,
            worker=f"{mine}/0",
            location=mine,
            address="",
            ttl_s=LEASE_S,
            clock=clock,
            ids=SeededIds(mine),
            locations=self.locations,
        )
        self.lost = 0
        self.member.lost = self._lost
        self._clock = clock

    def _lost(self) -> None:
        self.lost += 1

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.member.run())
            while True:
                await self._clock.sleep(1.0)
                if not self.member.name:
                    try:
                        await self.member.join()
                    except StoreBusy:
                        continue


def operator(link: Link, mine: str, clock: VirtualClock, replication: dict[str, int] = REPLICATION) -> Operator:
    session: Any = Replicas(link, mine)
    return Operator(session, keyspace="l", mine=mine, replication=replication, lease_s=LEASE_S, clock=clock)


@pytest.mark.parametrize("seed", range(20))
def test_two_locations_never_hold_leases_without_knowing_of_each_other(seed: int) -> None:
    loop = VirtualLoop()

    async def story() -> None:
        clock, link, dice = VirtualClock(loop), Link(), SeededDice(seed)
        here, there = Worker(link, "dc1", clock), Worker(link, "dc2", clock)
        running = [asyncio.ensure_future(worker.run()) for worker in (here, there)]
        await clock.sleep(5.0)
        assert here.member.holds()
        assert there.member.holds()
        link.up = False
        giving_up = asyncio.ensure_future(operator(link, "dc2", clock).give_up("dc1"))
        alone = False
        for _ in range(600):
            await clock.sleep(0.1)
            if dice.random() < 0.03:
                link.up = not link.up
                link.thin = dice.random() < 0.5
            if there.member.is_alone() and there.member.holds():
                alone = True
                assert not here.member.holds()
        assert alone
        assert here.lost
        await giving_up
        link.up, link.thin = True, False
        await clock.sleep(5.0)
        assert here.locations.standing is Standing.OUT
        with pytest.raises(StoreBusy, match="was given up"):
            await here.member.join()
        await operator(link, "dc2", clock).bring_back("dc1")
        await clock.sleep(5.0)
        assert here.member.holds()
        assert there.member.holds()
        assert not there.member.is_alone()
        for task in running:
            task.cancel()

    loop.play(story())


def test_who_gave_each_other_up_own_nothing_once_they_see_it() -> None:
    loop = VirtualLoop()

    async def story() -> None:
        clock, link = VirtualClock(loop), Link()
        workers = [Worker(link, place, clock) for place in REPLICATION]
        running = [asyncio.ensure_future(worker.run()) for worker in workers]
        await clock.sleep(5.0)
        link.up = False
        await operator(link, "dc2", clock).give_up("dc1")
        await operator(link, "dc1", clock).give_up("dc2")
        await clock.sleep(5.0)
        assert all(worker.member.holds() for worker in workers), "nobody can prevent it"
        link.up = True
        await clock.sleep(LEASE_S)
        assert not any(worker.member.holds() for worker in workers)
        for first, second in (("dc1", "dc2"), ("dc2", "dc1")):  # who is brought back first goes on alone
            await operator(link, first, clock).bring_back(second)
            await clock.sleep(5.0)
            assert [worker.member.holds() for worker in workers] == [first == "dc2", True]
        for task in running:
            task.cancel()

    loop.play(story())


def test_epochs_of_locations_that_are_alone_are_never_the_same() -> None:
    for first, second in product(range(0, 4 * EPOCHS, 3), repeat=2):
        assert alone_epoch(first, place=0) != alone_epoch(second, place=1)
        assert alone_epoch(first, place=1) > first + EPOCHS


@pytest.mark.parametrize(
    ("lost", "replication", "link_up", "error"),
    [
        ("dc2", REPLICATION, False, BadRequest),
        ("dc3", REPLICATION, False, BadRequest),
        ("dc1", {**REPLICATION, "witness": 1}, False, BadRequest),
        ("dc1", REPLICATION, True, Conflict),
    ],
)
def test_what_may_not_be_given_up_is_refused(
    lost: str, replication: dict[str, int], link_up: bool, error: type[Exception]
) -> None:
    loop = VirtualLoop()

    async def story() -> None:
        link = Link()
        link.up = link_up
        with pytest.raises(error):
            await operator(link, "dc2", VirtualClock(loop), replication).give_up(lost)
        assert not link.tables["dc2"]["location"]

    loop.play(story())


def test_a_return_that_fails_leaves_the_location_that_serves_as_it_is() -> None:
    loop = VirtualLoop()

    async def story() -> None:
        clock, link = VirtualClock(loop), Link()
        with pytest.raises(NotFound):
            await operator(link, "dc2", clock).bring_back("dc1")
        link.up = False
        await operator(link, "dc2", clock).give_up("dc1")
        link.up = True
        returning = asyncio.ensure_future(operator(link, "dc2", clock).bring_back("dc1"))
        await clock.sleep(1.0)
        assert link.tables["dc1"]["location"]["dc1"]["state"] == "returning"
        link.nodes_up = False
        with pytest.raises(StoreBusy):
            await returning
        assert link.tables["dc2"]["location"]["dc1"]["state"] == "lost"

    loop.play(story())
