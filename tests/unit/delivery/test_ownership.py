"""Leases of addresses: who may send from where, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from pigeonry.delivery.egress import Outlet
from pigeonry.delivery.ownership import LeaseTerms, Ownership
from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.route import EgressSource
from pigeonry.ports.coordinator import Lease
from pigeonry.stores.memory.coordinator import Board, MemoryCoordinator
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededDice
from pigeonry.testing.loop import VirtualLoop

ADDRESS = "192.0.2.1"


class Shaky(MemoryCoordinator):
    """A coordinator that fails or hangs while a test says so."""

    fails = False
    hangs = False
    races = False
    asked = 0

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, ended: Callable[[str], Awaitable[bool]] | None = None
    ) -> Lease | None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise StoreBusy("no")
        self.asked += 1
        if self.races and self.asked % 2:
            return None
        return await super().acquire(name, owner=owner, ttl_s=ttl_s, ended=ended)


class Machine:
    """A worker of a node, with the addresses that the machine has."""

    def __init__(self, stage: Stage, node: str) -> None:
        self.addresses = {ADDRESS}
        self.outlet = Outlet(EgressSource("out", ADDRESS))
        self.coordinator = Shaky(stage.clock, stage.board)
        self.clock = stage.clock
        self.changes = 0
        self.ownership = Ownership(
            [self.outlet],
            coordinator=self.coordinator,
            clock=stage.clock,
            dice=SeededDice(node),
            node=node,
            has_address=lambda address: address in self.addresses,
            changed=self.changed,
            log=structlog.wrap_logger(structlog.PrintLogger(), wrapper_class=structlog.BoundLogger),
            terms=LeaseTerms(30.0),
        )

    def changed(self) -> None:
        self.changes += 1

    @property
    def may_send(self) -> bool:
        return self.outlet.until > self.clock.monotonic()

    @property
    def state(self) -> str:
        ((_, state),) = self.ownership.states()
        return state


class Stage:
    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.board = Board()

    def play(self, act: Callable[[asyncio.TaskGroup], Coroutine[object, object, None]]) -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as tasks:
                begun = [tasks.create_task(act(tasks))]
                await asyncio.wait(begun)
                for task in self.running:
                    task.cancel()

        self.running: list[asyncio.Task[None]] = []
        self.loop.play(main())

    def start(self, tasks: asyncio.TaskGroup, machine: Machine) -> asyncio.Task[None]:
        task = tasks.create_task(machine.ownership.run())
        self.running.append(task)
        return task


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.loop.close()


def test_two_nodes_claim_one_address_and_one_gets_it_and_the_other_says_so(stage: Stage) -> None:
    one, two = Machine(stage, "one"), Machine(stage, "two")

    async def act(tasks: asyncio.TaskGroup) -> None:
        stage.start(tasks, one)
        await asyncio.sleep(0.5)
        stage.start(tasks, two)
        for _ in range(200):
            await asyncio.sleep(1.0)
            assert (one.may_send, two.may_send) == (True, False)
        assert (one.state, two.state) == ("owned", "elsewhere")

    with capture_logs() as logs:
        stage.play(act)
    said = [(log["event"], log["log_level"], log["address"]) for log in logs]
    assert said == [("egress_source_owned", "info", ADDRESS), ("egress_source_elsewhere", "warning", ADDRESS)]


def test_workers_of_a_node_share_its_addresses(stage: Stage) -> None:
    one, two = Machine(stage, "node"), Machine(stage, "node")

    async def act(tasks: asyncio.TaskGroup) -> None:
        first = stage.start(tasks, one)
        stage.start(tasks, two)
        for _ in range(60):
            await asyncio.sleep(1.0)
            assert one.may_send
            assert two.may_send
        first.cancel()  # a worker is replaced: the address stays the node's
        for _ in range(60):
            await asyncio.sleep(1.0)
            assert two.may_send

    stage.play(act)


def test_a_node_that_cannot_renew_stops_before_another_may_begin(stage: Stage) -> None:
    one, two = Machine(stage, "one"), Machine(stage, "two")

    async def act(tasks: asyncio.TaskGroup) -> None:
        stage.start(tasks, one)
        await asyncio.sleep(20.0)
        stage.start(tasks, two)
        one.coordinator.hangs = True
        stopped_at = taken_at = 0.0
        for _ in range(700):
            await asyncio.sleep(0.1)
            assert not (one.may_send and two.may_send)
            if not one.may_send and not stopped_at:
                stopped_at = stage.loop.time()
            if two.may_send and not taken_at:
                taken_at = stage.loop.time()
        assert stopped_at
        assert taken_at - stopped_at >= LeaseTerms(30.0).margin_s
        assert (one.state, two.state) == ("unanswered", "owned")
        one.coordinator.hangs = False
        await asyncio.sleep(10.0)
        assert (one.state, one.may_send) == ("elsewhere", False)

    stage.play(act)


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_short_trouble_of_the_coordinator_costs_nothing(stage: Stage, how: str) -> None:
    one = Machine(stage, "one")

    async def act(tasks: asyncio.TaskGroup) -> None:
        stage.start(tasks, one)
        await asyncio.sleep(10.0)
        setattr(one.coordinator, how, True)
        for _ in range(16):
            await asyncio.sleep(1.0)
            assert one.may_send
        setattr(one.coordinator, how, False)
        for _ in range(60):
            await asyncio.sleep(1.0)
            assert one.may_send

    stage.play(act)


def test_an_address_that_moves_is_given_back_at_once(stage: Stage) -> None:
    one, two = Machine(stage, "one"), Machine(stage, "two")
    two.addresses.clear()

    async def act(tasks: asyncio.TaskGroup) -> None:
        stage.start(tasks, one)
        stage.start(tasks, two)
        await asyncio.sleep(5.0)
        assert (one.state, two.state) == ("owned", "absent")
        one.addresses.clear()
        two.addresses.add(ADDRESS)
        await asyncio.sleep(1.5)
        assert (one.may_send, one.state) == (False, "absent")
        await asyncio.sleep(LeaseTerms(30.0).renew_s + 1.0)
        assert (two.may_send, two.state) == (True, "owned")
        one.addresses.add(ADDRESS)
        await asyncio.sleep(60.0)
        assert (one.state, two.state) == ("elsewhere", "owned")

    stage.play(act)


def test_a_source_found_gone_while_connecting_is_asked_for_again(stage: Stage) -> None:
    one = Machine(stage, "one")

    async def act(tasks: asyncio.TaskGroup) -> None:
        stage.start(tasks, one)
        await asyncio.sleep(2.5)
        one.outlet.until = -float("inf")  # as the dispatcher does
        await asyncio.sleep(1.0)
        assert one.may_send

    stage.play(act)


def test_every_change_is_told_and_so_is_every_second(stage: Stage) -> None:
    one = Machine(stage, "one")

    async def act(tasks: asyncio.TaskGroup) -> None:
        stage.start(tasks, one)
        await asyncio.sleep(10.5)
        assert one.changes >= 11

    stage.play(act)


def test_a_race_among_the_workers_of_a_node_takes_no_address_from_them(stage: Stage) -> None:
    """Who loses it is refused, though the lease is the node's: what was granted holds, and the next answer is another."""
    one = Machine(stage, "one")

    async def act(tasks: asyncio.TaskGroup) -> None:
        one.coordinator.races = True
        stage.start(tasks, one)
        await asyncio.sleep(1.5)
        assert (one.state, one.may_send) == ("owned", True)
        for _ in range(100):
            await asyncio.sleep(1.0)
            assert (one.state, one.may_send) == ("owned", True)

    with capture_logs() as logs:
        stage.play(act)
    assert [log["event"] for log in logs] == ["egress_source_owned"]


def test_what_a_node_that_left_gave_back_is_another_nodes_at_once(stage: Stage) -> None:
    one, two = Machine(stage, "one"), Machine(stage, "two")

    async def act(tasks: asyncio.TaskGroup) -> None:
        leaving = stage.start(tasks, one)
        await stage.clock.sleep(3.0)
        assert one.may_send
        leaving.cancel()
        await one.ownership.give_back()
        assert not one.may_send
        stage.start(tasks, two)
        await stage.clock.sleep(0.1)
        assert two.may_send

    stage.play(act)
