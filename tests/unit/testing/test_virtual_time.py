"""Virtual time: it passes when everybody waits, work on lanes is in order, and a seed is a seed."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.testing.clock import EPOCH, VirtualClock, VirtualLanes
from pigeonry.testing.dice import SeededDice, SeededIds
from pigeonry.testing.loop import Stuck, VirtualLoop


def play(story) -> VirtualLoop:
    loop = VirtualLoop()
    loop.play(story(loop))
    return loop


def test_a_day_passes_at_once_and_timers_come_in_order() -> None:
    seen = []

    async def story(loop) -> None:
        clock = VirtualClock(loop)

        async def at(seconds: float) -> None:
            await clock.sleep(seconds)
            seen.append((seconds, clock.now() - EPOCH, clock.monotonic()))

        await asyncio.gather(at(86_400.0), at(0.5), at(3.0), at(0.0), at(-1.0))

    play(story)
    assert [round(now, 6) for _, now, _ in seen] == [0.0, 0.0, 0.5, 3.0, 86_400.0]
    assert [now for _, now, _ in seen] == pytest.approx([monotonic for _, _, monotonic in seen])


def test_waiting_for_nothing_is_an_error() -> None:
    async def story(_loop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        play(story)


def test_threads_are_refused() -> None:
    async def story(loop) -> None:
        with pytest.raises(NotImplementedError):
            loop.run_in_executor(None, print)

    play(story)


def test_a_callback_from_elsewhere_is_a_callback() -> None:
    async def story(loop) -> None:
        event = asyncio.Event()
        loop.call_soon_threadsafe(event.set)
        await event.wait()

    play(story)


def test_tasks_that_are_left_are_cancelled() -> None:
    ends = []

    async def left() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            ends.append(True)

    async def story(loop) -> None:
        story.task = asyncio.ensure_future(left())
        await asyncio.sleep(1)

    play(story)
    assert ends == [True]


def test_a_lane_works_in_order_and_takes_virtual_time() -> None:
    async def story(loop) -> None:
        lane = VirtualLanes(loop, SeededDice("x")).lane("a")
        done = []
        await asyncio.gather(*[lane.run(done.append, n) for n in range(10)])
        assert done == list(range(10))
        assert loop.time() > 0.0
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0)

    play(story)


def test_work_of_a_cancelled_caller_is_done_all_the_same_and_close_finishes_what_waits() -> None:
    async def story(loop) -> None:
        lane = VirtualLanes(loop, SeededDice("x")).lane("a")
        done = []
        first = asyncio.ensure_future(lane.run(done.append, 1))
        second = asyncio.ensure_future(lane.run(done.append, 2))
        await asyncio.sleep(0)
        first.cancel()
        lane.close()
        assert done == [1, 2]
        await second
        assert first.cancelled()

    play(story)


def test_a_machine_that_is_down_does_no_work_and_answers_nobody() -> None:
    async def story(loop) -> None:
        alive = [True]
        lane = VirtualLanes(loop, SeededDice("x"), alive=lambda: alive[0]).lane("a")
        done = []

        def die() -> None:
            alive[0] = False

        waiting = [asyncio.ensure_future(lane.run(work)) for work in (die, lambda: done.append(1))]
        await asyncio.sleep(10)
        assert not done
        assert not any(task.done() for task in waiting)

    play(story)


def test_dice_fall_the_same_for_the_same_seed_and_forks_do_not_disturb_each_other() -> None:
    one, same, other = SeededDice("a"), SeededDice("a"), SeededDice("b")
    first = [one.random() for _ in range(5)]
    assert first == [same.random() for _ in range(5)]
    assert first != [other.random() for _ in range(5)]
    quiet, busy = SeededDice("c"), SeededDice("c")
    busy.random()
    assert quiet.fork("x").random() == busy.fork("x").random()
    assert {one.count(1, 3) for _ in range(100)} == {1, 2, 3}
    assert {one.choose("abc") for _ in range(100)} == set("abc")
    assert all(2.0 <= one.between(2.0, 3.0) < 3.0 for _ in range(100))
    assert not one.chance(0.0)


def test_seeded_ids_differ_and_replay() -> None:
    ids = SeededIds("a")
    octets = [ids.octets(16) for _ in range(100)]
    assert len(set(octets)) == 100
    again = SeededIds("a")
    assert octets[:3] == [again.octets(16) for _ in range(3)]
