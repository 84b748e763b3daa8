"""Outcomes become states and events, as the events API says them."""

from __future__ import annotations

import msgspec
import pytest

from pigeonry.domain.blame import Cause
from pigeonry.domain.event import Delivered as DeliveredEvent
from pigeonry.domain.event import EventMessage, Failed, MessageHeaders, decode_event
from pigeonry.domain.message import Message, MessageKey, Options, Pending, RecipientState
from pigeonry.domain.outcome import Attempt, Deferred, Delivered, InDoubt, Refused
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.queue.event_ids import EventIds
from pigeonry.queue.retry import RetrySchedule
from pigeonry.queue.settlement import TEST_MODE, settle, withdraw

KEY = MessageKey(7, 20_000, 100)
IDS = EventIds(b"k" * 32)
ATTEMPT = Attempt(
    "mx.x.test", "192.0.2.1", tls=True, certificate_verified=True, session_s=1.5, dkim="s._domainkey.d.test"
)
MESSAGE = Message(
    KEY,
    "acct",
    "d.test",
    "b@d.test",
    EventMessage(MessageHeaders("1@d.test", "a@d.test", "r@x.test", "s"), 512),
    accepted_at=1000.0,
    expires_at=100_000.0,
    tags=("t",),
    user_variables=msgspec.Raw(b'{"a":"1"}'),
)
PENDING = Pending(KEY, 101, 20_000, "R@x.test", 1000.0, "acct", "d.test", "", 100_000.0)


class Zero:
    def random(self) -> float:
        return 0.0


def outcome_of(outcome, *, pending: Pending = PENDING, message: Message = MESSAGE, now: float = 1010.0):
    written = settle(pending, message, outcome, now=now, dice=Zero(), schedule=RetrySchedule(), ids=IDS)
    return written, decode_event(written.event)


def test_timestamp_has_six_decimals_whatever_the_clock_gives() -> None:
    now = 1_795_802_139.1234567
    assert str(now) == "1795802139.1234567"
    for outcome in (Delivered(ATTEMPT, Reply(250, "ok")), Refused(ATTEMPT, 550, Reply(550, "no"))):
        assert str(outcome_of(outcome, now=now)[1].timestamp) == "1795802139.123457"


def test_delivered_is_final_and_tells_all() -> None:
    written, event = outcome_of(Delivered(ATTEMPT, Reply(250, "ok", EnhancedStatus(0, 0))))
    assert written.state is RecipientState.DELIVERED
    assert (written.attempts, written.first_attempt_at, written.in_doubt) == (1, 1008.5, False)
    assert isinstance(event, DeliveredEvent)
    status = event.delivery_status
    assert (status.code, status.message, status.enhanced_code, status.attempt_no) == (250, "ok", "2.0.0", 1)
    assert (status.mx_host, status.tls, status.certificate_verified, status.session_seconds) == (
        "mx.x.test",
        True,
        True,
        1.5,
    )
    assert status.first_delivery_attempt_seconds == 8.5
    assert status.retry_seconds is msgspec.UNSET
    assert status.bounce_type is msgspec.UNSET
    assert event.envelope.sending_ip == "192.0.2.1"
    assert event.primary_dkim == "s._domainkey.d.test"
    assert event.recipient_domain == "x.test"
    assert (event.tags, bytes(event.user_variables)) == (("t",), b'{"a":"1"}')
    assert event.flags.is_possible_duplicate is msgspec.UNSET
    assert event.storage.key == KEY.text()


def test_a_deferral_is_tried_again_and_says_when() -> None:
    written, event = outcome_of(Deferred(ATTEMPT, 451, Reply(451, "busy", EnhancedStatus(3, 2)), reason="greylisted"))
    assert written.state is RecipientState.PENDING
    assert (written.due, written.attempts, written.in_doubt) == (1310.0, 1, False)
    assert isinstance(event, Failed)
    assert (event.severity, event.reason, event.log_level) == ("temporary", "greylisted", "warn")
    status = event.delivery_status
    assert (status.code, status.message, status.enhanced_code) == (451, "busy", "4.3.2")
    assert (status.retry_seconds, status.bounce_type) == (300, "soft")


def test_a_deferral_without_a_reply_has_its_internal_code_and_description() -> None:
    _, event = outcome_of(Deferred(Attempt(), 498, description="No route"))
    assert (event.delivery_status.code, event.delivery_status.description) == (498, "No route")


def test_a_refusal_is_final() -> None:
    written, event = outcome_of(Refused(ATTEMPT, 550, Reply(550, "no such user", EnhancedStatus(1, 1))))
    assert written.state is RecipientState.FAILED
    assert (event.severity, event.reason, event.log_level) == ("permanent", "bounce", "error")
    assert (event.delivery_status.bounce_type, event.delivery_status.enhanced_code) == ("hard", "5.1.1")
    assert event.delivery_status.retry_seconds is msgspec.UNSET


