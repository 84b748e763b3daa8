"""What is due is dispatched once: at once, when its time comes, or when there is room, whatever races with a load."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.domain.message import MessageKey, Pending, RecipientState, Settle
from pigeonry.queue.scheduler import Scheduler, SchedulerLimits
from pigeonry.stores.memory.queue_store import MemoryNode, MemoryStore
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededDice
from support.commits import followed
from support.watched_store import submission


def end(pending: Pending, state: RecipientState = RecipientState.DELIVERED, due: float = 0.0) -> Settle:
    return Settle(pending, state, b"{}", due, pending.attempts + 1, 1.0)


def test_a_due_recipient_is_dispatched_before_accept_returns(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        assert [p.address for p in rig.dispatched] == ["a@x.test"]
        assert rig.store.pages == 1  # the one at the start

    play(story)


def test_a_recipient_due_within_the_horizon_is_dispatched_at_its_time(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test", due=rig.clock.now() + 30), deadline=rig.deadline())
        await rig.clock.sleep(29.9)
        assert not rig.dispatched
        await rig.clock.sleep(0.2)
        assert len(rig.dispatched) == 1

    play(story)


def test_a_recipient_due_beyond_the_horizon_is_only_in_the_store_until_its_time_comes_near(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test", due=rig.clock.now() + 3600), deadline=rig.deadline())
        assert rig.scheduler.in_memory == 0
        await rig.clock.sleep(3599)
        assert not rig.dispatched
        await rig.clock.sleep(1.1)
        assert len(rig.dispatched) == 1

    play(story)


def test_what_was_pending_at_the_start_is_loaded_page_by_page_up_to_the_room(play) -> None:
    async def story(rig) -> None:
        rig.scheduler.dispatch = rig.dispatched.append
        for n in range(100):
            rig.store.apply(_accept(rig, f"r{n}@x.test"))
        rig.scheduler._leave(0.0)
        await rig.clock.sleep(5)
        assert 15 < len(rig.dispatched) <= 20
        done = 0
        while done < 100:
            await rig.scheduler.settled(end(rig.dispatched[done]), deadline=rig.deadline())
            done += 1
            await rig.clock.sleep(0.5)
            assert rig.scheduler.in_memory <= 40
        assert sorted(p.serial for p in rig.dispatched) == sorted({p.serial for p in rig.dispatched})
        assert len(rig.dispatched) == 100

    play(story)


def _accept(rig, address: str, due: float = 0.0):
    key = rig.store.allocate(1)
    return rig.intake._build(submission(address, due=due), key, rig.clock.now())


def test_fresh_mail_without_room_is_left_to_the_store_and_loaded_later(play) -> None:
    async def story(rig) -> None:
        for n in range(50):
            await rig.intake.accept(submission(f"r{n}@x.test", account=f"a{n}"), deadline=rig.deadline())
        assert len(rig.dispatched) == 20
        await rig.clock.sleep(2)
        assert len(rig.dispatched) > 35  # the loader's half is taken from the store
        for pending in list(rig.dispatched):
            await rig.scheduler.settled(end(pending), deadline=rig.deadline())
        await rig.clock.sleep(2)
        assert len({p.serial for p in rig.dispatched}) == len(rig.dispatched) == 50

    play(story)


def test_what_waits_in_a_shard_that_is_taken_over_later_is_loaded_too(play) -> None:
    async def story(rig) -> None:
        node = MemoryNode()
        before, after = MemoryStore(node, clock=rig.clock), MemoryStore(node, clock=rig.clock)
        await before.open()
        before.apply(rig.intake._build(submission("old@x.test"), before.allocate(1), rig.clock.now()))
        await after.open()
        scheduler = Scheduler(after, rig.clock, rig.dice)
        scheduler.dispatch = rig.dispatched.append
        running = asyncio.create_task(scheduler.run())
        await rig.clock.sleep(100)
        assert not rig.dispatched
        await before.close()
        await rig.clock.sleep(5)
        assert [pending.address for pending in rig.dispatched] == ["old@x.test"]
        running.cancel()

    play(story)


def test_a_recipient_settled_while_a_page_is_read_is_not_dispatched_again(play) -> None:
    async def story(rig) -> None:
        rig.store.page_gate = asyncio.Event()
        await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        rig.scheduler._leave(0.0)
        await rig.clock.sleep(1)  # the loader has its snapshot, with the recipient still pending
        await rig.scheduler.settled(end(rig.dispatched[0]), deadline=rig.deadline())
        rig.store.page_gate.set()
        await rig.clock.sleep(5)
        assert len(rig.dispatched) == 1

    play(story)


def test_a_recipient_retried_far_in_the_future_while_a_page_is_read_waits_for_its_time(play) -> None:
    async def story(rig) -> None:
        rig.store.page_gate = asyncio.Event()
        await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        rig.scheduler._leave(0.0)
        await rig.clock.sleep(1)
        settle = end(rig.dispatched[0], RecipientState.PENDING, due=rig.clock.now() + 1000)
        await rig.scheduler.settled(settle, deadline=rig.deadline())
        rig.store.page_gate.set()
        await rig.clock.sleep(990)
        assert len(rig.dispatched) == 1
        await rig.clock.sleep(12)
        assert [p.attempts for p in rig.dispatched] == [0, 1]

    play(story)


def test_a_message_seen_by_a_load_before_its_commit_returned_is_dispatched_once(play) -> None:
    async def story(rig) -> None:
        original = rig.store.commit

        @followed
        async def slow_to_return(transition, *, deadline) -> None:
            await original(transition, deadline=deadline)
            rig.scheduler._leave(0.0)  # the loader reads it from the store first
            await rig.clock.sleep(3)

        rig.store.commit = slow_to_return
        await rig.intake.accept(submission("a@x.test"), deadline=rig.clock.monotonic() + 60)
        await rig.clock.sleep(3)
        assert len(rig.dispatched) == 1

    play(story)


def test_a_retry_within_the_horizon_stays_in_memory(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        due = rig.clock.now() + 10
        await rig.scheduler.settled(end(rig.dispatched[0], RecipientState.PENDING, due), deadline=rig.deadline())
        assert rig.scheduler.in_memory == 1
        await rig.clock.sleep(10.01)
        again = rig.dispatched[1]
        assert (again.attempts, again.due, again.first_attempt_at) == (1, due, 1.0)

    play(story)


@pytest.mark.parametrize("fault", [StoreBusy("no"), StoreInDoubt("perhaps")])
def test_settling_goes_on_until_the_store_takes_it_and_nothing_is_dispatched_meanwhile(play, fault) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        rig.store.faults += [fault, fault, fault]
        settling = asyncio.ensure_future(rig.scheduler.settled(end(rig.dispatched[0]), deadline=rig.deadline()))
        await rig.clock.sleep(0.1)
        assert rig.scheduler.paused
        rig.store.apply(_accept(rig, "b@x.test"))
        rig.scheduler._leave(0.0)
        held = rig.store.faults
        rig.store.faults = []
        await rig.intake.accept(submission("c@x.test"), deadline=rig.deadline())
        rig.store.faults = held
        assert len(rig.dispatched) == 1
        await settling
        assert not rig.scheduler.paused
        await rig.clock.sleep(1)
        assert sorted(p.address for p in rig.dispatched) == ["a@x.test", "b@x.test", "c@x.test"]

    play(story)


def test_only_one_can_claim_a_recipient_and_only_as_it_was_dispatched_last(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        pending = rig.dispatched[0]
        copy = msgspec.structs.replace(pending)
        assert not rig.scheduler.claim(copy)
        assert rig.scheduler.claim(pending)
        assert not rig.scheduler.claim(pending)
        await rig.scheduler.settled(end(pending), deadline=rig.deadline())
        assert not rig.scheduler.claim(pending)

    play(story)


def test_a_postponed_recipient_comes_again_and_its_old_self_cannot_be_claimed(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        pending = rig.dispatched[0]
        assert rig.scheduler.claim(pending)
        rig.scheduler.postpone(pending, seconds=7)
        await rig.clock.sleep(6.9)
        assert len(rig.dispatched) == 1
        await rig.clock.sleep(0.2)
        assert not rig.scheduler.claim(pending)
        assert rig.scheduler.claim(rig.dispatched[1])

    play(story)


def test_a_held_recipient_is_neither_dispatched_nor_claimed_until_it_is_let_go(play) -> None:
    async def story(rig) -> None:
        now = rig.clock.now()
        soon = await rig.intake.accept(submission("a@x.test", due=now + 5), deadline=rig.deadline())
        ready = await rig.intake.accept(submission("b@x.test"), deadline=rig.deadline())
        later = await rig.intake.accept(submission("c@x.test", due=now + 500), deadline=rig.deadline())
        for key in (soon, ready, later):
            assert rig.scheduler.hold(key, 1) == [key.serial]
        queued = rig.dispatched[0]
        assert not rig.scheduler.claim(queued)
        await rig.clock.sleep(600)
        assert rig.dispatched == [queued]
        for key in (soon, ready, later):
            rig.scheduler.let_go(rig.store.views[key.shard, key.serial].pending)
        await rig.clock.sleep(1)
        assert sorted(p.address for p in rig.dispatched) == ["a@x.test", "b@x.test", "b@x.test", "c@x.test"]
        assert all(rig.scheduler.claim(p) for p in rig.dispatched[1:])

    play(story)


def test_commands_without_end_leave_nothing_behind(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test", due=rig.clock.now() + 30.0), deadline=rig.deadline())
        (view,) = await rig.store.recipients(key)
        for _ in range(10_000):
            rig.scheduler.hold(key, 1)
            rig.scheduler.let_go(view.pending)
        assert len(rig.scheduler._heap) < 2_000
        await rig.clock.sleep(31)
        assert [pending.serial for pending in rig.dispatched] == [key.serial]

    play(story)


def test_what_is_given_up_is_as_before(play) -> None:
    async def story(rig) -> None:
        now = rig.clock.now()
        ready = await rig.intake.accept(submission("b@x.test"), deadline=rig.deadline())
        later = await rig.intake.accept(submission("c@x.test", due=now + 500), deadline=rig.deadline())
        for key in (ready, later):
            rig.scheduler.hold(key, 1)
        await rig.clock.sleep(600)
        for key in (ready, later):
            rig.scheduler.give_up(key, key.serial)
        await rig.clock.sleep(1)
        assert [p.address for p in rig.dispatched] == ["b@x.test", "b@x.test", "c@x.test"]

    play(story)


def test_a_store_that_cannot_read_is_asked_again(play) -> None:
    async def story(rig) -> None:
        original = rig.store.due
        failures = [StoreBusy("disk")] * 3

        async def due(**query):
            if failures:
                raise failures.pop()
            return await original(**query)

        rig.store.due = due
        rig.store.apply(_accept(rig, "a@x.test"))
        rig.scheduler._leave(0.0)
        await rig.clock.sleep(10)
        assert len(rig.dispatched) == 1

    play(story)


def test_many_scheduled_for_one_moment_leave_room_for_fresh_mail(play) -> None:
    async def story(rig) -> None:
        nine = rig.clock.now() + 50
        for n in range(200):
            rig.store.apply(_accept(rig, f"s{n}@x.test", due=nine))
        rig.scheduler._leave(0.0)
        await rig.clock.sleep(5)
        for n in range(60):
            await rig.intake.accept(submission(f"f{n}@x.test"), deadline=rig.deadline())
            await rig.clock.sleep(0.3)
            while rig.dispatched:
                await rig.scheduler.settled(end(rig.dispatched.pop()), deadline=rig.deadline())
        assert all(
            view.state is not RecipientState.PENDING for view in rig.store.views.values() if view.pending.due < nine
        )
        await rig.clock.sleep(35)
        seen = 0
        while seen < 200:
            assert rig.dispatched
            while rig.dispatched:
                await rig.scheduler.settled(end(rig.dispatched.pop()), deadline=rig.deadline())
                seen += 1
            await rig.clock.sleep(1)

    play(story)


def test_nothing_is_dispatched_before_it_runs() -> None:
    loop = asyncio.new_event_loop()
    dispatched: list[Pending] = []
    try:
        scheduler = Scheduler(None, VirtualClock(loop), SeededDice("x"), SchedulerLimits())  # type: ignore[arg-type]
        key = MessageKey(1, 2, 3)
        pending = Pending(key, 3, 2, "a@x.test", 0.0, "acct", "d.test", "", 1e12)
        scheduler.dispatch = dispatched.append
        assert scheduler.offer([pending]) == 1  # waits in memory
        assert not dispatched
    finally:
        loop.close()


def test_retries_without_room_are_left_to_the_store(play) -> None:
    async def story(rig) -> None:
        for n in range(20):
            await rig.intake.accept(submission(f"r{n}@x.test", account=f"a{n}"), deadline=rig.deadline())
        first = list(rig.dispatched)
        for n in range(20):
            rig.store.apply(_accept(rig, f"s{n}@x.test", due=rig.clock.now() + 0.5))
        rig.scheduler._leave(0.0)
        for pending in first:
            later = end(pending, RecipientState.PENDING, due=rig.clock.now() + 1)
            await rig.scheduler.settled(later, deadline=rig.deadline())
        for n in range(20):
            await rig.intake.accept(submission(f"t{n}@x.test", account=f"a{n}"), deadline=rig.deadline())
        assert rig.scheduler.in_memory == 40
        extra = end(rig.dispatched[-1], RecipientState.PENDING, due=rig.clock.now() + 1)
        await rig.scheduler.settled(extra, deadline=rig.deadline())
        await rig.clock.sleep(2)
        for _ in range(10):
            while rig.dispatched:
                await rig.scheduler.settled(end(rig.dispatched.pop()), deadline=rig.deadline())
            await rig.clock.sleep(2)
        assert all(view.state is RecipientState.DELIVERED for view in rig.store.views.values())
        assert rig.scheduler.in_memory == 0

    play(story)


def test_what_is_not_in_memory_cannot_be_postponed(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        pending = rig.dispatched[0]
        await rig.scheduler.settled(end(pending), deadline=rig.deadline())
        rig.scheduler.postpone(pending, seconds=1)
        await rig.clock.sleep(5)
        assert len(rig.dispatched) == 1

    play(story)


def test_an_outcome_that_a_bug_keeps_from_being_made_holds_nobody_up(play) -> None:
    async def story(rig) -> None:
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
        ended = asyncio.Event()

        def make() -> Settle:
            raise ValueError("a bug")

        rig.scheduler.settle(make, deadline=rig.deadline(), then=ended.set)
        await asyncio.wait_for(ended.wait(), 5.0)
        await rig.clock.sleep(1)
        assert [type(error) for error in reported] == [ValueError]

    play(story)


def test_what_is_set_aside_takes_no_room_and_comes_again_when_it_is_looked_for(play) -> None:
    async def story(rig) -> None:
        aside: list[str] = []
        closed = True

        def dispatch(pending) -> None:
            if closed and pending.address.startswith("held"):
                aside.append(pending.address)
                rig.scheduler.set_aside(pending)
            else:
                rig.dispatched.append(pending)

        rig.scheduler.dispatch = dispatch
        for n in range(60):  # more than there is room for
            await rig.intake.accept(submission(f"held{n}@x.test"), deadline=rig.deadline())
        assert (len(aside), rig.scheduler.in_memory, rig.content.octets) == (60, 0, 0)
        for n in range(20):
            await rig.intake.accept(submission(f"free{n}@x.test", account=f"a{n}"), deadline=rig.deadline())
        assert len(rig.dispatched) == 20
        await rig.clock.sleep(100)
        assert len(aside) == 60, "nobody looks for them by himself"
        rig.scheduler.look_again()
        await rig.clock.sleep(5)
        assert len(aside) == 120
        closed = False
        rig.scheduler.look_again()
        seen = set()
        for _ in range(60):
            await rig.clock.sleep(1)
            while rig.dispatched:
                pending = rig.dispatched.pop()
                assert pending.address not in seen
                seen.add(pending.address)
                await rig.scheduler.settled(end(pending), deadline=rig.deadline())
        assert len(seen) == 80
        assert rig.scheduler.in_memory == 0

    play(story)


def test_what_a_command_holds_is_not_set_aside(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        (pending,) = rig.dispatched
        assert rig.scheduler.hold(key, 1) == [key.serial]
        rig.scheduler.set_aside(pending)
        assert rig.scheduler.in_memory == 1
        assert rig.scheduler.hold(key, 1) == []
        rig.scheduler.let_go(pending)
        await rig.clock.sleep(1)
        assert len(rig.dispatched) == 2
        rig.scheduler.set_aside(pending)  # as it was before: it is another by now
        assert rig.scheduler.in_memory == 1

    play(story)
