"""What waits for its group, in virtual time, while the store behind answers nothing."""

from __future__ import annotations

import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.domain.message import MessageKey, Note, Void
from pigeonry.stores.backlog import GATHER_FROM, GATHER_S, GRAIN_S, Backlog, Bounds
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.loop import VirtualLoop

BOUNDS = Bounds(
    group_transitions_max=8, group_recipients_max=8, backlog_transitions_max=100, backlog_octets_max=1_000_000
)
DEADLINE_S = 20.0


def test_what_is_new_is_refused_at_once_and_what_ends_a_message_waits() -> None:
    loop = VirtualLoop()

    async def story() -> None:
        clock = VirtualClock(loop)
        why: list[str] = []
        silent = lambda: why[0] if why else None  # noqa: E731
        backlog = Backlog(clock=clock, bounds=BOUNDS, closed=lambda: None, full=lambda: None, silent=silent)
        watch = loop.create_task(backlog.watch_deadlines())
        flying = backlog.commit(Note(b"e"), deadline=DEADLINE_S)
        assert backlog.gather() == [flying]
        new = backlog.commit(Note(b"e"), deadline=DEADLINE_S)
        old = backlog.commit(Void(MessageKey(1, 1, 1), 1), deadline=DEADLINE_S)
        await clock.sleep(1.0)
        assert (flying.ended, new.ended, backlog.reason_to_shed()) == (False, False, None)

        why.append("the store does not answer")
        await clock.sleep(2 * GRAIN_S)
        with pytest.raises(StoreInDoubt):
            await flying
        with pytest.raises(StoreBusy):
            await new
        with pytest.raises(StoreBusy):
            await backlog.commit(Note(b"e"), deadline=DEADLINE_S)
        assert backlog.reason_to_shed() == "the store does not answer"
        assert not old.ended

        why.clear()
        assert backlog.gather() == [old]
        assert not backlog.commit(Note(b"e"), deadline=DEADLINE_S).ended
        watch.cancel()

    loop.play(story())


@pytest.mark.parametrize(
    ("last", "waiting", "pause_s"),
    [(GATHER_FROM - 1, 1, 0.0), (GATHER_FROM, 1, GATHER_S), (GATHER_FROM, BOUNDS.group_transitions_max, 0.0)],
)
def test_a_group_grows_for_a_moment_when_the_last_one_was_large_and_this_one_is_not_full(
    last: int, waiting: int, pause_s: float
) -> None:
    loop = VirtualLoop()

    async def story() -> None:
        clock = VirtualClock(loop)
        backlog = Backlog(clock=clock, bounds=BOUNDS, closed=lambda: None, full=lambda: None)
        for _ in range(last):
            backlog.commit(Note(b"e"), deadline=DEADLINE_S)
        assert len(backlog.gather()) == last
        for _ in range(waiting):
            backlog.commit(Note(b"e"), deadline=DEADLINE_S)
        began = clock.monotonic()
        await backlog.some()
        assert clock.monotonic() - began == pytest.approx(pause_s)

    loop.play(story())
