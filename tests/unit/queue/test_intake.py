"""A submission becomes one commit: message, recipients, accepted events. Nothing else is left of a refused one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pigeonry.domain.errors import BadRequest, StoreBusy, StoreInDoubt
from pigeonry.domain.event import Accepted, Failed, decode_event, stamp
from pigeonry.domain.message import Accept, BodyKind, IdempotencyRecord, MessageKey, NewRecipient, Note, Options
from pigeonry.queue.commands import Commands
from pigeonry.queue.event_ids import EventIds
from pigeonry.queue.intake import RECIPIENTS_LISTED_MAX
from support.watched_store import submission


def test_one_commit_holds_message_recipients_and_events(play) -> None:
    async def story(rig) -> None:
        sent = submission("A@x.test", "b@y.test", tags=("t",), key="key-id", originating_ip="192.0.2.9")
        key = await rig.intake.accept(sent, deadline=rig.deadline())
        (accept,) = rig.store.commits
        assert isinstance(accept, Accept)
        assert accept.message.key == key
        assert accept.message.expires_at == rig.clock.now() + 259_200
        assert accept.message.summary.recipients is msgspec.UNSET
        first, second = [decode_event(octets) for octets in accept.events]
        assert isinstance(first, Accepted)
        assert (first.recipient, first.recipient_domain) == ("A@x.test", "x.test")
        assert (second.recipient, second.recipient_domain) == ("b@y.test", "y.test")
        assert first.message.recipients == ("A@x.test", "b@y.test")
        assert first.message.scheduled_for is msgspec.UNSET
        assert (first.api_key_id, first.originating_ip, first.method) == ("key-id", "192.0.2.9", "http")
        assert first.flags.is_authenticated
        assert not first.flags.is_test_mode
        assert first.storage.key == key.text()
        assert (first.envelope.sender, first.envelope.targets, first.envelope.transport) == (
            "bounce@send.test",
            "A@x.test",
            "http",
        )
        assert first.id != second.id
        assert len(first.id) == 22
        assert first.timestamp == stamp(accept.message.accepted_at)
        assert [p.serial for p in rig.dispatched] == [key.serial, key.serial + 1]

    play(story)


@pytest.mark.parametrize(("notify", "original"), [("NEVER", ""), ("", "rfc822;o@x.test"), ("", "")])
def test_a_message_says_whether_a_recipient_asked_for_notifications_of_its_own(play, notify, original) -> None:
    async def story(rig) -> None:
        recipients = (NewRecipient("a@x.test", 0.0), NewRecipient("b@x.test", 0.0, b"", notify, original))
        sent = msgspec.structs.replace(submission("a@x.test"), recipients=recipients)
        key = await rig.intake.accept(sent, deadline=rig.deadline())
        assert (await rig.store.message(key)).dsn_each is bool(notify or original)

    play(story)


def test_a_scheduled_message_says_when_and_expires_that_much_later(play) -> None:
    async def story(rig) -> None:
        due = rig.clock.now() + 5000
        key = await rig.intake.accept(submission("a@x.test", due=due), deadline=rig.deadline())
        message = await rig.store.message(key)
        assert message.expires_at == due + 259_200
        assert decode_event(rig.store.events[0]).message.scheduled_for == due
        assert not rig.dispatched

    play(story)


def test_a_time_in_the_past_is_now(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test", due=5.0), deadline=rig.deadline())
        assert decode_event(rig.store.events[0]).message.scheduled_for is msgspec.UNSET
        assert len(rig.dispatched) == 1

    play(story)


def test_events_of_a_thousand_recipients_do_not_grow_with_each_other(play) -> None:
    async def story(rig) -> None:
        addresses = [f"recipient-number-{n}@example-{n}.test" for n in range(1000)]
        await rig.intake.accept(submission(*addresses), deadline=rig.deadline())
        assert len(rig.store.events) == 1000
        assert max(map(len, rig.store.events)) < 2500
        event = decode_event(rig.store.events[999])
        assert event.message.recipients is msgspec.UNSET
        assert event.message.headers.to.endswith(".test")

    play(story)


def test_recipients_are_listed_up_to_the_bound(play) -> None:
    async def story(rig) -> None:
        for count in (RECIPIENTS_LISTED_MAX, RECIPIENTS_LISTED_MAX + 1):
            await rig.intake.accept(submission(*[f"r{n}@x.test" for n in range(count)]), deadline=rig.deadline())
        assert len(decode_event(rig.store.events[0]).message.recipients) == RECIPIENTS_LISTED_MAX
        assert decode_event(rig.store.events[-1]).message.recipients is msgspec.UNSET

    play(story)


def test_test_mode_and_trusted_networks_are_flagged(play) -> None:
    async def story(rig) -> None:
        sent = submission("a@x.test", options=Options(testmode=True), authenticated=False, method="smtp")
        await rig.intake.accept(sent, deadline=rig.deadline())
        event = decode_event(rig.store.events[0])
        assert (event.flags.is_test_mode, event.flags.is_authenticated) == (True, False)
        assert (event.method, event.envelope.transport) == ("smtp", "smtp")
        assert event.api_key_id is msgspec.UNSET

    play(story)


@pytest.mark.parametrize("count", [0, 1001])
def test_a_message_has_one_to_a_thousand_recipients(play, count) -> None:
    async def story(rig) -> None:
        with pytest.raises(BadRequest):
            await rig.intake.accept(submission(*["a@x.test"] * count), deadline=rig.deadline())
        assert not rig.store.commits

    play(story)


@pytest.mark.parametrize("fault", [StoreBusy("x"), StoreInDoubt("x")])
def test_what_could_not_be_committed_goes_nowhere(play, fault) -> None:
    async def story(rig) -> None:
        rig.store.faults.append(fault)
        with pytest.raises(type(fault)):
            await rig.intake.accept(submission("a@x.test"), deadline=rig.deadline())
        await rig.clock.sleep(60)
        assert not rig.dispatched
        assert not rig.scheduler._expected
        assert rig.content.octets == 0

    play(story)


def test_what_a_key_was_reserved_for_goes_nowhere_else(play, monkeypatch) -> None:
    async def story(rig) -> None:
        record = IdempotencyRecord(b"s" * 32, b"f" * 32, b"{}", 1e12, "3/7")
        sent = msgspec.structs.replace(submission("a@x.test"), idempotency=record)
        monkeypatch.setattr(rig.store, "place", lambda: "3/8", raising=False)  # the owner is another one by now
        with pytest.raises(StoreBusy):
            await rig.intake.accept(sent, deadline=rig.deadline())
        monkeypatch.setattr(rig.store, "place", lambda: "3/7", raising=False)
        await rig.intake.accept(sent, deadline=rig.deadline())
        assert len(rig.store.commits) == 1

    play(story)


def test_a_cancelled_door_hands_nothing_over(play) -> None:
    async def story(rig) -> None:
        rig.store.commit_gate = asyncio.Event()
        door = asyncio.ensure_future(rig.intake.accept(submission("a@x.test"), deadline=rig.deadline()))
        await rig.clock.sleep(1)
        door.cancel()
        await rig.clock.sleep(1)
        assert not rig.dispatched
        assert not rig.scheduler._expected

    play(story)


def test_content_is_kept_only_for_what_is_in_memory(play) -> None:
    async def story(rig) -> None:
        await rig.intake.accept(submission("a@x.test", due=rig.clock.now() + 9999), deadline=rig.deadline())
        assert rig.content.octets == 0
        await rig.intake.accept(submission("b@x.test"), deadline=rig.deadline())
        assert rig.content.octets > 0

    play(story)


def test_a_rejection_is_one_note(play) -> None:
    async def story(rig) -> None:
        await rig.intake.reject(
            submission("a@x.test", "b@x.test"), reason="policy", description="No.", deadline=rig.deadline()
        )
        (note,) = rig.store.commits
        assert isinstance(note, Note)
        event = decode_event(note.event)
        assert event.recipient == "a@x.test"
        assert event.reject.reason == "policy"
        assert event.message.recipients == ("a@x.test", "b@x.test")
        assert not rig.dispatched

    play(story)


def test_event_ids_are_fixed_by_what_they_are_about() -> None:
    ids, same, other = EventIds(b"a" * 32), EventIds(b"a" * 32), EventIds(b"b" * 32)
    key = MessageKey(1, 2, 3)
    mine = ids.event_id(key.shard, key.serial, 1, "failed")
    assert mine == same.event_id(1, 3, 1, "failed")
    assert len(mine) == 22
    others = {
        ids.event_id(1, 3, 2, "failed"),
        ids.event_id(1, 3, 1, "delivered"),
        ids.event_id(1, 4, 1, "failed"),
        ids.event_id(2, 3, 1, "failed"),
        other.event_id(1, 3, 1, "failed"),
        mine,
    }
    assert len(others) == 6


def test_events_of_a_batch_tell_of_their_recipient_alone(play) -> None:
    async def story(rig) -> None:
        batch = submission(
            "a@x.test", "b@x.test", body_kind=BodyKind.TEMPLATE, user_variables=msgspec.Raw(b'{"n":"%recipient.n%"}')
        )
        own = b'{"n":"A","%user%":"{\\"n\\":\\"A\\"}"}'
        first, second = batch.recipients
        batch = msgspec.structs.replace(batch, recipients=(msgspec.structs.replace(first, variables=own), second))
        key = await rig.intake.accept(batch, deadline=rig.deadline())
        await Commands(rig.store, rig.scheduler, rig.clock, rig.event_ids).cancel(
            key, account="acct", deadline=rig.deadline()
        )
        events = [decode_event(octets) for octets in rig.store.events]
        assert [(type(e), e.recipient, e.message.headers.to, bytes(e.user_variables)) for e in events] == [
            (kind, address, address, variables)
            for kind in (Accepted, Failed)
            for address, variables in (("a@x.test", b'{"n":"A"}'), ("b@x.test", b'{"n":"%recipient.n%"}'))
        ]
        assert [e.message.recipients for e in events[:2]] == [("a@x.test",), ("b@x.test",)]

    play(story)
