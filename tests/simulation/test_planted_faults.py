"""The simulation can fail: each fault planted here is caught within at most some hundred seeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pigeonry.delivery import classify
from pigeonry.delivery.egress import Egress, Outlet
from pigeonry.delivery.ownership import Ownership
from pigeonry.domain.message import Accept, DotSent, Note, Settle, Transition
from pigeonry.domain.outcome import Deferred, InDoubt
from pigeonry.doors.http import idempotency
from pigeonry.ports.coordinator import Lease
from pigeonry.queue.scheduler import Scheduler
from pigeonry.stores.sqlite import recovery
from pigeonry.stores.sqlite.shard import Shard
from simulation import harness
from simulation.harness import Plant, Run
from simulation.ledger import Broken
from simulation.plan import ADDRESSES, Crash, Plan, draw
from simulation.plan import Egress as EgressPlan
from support.commits import followed

SEEDS_MAX = 150  # seeds within which every fault must show


class Planted:
    """The store with a fault in ``commit``."""

    def __init__(self, store: Any, _loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.behind: set[asyncio.Future[None]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def later(self, transition: Transition, deadline: float) -> None:
        """Commit behind the caller's back."""
        task = asyncio.ensure_future(self.store.commit(transition, deadline=deadline))
        self.behind.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self.behind.discard(task)
        if not task.cancelled():
            task.exception()


class AcknowledgeBeforeCommit(Planted):
    @followed
    async def commit(self, transition: Transition, *, deadline: float) -> None:
        if isinstance(transition, Accept):
            self.later(transition, deadline)
        else:
            await self.store.commit(transition, deadline=deadline)


class EventOutsideTheTransaction(Planted):
    @followed
    async def commit(self, transition: Transition, *, deadline: float) -> None:
        if isinstance(transition, Settle):
            await self.store.commit(msgspec.structs.replace(transition, event=b""), deadline=deadline)
            await self.store.commit(Note(transition.event), deadline=deadline + 60.0)
        else:
            await self.store.commit(transition, deadline=deadline)


class DotBeforeDotSent(Planted):
    @followed
    async def commit(self, transition: Transition, *, deadline: float) -> None:
        if isinstance(transition, DotSent):
            self.later(transition, deadline)
        else:
            await self.store.commit(transition, deadline=deadline)


def seeds_until_caught(plant: Plant | None = None, *, change: Callable[[Plan], Plan] = lambda plan: plan) -> int:
    """How many seeds it takes until a promise is seen broken."""
    for seed in range(SEEDS_MAX):
        try:
            Run(change(draw(seed)), plant=plant).play()
        except Broken:
            return seed + 1
    pytest.fail(f"not caught within {SEEDS_MAX} seeds")


@pytest.mark.parametrize("plant", [AcknowledgeBeforeCommit, EventOutsideTheTransaction, DotBeforeDotSent])
def test_a_fault_between_the_worker_and_its_store_is_caught(plant: Plant) -> None:
    assert seeds_until_caught(plant)


class _Everything(set[str]):
    def __contains__(self, _item: object) -> bool:
        return True


def test_a_dot_before_dot_sent_is_also_caught_by_its_consequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by watching the wire, but by a second delivery that nobody flagged."""
    original = harness.Ledger.__init__

    def blind(self: harness.Ledger, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._armed = _Everything()

    monkeypatch.setattr(harness.Ledger, "__init__", blind)
    assert seeds_until_caught(DotBeforeDotSent)


def test_a_scheduler_that_forgets_what_settled_while_it_read_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Scheduler._admit

    def forgetful(self: Scheduler, page: Any) -> None:
        self._gone = set()
        original(self, page)

    monkeypatch.setattr(Scheduler, "_admit", forgetful)
    assert seeds_until_caught()


def test_a_lost_reply_taken_for_a_failure_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = classify.outcome_of

    def careless(result: Any, attempt: Any) -> Any:
        outcome = original(result, attempt)
        return Deferred(attempt, 499) if isinstance(outcome, InDoubt) else outcome

    monkeypatch.setattr(classify, "outcome_of", careless)
    assert seeds_until_caught()


def test_no_patience_with_what_is_in_doubt_after_a_crash_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "STORE", msgspec.structs.replace(harness.STORE, in_doubt_delay_s=0.0))
    assert seeds_until_caught()


def test_a_recovery_that_forgets_what_was_in_doubt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_hold_back", lambda *_args, **_options: None)
    assert seeds_until_caught()


def test_a_recovery_that_builds_on_what_a_failed_sync_left_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(plan: Plan) -> Plan:
        crash = Crash(after=90, power=True, down_s=0.1)
        return msgspec.structs.replace(plan, failing_sync=20, crashes=(crash, crash), full=(0.0, 0.0))

    monkeypatch.setattr(recovery, "leave_old_wal", lambda _connection: None)
    assert seeds_until_caught(change=failing)


def test_a_scheduler_that_does_not_look_for_shards_taken_over_later_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_start_only(self: Scheduler) -> None:
        if not self._shards:
            self._shards = frozenset({-1})
            self._leave(float("-inf"))

    monkeypatch.setattr(Scheduler, "_look_for_shards", at_start_only)
    assert seeds_until_caught()


def test_a_carrying_that_a_crash_left_half_done_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_midnight(plan: Plan) -> Plan:
        return msgspec.structs.replace(plan, to_midnight_s=4.0)

    monkeypatch.setattr(recovery, "_finish_carrying", lambda _shard: [])
    assert seeds_until_caught(change=at_midnight)


def test_a_key_that_is_free_again_while_its_message_is_in_doubt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A try is then answered with what is voided a moment later."""

    def impatient(plan: Plan) -> Plan:
        letters = tuple(
            msgspec.structs.replace(letter, tries=4, again_s=0.02, patience_s=0.05) for letter in plan.letters
        )
        return msgspec.structs.replace(plan, letters=letters, slow=20.0)

    monkeypatch.setattr(idempotency, "StoreInDoubt", _Never)
    assert seeds_until_caught(change=impatient)


class _Never(Exception):
    """Is not raised."""


def test_events_that_are_shown_before_they_are_durable_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "seq_visible", lambda shard: shard.seq_next - 1)
    assert seeds_until_caught()


def with_moves(plan: Plan) -> Plan:
    """Our addresses appear on another machine as well, while the coordinator does not answer us."""
    moves = tuple((1.0, address, "them", True) for address in ADDRESSES)
    return msgspec.structs.replace(plan, egress=EgressPlan("queue", 0.0, moves, (0.5, 20.0)), clock_back=(0.0, 0.0))


def test_addresses_that_another_node_took_over_are_used_by_us_no_more() -> None:
    for seed in range(10):
        Run(with_moves(draw(seed))).play()


def test_an_owner_that_does_not_stop_in_time_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ownership._ask

    async def careless(self: Ownership, outlet: Outlet, held: Lease | None) -> Lease | None:
        lease = await original(self, outlet, held)
        if lease is not None and self._node == "us":
            outlet.until += 60.0
        return lease

    monkeypatch.setattr(Ownership, "_ask", careless)
    assert seeds_until_caught(change=with_moves)


def test_a_domain_that_leaves_by_another_pool_than_its_own_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Egress, "_pool_of", lambda _self, _domain, _named: "shared")
    assert seeds_until_caught()
