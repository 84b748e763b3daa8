"""An attempt's outcome becomes one write: the recipient's new state and its event.

Pure functions. What they decide: whether to try again and when, when to give up, and what people are told. An
attempt *in doubt* (the reply after the final dot was lost, invariant I4) is tried again, and its event as well as
those of all later attempts carry ``is-possible-duplicate``.

Standards: RFC 5321 section 4.5.4.1; RFC 3463 (enhanced codes). The event's fields and the internal codes are
those of the Mailgun events API; 601 is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from pigeonry.domain import event as events
from pigeonry.domain.message import RecipientState, Settle
from pigeonry.domain.outcome import Attempt, Deferred, Delivered, InDoubt, Refused, Withdrawn
from pigeonry.domain.reply import Reply
from pigeonry.queue.retry import next_attempt

if TYPE_CHECKING:
    from typing import Literal

    from pigeonry.domain.message import Message, Pending
    from pigeonry.domain.outcome import Outcome
    from pigeonry.ports.environment import Dice
    from pigeonry.queue.event_ids import EventIds
    from pigeonry.queue.retry import RetrySchedule

__all__ = ["OLD_CODE", "TEST_MODE", "WITHDRAWN_CODE", "settle", "withdraw"]

UNREACHABLE_CODE: Final = 498  # internal: no MX, or none could be reached
OLD_CODE: Final = 602  # internal: too old, retries are exhausted
TEST_MODE_CODE: Final = 650  # internal: test mode, nothing was sent
WITHDRAWN_CODE: Final = 601  # internal, ours: cancelled or dropped by its owner

TEST_MODE: Final = Delivered(Attempt(), Reply(TEST_MODE_CODE, "Test mode: accepted and not sent"))
"""The outcome of a message with ``o:testmode``: delivered, without a connection."""

_TOO_OLD: Final = "Not delivered before its expiry"
_LOST_REPLY: Final = "The receiver's reply after the message was lost: it may have been delivered"


def settle(
    pending: Pending,
    message: Message,
    outcome: Outcome,
    *,
    now: float,
    dice: Dice,
    schedule: RetrySchedule,
    ids: EventIds,
) -> Settle:
    """What to write for the outcome of an attempt.

    Args:
        pending: The recipient as it was attempted.
        message: Its message.
        now: When the attempt ended, seconds since the Unix epoch.
    """
    if isinstance(outcome, Delivered):
        return _delivered(pending, message, outcome, now=now, ids=ids)
    if isinstance(outcome, Refused):
        status = _status(
            pending,
            message,
            outcome,
            code=outcome.code,
            reply=outcome.reply,
            description=outcome.description,
            now=now,
        )
        _blame(status, outcome)
        status["bounce_type"] = "hard"
        return _failed(pending, message, outcome.attempt, status, outcome.reason, now=now, ids=ids)
    if isinstance(outcome, Withdrawn):
        return withdraw(
            pending,
            message,
            reason=outcome.reason,
            code=WITHDRAWN_CODE,
            description=outcome.description,
            now=now,
            ids=ids,
        )
    return _try_again(pending, message, outcome, now=now, dice=dice, schedule=schedule, ids=ids)


def withdraw(
    pending: Pending,
    message: Message,
    *,
    reason: str,
    code: int,
    description: str,
    now: float,
    ids: EventIds,
) -> Settle:
    """What to write for a recipient that its owner cancelled or dropped: an end without an attempt.

    Args:
        reason: The event's reason, such as ``cancelled``.
        code: The event's code.
        description: One sentence.
    """
    domain = pending.address[pending.address.rindex("@") + 1 :]
    event = events.Failed(
        id=ids.event_id(pending.message.shard, pending.serial, 0, "failed"),
        timestamp=events.stamp(now),
        domain=message.domain,
        account=message.account,
        message=message.summary,
        log_level="error",
        recipient=pending.address,
        recipient_domain=domain,
        envelope=events.Envelope(sender=message.reverse_path, targets=pending.address),
        flags=_flags(message, in_doubt=pending.in_doubt),
        tags=message.tags,
        user_variables=message.user_variables,
        storage=events.Storage(message.key.text()),
        delivery_status=events.DeliveryStatus(
            code=code, description=description, attempt_no=pending.attempts, utf8=message.smtputf8
        ),
        severity="permanent",
        reason=reason,
        accepted_minute=pending.accepted_minute,
    )
    return Settle(
        pending=pending,
        state=RecipientState.FAILED,
        event=events.encode_event(event),
        attempts=pending.attempts,
        first_attempt_at=pending.first_attempt_at,
        in_doubt=pending.in_doubt,
    )


def _delivered(pending: Pending, message: Message, outcome: Delivered, *, now: float, ids: EventIds) -> Settle:
    attempt = outcome.attempt
    reply = outcome.reply
    first = pending.first_attempt_at or now - attempt.session_s
    number = pending.attempts + 1
    address = pending.address
    event = events.Delivered(
        id=ids.event_id(pending.message.shard, pending.serial, number, "delivered"),
        timestamp=events.stamp(now),
        domain=message.domain,
        account=message.account,
        message=message.summary,
        recipient=address,
        recipient_domain=address[address.rindex("@") + 1 :],
        envelope=events.Envelope("smtp", message.reverse_path, address, attempt.sending_ip, attempt.sending_host),
        flags=_flags(message, in_doubt=pending.in_doubt),
        tags=message.tags,
        user_variables=message.user_variables,
        storage=events.Storage(message.key.text()),
        delivery_status=events.DeliveryStatus(
            reply.code,
            reply.text,
            "",
            reply.enhanced_code,
            number,
            attempt.session_s,
            attempt.mx_host,
            attempt.tls,
            attempt.certificate_verified,
            attempt.utf8,
            first_delivery_attempt_seconds=_waited(message, first),
        ),
        primary_dkim=attempt.dkim or UNSET,
        accepted_minute=pending.accepted_minute,
    )
    return Settle(pending, RecipientState.DELIVERED, events.encode_event(event), 0.0, number, first, pending.in_doubt)


def _try_again(
    pending: Pending,
    message: Message,
    outcome: Deferred | InDoubt,
    *,
    now: float,
    dice: Dice,
    schedule: RetrySchedule,
    ids: EventIds,
) -> Settle:
    doubt = isinstance(outcome, InDoubt)
    if isinstance(outcome, InDoubt):
        code, reply, reason = UNREACHABLE_CODE, None, "generic"
        description = outcome.description or _LOST_REPLY
    else:
        code, reply, reason, description = outcome.code, outcome.reply, outcome.reason, outcome.description
    number = pending.attempts + 1
    pause_s = outcome.pause_s if isinstance(outcome, Deferred) else 0.0
    held = isinstance(outcome, Deferred) and outcome.held
    if (held and now >= message.expires_at) or (isinstance(outcome, Deferred) and outcome.over):
        due = None
    elif held:
        due = pending.due
    else:
        due = next_attempt(
            now=now,
            attempts=number,
            expires_at=message.expires_at,
            schedule=schedule,
            dice=dice,
            in_doubt=doubt,
            pause_s=pause_s,
        )
    status = _status(pending, message, outcome, code=code, reply=reply, description=description, now=now)
    if isinstance(outcome, Deferred):
        _blame(status, outcome)
    status["bounce_type"] = "soft"
    if due is None:
        status["last_code"] = code
        status["last_message"] = description if reply is None else reply.text
        status["code"] = OLD_CODE
        status["message"] = _TOO_OLD
        return _failed(pending, message, outcome.attempt, status, "old", now=now, ids=ids, doubt=doubt)
    if not held:
        status["retry_seconds"] = round(due - now)
    return _failed(pending, message, outcome.attempt, status, reason, now=now, ids=ids, doubt=doubt, due=due)


def _failed(
    pending: Pending,
    message: Message,
    attempt: Attempt,
    status: dict[str, object],
    reason: str,
    *,
    now: float,
    ids: EventIds,
    doubt: bool = False,
    due: float | None = None,
) -> Settle:
    """A failed attempt: temporary when ``due`` is given, else the end."""
    number = pending.attempts + 1
    address = pending.address
    doubt = doubt or pending.in_doubt
    severity: Literal["permanent", "temporary"] = "permanent" if due is None else "temporary"
    event = events.Failed(
        id=ids.event_id(pending.message.shard, pending.serial, number, "failed"),
        timestamp=events.stamp(now),
        domain=message.domain,
        account=message.account,
        message=message.summary,
        log_level="error" if due is None else "warn",
        recipient=address,
        recipient_domain=address[address.rindex("@") + 1 :],
        envelope=events.Envelope("smtp", message.reverse_path, address, attempt.sending_ip, attempt.sending_host),
        flags=_flags(message, in_doubt=doubt),
        tags=message.tags,
        user_variables=message.user_variables,
        storage=events.Storage(message.key.text()),
        delivery_status=events.DeliveryStatus(**status),  # type: ignore[arg-type]  # built in _status, by its names
        severity=severity,
        reason=reason,
        primary_dkim=attempt.dkim or UNSET,
        accepted_minute=pending.accepted_minute if due is None else UNSET,
    )
    return Settle(
        pending=pending,
        state=RecipientState.FAILED if due is None else RecipientState.PENDING,
        event=events.encode_event(event),
        due=due or 0.0,
        attempts=number,
        first_attempt_at=pending.first_attempt_at or now - attempt.session_s,
        in_doubt=doubt,
    )


def _status(
    pending: Pending,
    message: Message,
    outcome: Deferred | Refused | InDoubt,
    *,
    code: int,
    reply: Reply | None,
    description: str,
    now: float,
) -> dict[str, object]:
    attempt = outcome.attempt
    return {
        "code": code,
        "message": "" if reply is None else reply.text,
        "description": description,
        "enhanced_code": "" if reply is None else reply.enhanced_code,
        "attempt_no": pending.attempts + 1,
        "session_seconds": attempt.session_s,
        "mx_host": attempt.mx_host,
        "tls": attempt.tls,
        "certificate_verified": attempt.certificate_verified,
        "utf8": attempt.utf8,
        "first_delivery_attempt_seconds": _waited(message, pending.first_attempt_at or now - attempt.session_s),
    }


def _blame(status: dict[str, object], outcome: Deferred | Refused) -> None:
    """Say by which rule, and what is to blame."""
    if outcome.cause is not None:
        status["cause"] = outcome.cause
    if outcome.rule:
        status["rule"] = outcome.rule


def _waited(message: Message, first_attempt_at: float) -> float:
    """Seconds from when the message could first have been attempted to when it was."""
    scheduled = message.summary.scheduled_for
    since = message.accepted_at if isinstance(scheduled, UnsetType) else max(message.accepted_at, scheduled)
    return max(0.0, round(first_attempt_at - since, 6))


_PLAIN_FLAGS: Final = events.Flags(is_authenticated=True)


def _flags(message: Message, *, in_doubt: bool) -> events.Flags:
    if message.authenticated and not in_doubt and not message.options.testmode:
        return _PLAIN_FLAGS
    return events.Flags(
        is_authenticated=message.authenticated,
        is_test_mode=message.options.testmode,
        is_possible_duplicate=True if in_doubt else UNSET,
    )
