"""Deliveries begin for a share of a turn; the rest wait for the next ones, in order."""

from __future__ import annotations

import asyncio

from pigeonry.delivery.turnstile import WOKEN_PER_TURN, Turnstile
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.loop import VirtualLoop


class Watch(VirtualClock):
    """Monotonic time moves when work is done, also within a turn."""

    worked = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.worked


def turns_of(count: int, work_s: float, *, share_s: float = 0.001) -> list[list[int]]:
    """Which of so many deliveries began in which turn, in order, each taking so long to begin."""
    loop = VirtualLoop()
    clock = Watch(loop)
    turnstile = Turnstile(clock, share_s)
    turns: list[list[int]] = []
    turn = 0

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if sum(map(len, turns)) < count:
            loop.call_soon(next_turn)

    async def deliver(number: int) -> None:
        await turnstile.pass_through()
        while len(turns) <= turn:
            turns.append([])
        turns[turn].append(number)
        clock.worked += work_s

    async def main() -> None:
        loop.call_soon(next_turn)
        await asyncio.gather(*[deliver(number) for number in range(count)])

    loop.play(main())
    return [began for began in turns if began]


def test_what_costs_next_to_nothing_begins_in_one_turn() -> None:
    assert turns_of(12, 0.000_01) == [list(range(12))]


def test_what_costs_a_millisecond_leaves_the_turn_to_others() -> None:
    turns = turns_of(7, 0.000_8)
    assert turns[0] == [0, 1]
    assert max(map(len, turns)) <= WOKEN_PER_TURN
    assert [number for turn in turns for number in turn] == list(range(7))


def test_one_that_was_cancelled_while_it_waited_holds_nobody_up() -> None:
    loop = VirtualLoop()
    clock = Watch(loop)
    turnstile = Turnstile(clock, 0.001)

    async def deliver() -> None:
        await turnstile.pass_through()
        clock.worked += 1.0

    async def main() -> None:
        tasks = [asyncio.ensure_future(deliver()) for _ in range(5)]
        await asyncio.sleep(0)  # each has come to the turnstile, and the first has passed
        assert [task.done() for task in tasks] == [True, False, False, False, False]
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [False, True, False, False, False]

    loop.play(main())
