"""Why a recipient is where it is."""

from __future__ import annotations

import pytest

from pigeonry.domain.errors import NotFound
from pigeonry.domain.holding import Holding
from pigeonry.domain.message import MessageKey, RecipientState, Settle
from pigeonry.queue.why import Why
from support.watched_store import submission

NEXT = Holding("turn", "server", "It waits for its turn.")


def why(rig) -> Why:
    return Why(rig.store, rig.scheduler, rig.clock, waiting=lambda _: NEXT)


async def settle(rig, pending, state, **how) -> None:
    assert rig.scheduler.claim(pending)
    settle = Settle(pending, state, rig.store.events[0], attempts=1, **how)
    await rig.scheduler.settled(settle, deadline=rig.deadline())


def test_each_recipient_says_what_holds_it_and_until_when(play) -> None:
    async def story(rig) -> None:
        now = rig.clock.now()
        names = [f"{name}@x.test" for name in ("delivered", "failed", "attempt", "turn", "retry", "doubt")]
        key = await rig.intake.accept(submission(*names), deadline=rig.deadline())
        delivered, failed, attempt, _, retry, doubt = rig.dispatched
        await settle(rig, delivered, RecipientState.DELIVERED)
        await settle(rig, failed, RecipientState.FAILED)
        assert rig.scheduler.claim(attempt)
        await settle(rig, retry, RecipientState.PENDING, due=now + 600.0)
        await settle(rig, doubt, RecipientState.PENDING, due=now + 900.0, in_doubt=True)
        found = {each.recipient.split("@")[0]: each for each in await why(rig).of(key)}
        assert {name: each.holding.limit for name, each in found.items()} == {
            "delivered": "ended",
            "failed": "ended",
            "attempt": "attempt",
            "turn": "turn",
            "retry": "retry",
            "doubt": "doubt",
        }
        assert found["delivered"].state == "delivered"
        assert found["turn"].holding == NEXT
        assert (found["retry"].holding.until, found["retry"].attempts) == (now + 600.0, 1)
        assert (found["doubt"].holding.until, found["doubt"].in_doubt) == (now + 900.0, True)

    play(story)


def test_mail_for_later_says_so(play) -> None:
    async def story(rig) -> None:
        due = rig.clock.now() + 5_000.0
        key = await rig.intake.accept(submission("a@x.test", due=due), deadline=rig.deadline())
        (standing,) = await why(rig).of(key)
        assert (standing.holding.limit, standing.holding.whose, standing.holding.until) == ("schedule", "message", due)

    play(story)


def test_what_is_not_there_is_not_found(play) -> None:
    async def story(rig) -> None:
        with pytest.raises(NotFound):
            await why(rig).of(MessageKey(0, 1, 99))

    play(story)
