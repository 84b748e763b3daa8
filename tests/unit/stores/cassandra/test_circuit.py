"""The circuit in virtual time: it opens when the store answers nothing at all, and closes when it answers again."""

from __future__ import annotations

import asyncio

from pigeonry.stores.cassandra.circuit import PAUSE_S, PROBE_S_MAX, TICK_S, Circuit
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.loop import VirtualLoop


class Store:
    """A store that answers a probe at once, or never."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.frozen = False
        self.probes = 0

    async def probe(self) -> bool:
        self.probes += 1
        if self.frozen:
            await self.clock.sleep(PROBE_S_MAX)
        return not self.frozen


def play(story) -> None:
    loop = VirtualLoop()

    async def told() -> None:
        clock = VirtualClock(loop)
        store = Store(clock)
        circuit = Circuit(store.probe, clock)
        watch = loop.create_task(circuit.watch())
        await clock.sleep(0.001)
        await story(circuit, store, clock)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    loop.play(told())


def test_silence_opens_it_within_a_second_and_an_answer_closes_it_within_half() -> None:
    async def story(circuit, store, clock) -> None:
        store.frozen = True
        circuit.began()
        await clock.sleep(TICK_S)
        assert not circuit.is_open
        await clock.sleep(1.0 - TICK_S)
        assert circuit.is_open
        assert circuit.openings == 1
        await clock.sleep(60.0)
        assert circuit.is_open
        store.frozen = False
        await clock.sleep(PAUSE_S + PROBE_S_MAX)
        assert not circuit.is_open
        assert circuit.openings == 1

    play(story)


def test_a_failure_is_looked_into_at_once() -> None:
    async def story(circuit, store, clock) -> None:
        store.frozen = True
        circuit.began()
        circuit.failed()
        await clock.sleep(PROBE_S_MAX + 0.01)
        assert circuit.is_open

    play(story)


def test_a_slow_request_alone_does_not_open_it() -> None:
    async def story(circuit, store, clock) -> None:
        circuit.began()
        await clock.sleep(30.0)
        assert not circuit.is_open
        assert store.probes > 10

    play(story)


def test_failures_beside_answers_do_not_open_it() -> None:
    """One part of the ring may be gone, and the probe's row with it: who asks for the rest is served."""

    async def story(circuit, store, clock) -> None:
        store.frozen = True
        for _ in range(200):
            circuit.began()
            circuit.began()
            circuit.failed()
            circuit.answered()
            await clock.sleep(0.05)
            assert not circuit.is_open

    play(story)


def test_many_failures_make_few_probes() -> None:
    async def story(circuit, store, clock) -> None:
        for _ in range(1000):
            circuit.began()
            circuit.failed()
            await clock.sleep(0.01)
        assert not circuit.is_open
        assert store.probes <= 10.0 / PAUSE_S + 1

    play(story)


def test_nothing_under_way_is_no_silence() -> None:
    async def story(circuit, store, clock) -> None:
        circuit.began()
        circuit.abandoned()
        await clock.sleep(60.0)
        assert store.probes == 0

    play(story)
