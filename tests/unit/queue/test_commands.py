"""Commands: what waits is ended or hastened, what is in an attempt or ended is left alone, and the answer says so."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pigeonry.domain.errors import NotFound, StoreBusy
from pigeonry.domain.event import decode_event
from pigeonry.domain.message import RecipientState, Settle
from pigeonry.queue.commands import CommandAnswer, Commands
from support.watched_store import submission


def commands(rig) -> Commands:
    return Commands(rig.store, rig.scheduler, rig.clock, rig.event_ids)


def finals(rig) -> list[tuple[str, str]]:
    events = [decode_event(octets) for octets in rig.store.events]
    return sorted((e.recipient, e.reason) for e in events if getattr(e, "severity", "") == "permanent")


async def deliver(rig, pending) -> None:
    assert rig.scheduler.claim(pending)
    event = rig.store.events[0]
    await rig.scheduler.settled(Settle(pending, RecipientState.DELIVERED, event, 0.0, 1), deadline=rig.deadline())


def test_cancel_ends_what_waits_wherever_it_waits(play) -> None:
    async def story(rig) -> None:
        now = rig.clock.now()
        for due in (0.0, now + 5, now + 5000):
            key = await rig.intake.accept(submission("a@x.test", "b@x.test", due=due), deadline=rig.deadline())
            answer = await commands(rig).cancel(key, account="acct", deadline=rig.deadline())
            assert answer == CommandAnswer(done=2)
        assert len(finals(rig)) == 6
        assert {reason for _, reason in finals(rig)} == {"cancelled"}
        assert not any(rig.scheduler.claim(p) for p in rig.dispatched)
        await rig.clock.sleep(6000)
        assert len(rig.dispatched) == 2
        assert rig.scheduler.in_memory == 0
        assert not rig.scheduler._claimed

    play(story)


def test_what_is_in_an_attempt_or_ended_is_left_alone(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test", "b@x.test", "c@x.test"), deadline=rig.deadline())
        a, b, _ = rig.dispatched
        await deliver(rig, a)
        assert rig.scheduler.claim(b)
        answer = await commands(rig).cancel(key, account="acct", deadline=rig.deadline())
        assert answer == CommandAnswer(done=1, in_attempt=1, ended=1)
        assert finals(rig) == [("c@x.test", "cancelled")]
        again = await commands(rig).cancel(key, account="acct", deadline=rig.deadline())
        assert again == CommandAnswer(in_attempt=1, ended=2)

    play(story)


def test_drop_carries_its_reason_and_code(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        await commands(rig).drop(
            key, account="acct", reason="suppress-bounce", code=605, description="On the list", deadline=rig.deadline()
        )
        event = decode_event(rig.store.events[-1])
        assert (event.reason, event.delivery_status.code) == ("suppress-bounce", 605)

    play(story)


def test_a_cancel_whose_caller_went_away_is_finished(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        rig.store.faults += [StoreBusy("later")] * 3
        cancel = asyncio.ensure_future(commands(rig).cancel(key, account="acct", deadline=rig.deadline()))
        await rig.clock.sleep(0.1)
        cancel.cancel()
        await rig.clock.sleep(10)
        assert finals(rig) == [("a@x.test", "cancelled")]
        assert not rig.scheduler.claim(rig.dispatched[0])

    play(story)


def test_a_store_that_cannot_be_read_leaves_everything_as_it_was(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        original, calls = rig.store.recipients, []

        async def second_fails(asked):
            calls.append(asked)
            if len(calls) == 2:
                raise StoreBusy("disk")
            return await original(asked)

        rig.store.recipients = second_fails
        with pytest.raises(StoreBusy):
            await commands(rig).cancel(key, account="acct", deadline=rig.deadline())
        await rig.clock.sleep(1)
        assert rig.scheduler.claim(rig.dispatched[-1])

    play(story)


def test_retry_now_dispatches_what_waits_but_not_what_is_in_doubt(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test", "b@x.test"), deadline=rig.deadline())
        a, b = rig.dispatched
        later = rig.clock.now() + 3000
        for pending, doubt in ((a, False), (b, True)):
            settle = Settle(pending, RecipientState.PENDING, rig.store.events[0], later, 1, 1.0, doubt)
            await rig.scheduler.settled(settle, deadline=rig.deadline())
        answer = await commands(rig).retry_now(key, account="acct")
        assert answer == CommandAnswer(done=1, in_doubt=1)
        await rig.clock.sleep(1)
        assert [p.address for p in rig.dispatched[2:]] == ["a@x.test"]
        assert rig.scheduler.claim(rig.dispatched[2])
        await rig.clock.sleep(3010)
        assert [p.address for p in rig.dispatched[2:]] == ["a@x.test", "b@x.test"]

    play(story)


def test_retry_now_hastens_one_that_waits_in_memory(play) -> None:
    async def story(rig) -> None:
        due = rig.clock.now() + 20
        key = await rig.intake.accept(submission("a@x.test", due=due), deadline=rig.deadline())
        await commands(rig).retry_now(key, account="acct")
        await rig.clock.sleep(0.1)
        assert len(rig.dispatched) == 1
        await rig.clock.sleep(60)
        assert len(rig.dispatched) == 1

    play(story)


def test_the_message_of_another_account_does_not_exist(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        stranger = msgspec.structs.replace(key, serial=key.serial + 99)
        for asked, account in ((key, "other"), (stranger, "acct")):
            with pytest.raises(NotFound):
                await commands(rig).cancel(asked, account=account, deadline=rig.deadline())
            with pytest.raises(NotFound):
                await commands(rig).retry_now(asked, account=account)
        assert rig.scheduler.claim(rig.dispatched[0])

    play(story)


def test_a_worker_that_ends_cuts_off_its_commands(play) -> None:
    async def story(rig) -> None:
        key = await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        rig.store.commit_gate = asyncio.Event()
        handler = commands(rig)
        cancel = asyncio.ensure_future(handler.cancel(key, account="acct", deadline=rig.deadline()))
        await rig.clock.sleep(1)
        handler.stop()
        await asyncio.wait((cancel,))
        assert cancel.cancelled()
        assert not finals(rig)

    play(story)


def test_what_it_concerns_is_hastened_wherever_it_waits_and_no_other(play) -> None:
    async def story(rig) -> None:
        now = rig.clock.now()
        for due in (now + 5, now + 5000):
            await rig.intake.accept(submission("a@x.test", "b@y.test", due=due), deadline=rig.deadline())
        answer = await commands(rig).hasten(lambda pending: pending.address.endswith("@x.test"))
        assert answer == CommandAnswer(done=2)
        await rig.clock.sleep(0.1)
        assert [pending.address for pending in rig.dispatched] == ["a@x.test", "a@x.test"]
        assert all(rig.scheduler.claim(pending) for pending in rig.dispatched)
        assert await commands(rig).hasten(lambda pending: pending.address.endswith("@x.test")) == CommandAnswer(
            in_attempt=2
        )
        await rig.clock.sleep(10.0)
        assert [pending.address for pending in rig.dispatched] == ["a@x.test", "a@x.test", "b@y.test"]

    play(story)
