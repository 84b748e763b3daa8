"""How many connections a path gets: as many as its backlog needs, soon."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.delivery.pace import PATIENCE_S, Pace
from pigeonry.domain.outcome import Delivered
from pigeonry.testing.dice import SeededDice


class Latency(SeededDice):
    """All wires are equally long."""

    seconds = 0.0

    def between(self, low, high):
        return self.seconds


@pytest.fixture
def receiver(stage):
    """One that was sent a message lately, and the dispatcher that knows it."""
    stage.site()
    stage.dice = stage.dialer._dice = Latency("pace")
    stage.store.commit_s = 0.001

    def play(main, latency_s):
        async def whole():
            stage.dice.seconds = latency_s
            dispatcher = stage.dispatcher(idle_s=60.0)
            task = asyncio.ensure_future(dispatcher.run())
            dispatcher.dispatch(stage.pending())
            await asyncio.sleep(10.0)
            await main(dispatcher)
            task.cancel()
            await asyncio.wait([task])

        stage.play(whole())

    return play


def delivered(stage):
    return sorted(serial for serial, outcome in stage.outcomes.items() if isinstance(outcome, Delivered))


def test_few_messages_for_a_quick_receiver_follow_one_another_on_one_connection(stage, receiver):
    async def main(dispatcher):
        for _ in range(10):
            dispatcher.dispatch(stage.pending())
        await asyncio.sleep(1.0)

    receiver(main, latency_s=0.000_2)
    assert delivered(stage) == list(range(1, 12))
    assert len(stage.servers) == 1


def test_each_message_for_a_receiver_far_away_gets_a_connection(stage, receiver):
    async def main(dispatcher):
        for _ in range(10):
            dispatcher.dispatch(stage.pending())
        await asyncio.sleep(1.0)

    receiver(main, latency_s=0.1)
    assert len(stage.servers) == 10


def test_many_messages_for_a_quick_receiver_get_more_connections(stage, receiver):
    async def main(dispatcher):
        for _ in range(200):
            dispatcher.dispatch(stage.pending())
        await asyncio.sleep(2.0)

    receiver(main, latency_s=0.000_2)
    assert len(delivered(stage)) == 201
    assert 2 <= len(stage.servers) <= 20


def test_who_waits_for_a_connection_that_hangs_gets_another_in_time(stage, receiver):
    async def main(dispatcher):
        script = stage.scripts["198.51.100.1"]
        script.replies["MAIL"] = None
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(0.01)
        del script.replies["MAIL"]
        for _ in range(3):
            dispatcher.dispatch(stage.pending())
        await asyncio.sleep(3.0 * PATIENCE_S)
        assert delivered(stage) == [1, 3, 4, 5]

    receiver(main, latency_s=0.000_2)


def test_who_comes_while_others_wait_for_a_connection_that_hangs_is_not_forgotten(stage, receiver):
    async def main(dispatcher):
        script = stage.scripts["198.51.100.1"]
        script.replies["MAIL"] = None
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(0.01)
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(1.5 * PATIENCE_S)  # the second is not late yet when the third comes
        dispatcher.dispatch(stage.pending())
        await asyncio.sleep(1.0 * PATIENCE_S)  # now it is; that one hangs as well
        del script.replies["MAIL"]
        await asyncio.sleep(3.0 * PATIENCE_S)
        assert delivered(stage) == [1, 4]

    receiver(main, latency_s=0.000_2)


def test_nothing_is_waited_for_before_it_is_known_how_long_a_message_takes():
    pace = Pace()
    assert not pace.suffices(busy=5, waiting=1)
    pace.took(0.001)
    assert pace.suffices(busy=1, waiting=50)
    assert not pace.suffices(busy=1, waiting=51)
    assert not pace.suffices(busy=0, waiting=1)


def test_what_a_message_takes_follows_what_messages_took_lately():
    pace = Pace()
    pace.took(0.001)
    for _ in range(50):
        pace.took(1.0)
    assert pace.message_s > 0.99
