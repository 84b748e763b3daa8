"""Whatever happens in whatever order: nobody is dispatched twice for one attempt, and everybody is in the end."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from pigeonry.domain.errors import StoreBusy
from pigeonry.domain.message import Pending, RecipientState, Settle
from pigeonry.queue.event_ids import EventIds
from pigeonry.queue.intake import Intake
from pigeonry.queue.scheduler import Scheduler, SchedulerLimits
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededDice, SeededIds
from pigeonry.testing.loop import VirtualLoop
from support.commits import followed
from support.watched_store import WatchedStore, submission

SECONDS = st.sampled_from([0.0, 0.1, 0.3, 2.0, 6.0, 20.0, 100.0])
STEP = st.one_of(
    st.tuples(st.just("accept"), st.integers(1, 6), SECONDS),
    st.tuples(st.just("stored"), st.integers(1, 6), SECONDS),
    st.tuples(st.just("end"), st.integers(0, 30), st.just(0.0)),
    st.tuples(st.just("retry"), st.integers(0, 30), SECONDS),
    st.tuples(st.just("postpone"), st.integers(0, 30), SECONDS),
    st.tuples(st.just("hold"), st.integers(0, 30), SECONDS),
    st.tuples(st.just("sleep"), st.just(0), SECONDS),
    st.tuples(st.just("busy"), st.integers(1, 3), st.just(0.0)),
)


class SlowStore(WatchedStore):
    """Its pages are old when they arrive, and what it commits is there before its caller hears of it."""

    def __init__(self, clock: VirtualClock, delays: list[float]) -> None:
        super().__init__(clock)
        self._delays = itertools.cycle(delays or [0.0])

    async def due(self, **query):
        page = await super().due(**query)
        await self._clock.sleep(next(self._delays))
        return page

    @followed
    async def commit(self, transition, *, deadline: float) -> None:
        await super().commit(transition, deadline=deadline)
        await self._clock.sleep(next(self._delays) / 4)


class Model:
    """Keeps who was dispatched and may not be again."""

    def __init__(self, loop: VirtualLoop, delays: list[float]) -> None:
        self.clock = VirtualClock(loop)
        self.store = SlowStore(self.clock, delays)
        limits = SchedulerLimits(recipients_max=10, horizon_s=8.0, page=3, settle_deadline_s=1.0)
        self.scheduler = Scheduler(self.store, self.clock, SeededDice("p"), limits)
        self.scheduler.dispatch = self.dispatched
        self.intake = Intake(
            self.store, self.scheduler, self.clock, SeededIds("p"), event_ids=EventIds(b"k" * 16), expiry_s=1e6
        )
        self.out: dict[int, Pending] = {}
        self.wrong: list[str] = []  # told at the end: an error in a timer's callback would go unheard

    def dispatched(self, pending: Pending) -> None:
        view = self.store.views[pending.message.shard, pending.serial]
        if pending.due > self.clock.now() + 1e-3:
            self.wrong.append("dispatched before its time")
        if view.state is not RecipientState.PENDING:
            self.wrong.append("dispatched after its end")
        if view.pending.attempts != pending.attempts:
            self.wrong.append("dispatched as it was before its last attempt")
        if self.scheduler.claim(pending):
            if pending.serial in self.out:
                self.wrong.append("dispatched twice")
            self.out[pending.serial] = pending

    async def settle(self, pending: Pending, state: RecipientState, pause_s: float) -> None:
        settle = Settle(pending, state, b"{}", self.clock.now() + pause_s, pending.attempts + 1, 1.0)
        await self.scheduler.settled(settle, deadline=self.clock.monotonic() + 1.0)

    async def step(self, what: str, number: int, seconds: float) -> None:
        taken = sorted(self.out)
        chosen = self.out.get(taken[number % len(taken)]) if taken else None
        due = self.clock.now() + seconds if seconds else 0.0
        if what == "accept":
            sent = submission(*[f"r{n}@x.test" for n in range(number)], due=due)
            await self.intake.accept(sent, deadline=self.clock.monotonic() + 1.0)
        elif what == "stored":
            sent = submission(*[f"r{n}@x.test" for n in range(number)], due=due)
            self.store.apply(self.intake._build(sent, self.store.allocate(number), self.clock.now()))
            self.scheduler._leave(0.0)
        elif what in {"end", "retry"} and chosen is not None:
            del self.out[chosen.serial]
            state = RecipientState.DELIVERED if what == "end" else RecipientState.PENDING
            await self.settle(chosen, state, seconds)
        elif what == "postpone" and chosen is not None:
            del self.out[chosen.serial]
            self.scheduler.postpone(chosen, seconds=seconds)
        elif what == "hold":
            await self.hold(number, seconds)
        elif what == "sleep":
            await self.clock.sleep(seconds)
        elif what == "busy":
            self.store.faults += [StoreBusy("no")] * number

    async def hold(self, number: int, seconds: float) -> None:
        views = list(self.store.views.values())
        if not views:
            return
        key = views[number % len(views)].pending.message
        count = sum(view.pending.message == key for view in views)
        held = self.scheduler.hold(key, count)
        await self.clock.sleep(seconds)
        for serial in held:
            view = self.store.views[key.shard, serial]
            if view.state is not RecipientState.PENDING:
                self.scheduler.forget(key, serial)
            else:
                self.scheduler.let_go(view.pending)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40), st.lists(st.sampled_from([0.0, 0.05, 0.5, 3.0]), max_size=6))
def test_each_attempt_is_dispatched_once_and_all_come_to_an_end(steps, delays) -> None:
    loop = VirtualLoop()

    async def story() -> None:
        model = Model(loop, delays)
        await model.store.open()
        running = asyncio.ensure_future(model.scheduler.run())
        for what, number, seconds in steps:
            try:
                await model.step(what, number, seconds)
            except StoreBusy:
                model.store.faults.clear()
            assert model.scheduler.in_memory <= 10 + 3
            assert not running.done()
        model.store.faults.clear()
        for _ in range(200):
            for pending in list(model.out.values()):
                del model.out[pending.serial]
                await model.settle(pending, RecipientState.DELIVERED, 0.0)
            await model.clock.sleep(5.0)
            if not model.out and all(v.state is not RecipientState.PENDING for v in model.store.views.values()):
                break
        left = [v.pending for v in model.store.views.values() if v.state is RecipientState.PENDING]
        assert not left
        assert not model.wrong
        await model.clock.sleep(100.0)
        assert model.scheduler.in_memory == 0
        assert not model.scheduler._claimed
        assert not model.scheduler._expected
        assert not model.scheduler._fresh
        running.cancel()

    loop.play(story())