def test_after_its_expiry_a_deferral_is_final_and_too_old() -> None:
    pending = msgspec.structs.replace(PENDING, attempts=9, first_attempt_at=1001.0)
    written, event = outcome_of(Deferred(ATTEMPT, 451, Reply(451, "busy")), pending=pending, now=100_000.0)
    assert (written.state, written.attempts) == (RecipientState.FAILED, 10)
    assert (event.severity, event.reason) == ("permanent", "old")
    status = event.delivery_status
    assert (status.code, status.last_code, status.last_message, status.bounce_type) == (602, 451, "busy", "soft")
    assert (status.attempt_no, status.first_delivery_attempt_seconds) == (10, 1.0)


def test_in_doubt_is_tried_again_late_and_flagged_then_and_ever_after() -> None:
    written, event = outcome_of(InDoubt(ATTEMPT))
    assert (written.state, written.due, written.in_doubt) == (RecipientState.PENDING, 1610.0, True)
    assert (event.severity, event.flags.is_possible_duplicate) == ("temporary", True)
    again = msgspec.structs.replace(PENDING, attempts=1, first_attempt_at=1008.5, in_doubt=True)
    for outcome in (
        Delivered(ATTEMPT, Reply(250, "ok")),
        Deferred(ATTEMPT, 451),
        Refused(ATTEMPT, 550),
        InDoubt(ATTEMPT),
    ):
        written, event = outcome_of(outcome, pending=again)
        assert written.in_doubt
        assert event.flags.is_possible_duplicate is True
        assert event.delivery_status.attempt_no == 2


def test_in_doubt_after_the_expiry_is_final() -> None:
    written, event = outcome_of(InDoubt(ATTEMPT), now=100_000.0)
    assert written.state is RecipientState.FAILED
    assert (event.reason, event.flags.is_possible_duplicate) == ("old", True)


def test_test_mode_is_delivered_with_650() -> None:
    message = msgspec.structs.replace(MESSAGE, options=Options(testmode=True))
    written, event = outcome_of(TEST_MODE, message=message)
    assert written.state is RecipientState.DELIVERED
    assert (event.delivery_status.code, event.flags.is_test_mode) == (650, True)


def test_a_scheduled_message_counts_its_wait_from_its_time() -> None:
    summary = msgspec.structs.replace(MESSAGE.summary, scheduled_for=1005.0)
    message = msgspec.structs.replace(MESSAGE, summary=summary)
    _, event = outcome_of(Delivered(ATTEMPT, Reply(250, "ok")), message=message)
    assert event.delivery_status.first_delivery_attempt_seconds == 3.5


def test_withdrawn_ends_without_an_attempt() -> None:
    pending = msgspec.structs.replace(PENDING, attempts=2, first_attempt_at=1001.0)
    written = withdraw(pending, MESSAGE, reason="cancelled", code=601, description="By its owner", now=1010.0, ids=IDS)
    event = decode_event(written.event)
    assert (written.state, written.attempts) == (RecipientState.FAILED, 2)
    assert (event.severity, event.reason, event.delivery_status.code) == ("permanent", "cancelled", 601)


@pytest.mark.parametrize("outcome", [Deferred(ATTEMPT, 451), Refused(ATTEMPT, 550), Delivered(ATTEMPT, Reply(250, ""))])
def test_a_repeated_settle_is_the_same_write(outcome) -> None:
    assert outcome_of(outcome)[0] == outcome_of(outcome)[0]


def test_who_is_held_stays_due_as_he_was_until_his_expiry() -> None:
    waits = Deferred(Attempt(), 603, description="No address", held=True)
    written, event = outcome_of(waits)
    assert (written.state, written.due, written.attempts) == (RecipientState.PENDING, PENDING.due, 1)
    assert event.delivery_status.retry_seconds is msgspec.UNSET
    assert (event.severity, event.delivery_status.code, event.delivery_status.description) == (
        "temporary",
        603,
        "No address",
    )
    assert outcome_of(waits, now=99_999.0)[0].state is RecipientState.PENDING
    assert outcome_of(waits, now=100_000.0)[0].state is RecipientState.FAILED


def test_who_waited_for_as_long_as_he_may_fails_as_too_old() -> None:
    written, event = outcome_of(Deferred(Attempt(), 603, description="No address", over=True))
    assert written.state is RecipientState.FAILED
    assert (event.severity, event.reason) == ("permanent", "old")
    status = event.delivery_status
    assert (status.code, status.last_code, status.last_message, status.bounce_type) == (602, 603, "No address", "soft")


def test_the_rule_and_what_is_to_blame_are_told() -> None:
    told = Deferred(ATTEMPT, 421, Reply(421, "slowly"), rule="big.rate", cause=Cause.RATE, pause_s=3600.0)
    written, event = outcome_of(told)
    assert (event.delivery_status.rule, event.delivery_status.cause) == ("big.rate", Cause.RATE)
    assert 3600 <= event.delivery_status.retry_seconds <= 4500
    assert b'"rule":"big.rate","cause":"rate"' in written.event
    _, event = outcome_of(Refused(ATTEMPT, 550, Reply(550, "no"), rule="world.refused", cause=Cause.POLICY))
    assert (event.delivery_status.rule, event.delivery_status.cause) == ("world.refused", Cause.POLICY)
    _, event = outcome_of(Refused(ATTEMPT, 550, Reply(550, "no")))
    assert (event.delivery_status.rule, event.delivery_status.cause) == (msgspec.UNSET, msgspec.UNSET)
