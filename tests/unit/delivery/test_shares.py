"""Several workers deliver to one site: together they hold no more connections than are allowed, and all that are."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from pigeonry.queue.ready import ReadyQueues
from pigeonry.quota.shares import Shares
from pigeonry.stores.memory.quota import MemoryQuota, Table
from pigeonry.testing.dice import SeededIds

LIMIT = 4


class Workers:
    """Two dispatchers with a queue each, one stage, one table of shares."""

    def __init__(self, stage, limit: int = LIMIT, **limits) -> None:
        self.stage = stage
        self.table = Table()
        self.most = 0
        self.shares = [
            Shares(
                MemoryQuota(stage.clock, self.table),
                name=name,
                clock=stage.clock,
                ids=SeededIds(name),
                log=structlog.get_logger(),
            )
            for name in ("one", "two")
        ]
        self.dispatchers = [
            stage.dispatcher(ready=ReadyQueues(), shares=shares.share, connections_per_path=limit, **limits)
            for shares in self.shares
        ]

    def load(self, number: int, count: int) -> None:
        for _ in range(count):
            self.dispatchers[number].dispatch(self.stage.pending())

    @property
    def held(self) -> list[int]:
        return [dispatcher.connections for dispatcher in self.dispatchers]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for part in (*self.shares, *self.dispatchers):
                tasks.create_task(part.run())
            while True:
                self.most = max(self.most, sum(not server.lost for server in self.stage.servers))
                await asyncio.sleep(0.001)

    def play(self, story) -> None:
        async def main() -> None:
            running = asyncio.ensure_future(self.run())
            await asyncio.sleep(0)
            await story()
            running.cancel()
            await asyncio.wait([running])

        self.stage.site()
        self.stage.play(main())


@pytest.fixture
def workers(stage) -> Workers:
    return Workers(stage)


def test_worker_that_is_alone_with_its_work_has_all_connections(workers: Workers):
    async def story() -> None:
        workers.load(0, 100)
        await asyncio.sleep(0.5)
        assert workers.held == [LIMIT, 0]

    workers.play(story)
    assert workers.most == LIMIT


def test_connections_go_over_to_a_worker_whose_work_begins_and_come_back_when_it_is_done(workers: Workers):
    async def story() -> None:
        workers.load(0, 1000)
        await asyncio.sleep(1.0)
        workers.load(1, 30)
        await asyncio.sleep(1.0)
        assert workers.held == [2, 2]
        await asyncio.sleep(5.0)
        assert workers.held == [LIMIT, 0]

    workers.play(story)
    assert workers.most == LIMIT
    assert len(workers.stage.outcomes) > 200


def test_idle_connections_are_closed_for_the_work_of_another(workers: Workers):
    async def story() -> None:
        workers.load(0, 4)
        await asyncio.sleep(1.0)
        assert workers.held == [LIMIT, 0]
        workers.load(1, 100)
        await asyncio.sleep(3.0)
        assert workers.held == [0, LIMIT]

    workers.play(story)
    assert workers.most == LIMIT


def test_one_connection_goes_round(stage):
    workers = Workers(stage, limit=1)

    async def story() -> None:
        for number in (0, 1):
            workers.load(number, 1000)
        held = set()
        for _ in range(40):
            await asyncio.sleep(0.5)
            held.add(tuple(workers.held))
        assert {(1, 0), (0, 1)} <= held

    workers.play(story)
    assert workers.most == 1


def test_courier_that_must_go_ends_after_its_message_and_no_other_with_it(workers: Workers):
    async def story() -> None:
        workers.load(0, 1000)
        await asyncio.sleep(1.0)
        before = len(workers.stage.servers)
        workers.load(1, 1000)
        await asyncio.sleep(2.0)
        assert len(workers.stage.servers) == before + 2

    workers.play(story)
    assert all(outcome.__class__.__name__ == "Delivered" for outcome in workers.stage.outcomes.values())


def test_nothing_is_asked_per_message(workers: Workers, monkeypatch: pytest.MonkeyPatch):
    asked = []
    negotiate = MemoryQuota.negotiate

    async def counted(self, session, asks, *, former=()):
        asked.append(session)
        return await negotiate(self, session, asks, former=former)

    monkeypatch.setattr(MemoryQuota, "negotiate", counted)

    async def story() -> None:
        workers.load(0, 1000)
        await asyncio.sleep(20.0)

    workers.play(story)
    assert len(workers.stage.outcomes) > 500
    assert len(asked) < 10
