"""A follower keeps its view level with the store, and leaves it as it was when the store is gone."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.ports import feed
from pigeonry.ports.feed import Follower
from support.tenancy import FlakyDocuments, HandClock


class View:
    def __init__(self) -> None:
        self.documents = FlakyDocuments()
        self.clock = HandClock()
        self.now: dict[str, bytes] = {}
        self.applied = 0
        self.follower = Follower(self.documents, self.clock, self._apply)

    def _apply(self, change) -> None:
        self.applied += 1
        self.now.pop(change.id, None)
        if change.document is not None:
            self.now[change.id] = change.document.value


@pytest.fixture
def view() -> View:
    return View()


async def test_view_has_what_the_store_has(view: View):
    for name in ("a", "b", "c"):
        await view.documents.put("k", name, b"1", expect=0)
    await view.follower.refresh()
    await view.documents.put("k", "b", b"2", expect=1)
    await view.documents.delete("k", "a", expect=None)
    await view.follower.refresh()
    assert view.now == {"b": b"2", "c": b"1"}
    assert view.applied == 5


async def test_more_changes_than_a_page_are_all_taken_in_at_once(view: View, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feed, "_PAGE", 3)
    for number in range(10):
        await view.documents.put("k", str(number), b"", expect=0)
    await view.follower.refresh()
    assert len(view.now) == 10


async def test_failed_look_leaves_the_view_and_is_told(view: View):
    await view.documents.put("k", "a", b"1", expect=0)
    await view.follower.refresh()
    view.documents.down = True
    view.clock.at += 7
    with pytest.raises(StoreBusy):
        await view.follower.refresh()
    assert view.now == {"a": b"1"}
    assert view.follower.failing
    assert view.follower.stale_s() == 7


async def test_before_the_first_look_nothing_is_said_about_age(view: View):
    assert view.follower.stale_s() is None


async def test_slow_look_never_puts_an_older_state_back(view: View):
    await view.documents.put("k", "a", b"old", expect=0)
    answered = asyncio.Event()
    changes = view.documents.changes

    async def slowly(*, after: int, limit: int = 1000):
        page = await changes(after=after, limit=limit)
        await answered.wait()
        return page

    view.documents.changes = slowly  # type: ignore[method-assign]
    slow = asyncio.create_task(view.follower.refresh())
    await asyncio.sleep(0)
    view.documents.changes = changes  # type: ignore[method-assign]
    await view.documents.put("k", "a", b"new", expect=1)
    await view.follower.refresh()
    answered.set()
    await slow
    assert view.now == {"a": b"new"}


async def test_run_tells_when_the_store_goes_and_comes_once_each(view: View):
    told: list[bool] = []
    running = asyncio.create_task(view.follower.run(told.append))

    async def turns() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    await turns()
    assert told == []
    view.documents.down = True
    await turns()
    assert told == [False]
    view.documents.down = False
    await view.documents.put("k", "late", b"", expect=0)
    await turns()
    assert told == [False, True]
    assert "late" in view.now
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
