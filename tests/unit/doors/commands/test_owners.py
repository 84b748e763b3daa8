"""To the owner wherever it is: directly, beside, far; moved, silent, or nobody's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pigeonry.domain.errors import Conflict, Fault, NotFound, NotOwner, OwnerUnreachable
from pigeonry.doors.commands.client import NobodyListens, unreachable
from pigeonry.doors.commands.owners import Owners, Told
from pigeonry.doors.commands.wire import Command
from pigeonry.net.environment import SystemClock
from pigeonry.ports.ownership import Member

ME, BESIDE, FAR = Member("a", 0), Member("a", 1), Member("b", 0, "b.test:9300")


class Table:
    """Who owns what: as was heard, and then as it is each time that this is asked."""

    def __init__(self, heard: dict[int, Member | None], *now: dict[int, Member | None]) -> None:
        self.heard, self.now = heard, list(now) or [heard]

    async def owner_of(self, shard: int, *, fresh: bool = False) -> Member | None:
        if not fresh:
            return self.heard.get(shard)
        return (self.now.pop(0) if len(self.now) > 1 else self.now[0]).get(shard)

    async def owners(self, *, fresh: bool = True) -> dict[int, Member | None]:
        return self.now[0]

    async def members(self, *, fresh: bool = False) -> list[Member]:
        return [ME, BESIDE, FAR]


class Rig:
    def __init__(self, table: Table, *, far: bool = True) -> None:
        self.asked: list[tuple[str, Command]] = []
        self.errors: dict[str, list[BaseException | None]] = {}
        self.owners = Owners(
            table,
            node="a",
            slot=0,
            act=lambda command: self.does("me", command),
            beside=lambda command: self.does("beside", command),
            far=self if far else None,
            clock=SystemClock(),
        )

    async def call(self, member: Member, command: Command, *, timeout_s: float) -> Any:
        assert member == FAR
        return await self.does("far", command)

    async def does(self, way: str, command: Command) -> Any:
        self.asked.append((way, command))
        errors = self.errors.get(way, [])
        if errors and (error := errors.pop(0)) is not None:
            raise error
        return [way, command.argument]

    def ways(self) -> list[str]:
        return [way for way, _ in self.asked]

    async def ask(self, shard: int) -> Any:
        return await self.owners.ask(shard, "queue.retry", {"key": "k"}, timeout_s=5.0)


@pytest.mark.parametrize(("shard", "way", "slot"), [(0, "me", 0), (1, "beside", 1), (2, "far", 0)])
async def test_the_owner_is_asked_by_its_way(shard: int, way: str, slot: int) -> None:
    rig = Rig(Table({0: ME, 1: BESIDE, 2: FAR}))
    assert await rig.ask(shard) == [way, {"key": "k"}]
    ((_, command),) = rig.asked
    assert (command.name, command.slot) == ("queue.retry", slot)
    assert command.within_s is not None
    assert 4.0 < command.within_s <= 5.0


@pytest.mark.parametrize("way", ["me", "beside", "far"])
async def test_a_shard_that_moved_is_asked_for_where_it_is_now(way: str) -> None:
    old = {"me": ME, "beside": BESIDE, "far": FAR}[way]
    new = FAR if way != "far" else BESIDE
    rig = Rig(Table({0: old}, {0: new}))
    rig.errors[way] = [NotOwner("moved")]
    assert await rig.ask(0) == ["far" if new is FAR else "beside", {"key": "k"}]
    assert len(rig.asked) == 2


async def test_a_shard_that_is_nobodys_for_a_moment_is_waited_for() -> None:
    rig = Rig(Table({0: FAR}, {0: None}, {0: BESIDE}))
    rig.errors["far"] = [NotOwner("moved")]
    assert await rig.ask(0) == ["beside", {"key": "k"}]
    same = Rig(Table({0: BESIDE}))  # two processes of one slot, of which the other owns it
    same.errors["beside"] = [NotOwner("moved"), NotOwner("moved"), NotOwner("moved")]
    assert await same.ask(0) == ["beside", {"key": "k"}]


async def test_an_owner_that_says_again_and_again_that_it_is_none_is_unreachable() -> None:
    rig = Rig(Table({0: FAR}))
    rig.errors["far"] = [NotOwner("moved")] * 9
    with pytest.raises(OwnerUnreachable) as caught:
        await rig.ask(0)
    assert caught.value.retry_after_s
    assert rig.ways() == ["far"] * 4


async def test_a_caller_without_time_waits_for_no_owner() -> None:
    rig = Rig(Table({0: FAR}))
    rig.errors["far"] = [NotOwner("moved")] * 9
    with pytest.raises(OwnerUnreachable):
        await rig.owners.ask(0, "queue.retry", None, timeout_s=0.05)
    assert rig.ways() == ["far"] * 2


async def test_an_owner_that_does_not_listen_is_asked_again_only_when_it_is_another_by_now() -> None:
    rig = Rig(Table({0: FAR}))
    rig.errors["far"] = [unreachable(NobodyListens)]
    with pytest.raises(OwnerUnreachable):
        await rig.ask(0)
    assert rig.ways() == ["far"]
    moved = Rig(Table({0: FAR}, {0: ME}))
    moved.errors["far"] = [unreachable(NobodyListens)]
    assert await moved.ask(0) == ["me", {"key": "k"}]


async def test_an_owner_that_was_asked_and_did_not_answer_is_not_asked_again() -> None:
    rig = Rig(Table({0: FAR}, {0: ME}))
    rig.errors["far"] = [unreachable()]
    with pytest.raises(OwnerUnreachable):
        await rig.ask(0)
    assert rig.ways() == ["far"]


async def test_what_the_owner_refuses_with_is_the_answer() -> None:
    rig = Rig(Table({0: FAR}))
    rig.errors["far"] = [Conflict("Another change came first.")]
    with pytest.raises(Conflict):
        await rig.ask(0)
    assert rig.ways() == ["far"]


async def test_a_shard_that_nobody_owns_now_is_unreachable_and_one_that_is_not_there_is_not_found() -> None:
    rig = Rig(Table({0: None}))
    with pytest.raises(OwnerUnreachable) as caught:
        await rig.ask(0)
    assert caught.value.retry_after_s
    with pytest.raises(NotFound):
        await rig.ask(7)
    assert rig.asked == []


async def test_without_a_way_to_other_nodes_they_are_unreachable() -> None:
    rig = Rig(Table({0: FAR}), far=False)
    with pytest.raises(OwnerUnreachable):
        await rig.ask(0)


async def test_time_that_is_over_asks_nobody_and_ours_is_cut_off() -> None:
    rig = Rig(Table({0: ME}))
    with pytest.raises(OwnerUnreachable):
        await rig.owners.ask(0, "queue.retry", None, timeout_s=0.0)
    assert rig.asked == []

    async def never(_command: Command) -> Any:
        await asyncio.Event().wait()

    owners = Owners(Table({0: ME}), node="a", slot=0, act=never, beside=never, far=None, clock=SystemClock())
    with pytest.raises(Fault, match="took too long"):
        await owners.ask(0, "queue.retry", None, timeout_s=0.01)


async def test_everyone_is_asked_and_who_does_not_answer_is_named() -> None:
    rig = Rig(Table({}))
    rig.errors["beside"] = [unreachable()]
    assert await rig.owners.ask_everyone("queue.show", {"limit": 1}, timeout_s=5.0) == [
        Told("a", 0, ["me", {"limit": 1}]),
        Told("a", 1, problem="The owner of this message does not answer."),
        Told("b", 0, ["far", {"limit": 1}]),
    ]
