"""A submission becomes a message: durable with all its recipients and their ``accepted`` events, or not at all.

The doors hand over what they have understood. Here it gets its key, its expiry and its events, goes through one
commit, and only when that is durable does the door hear of success (invariant I1). Recipients that are due go
straight on to delivery, with their content still in memory.

A door that is cancelled while the commit runs has acknowledged nothing: the store then voids the message, as it does
with one that it could not confirm in time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from msgspec import UNSET

from pigeonry.domain import event as events
from pigeonry.domain.errors import BadRequest, StoreBusy
from pigeonry.domain.message import (
    Accept,
    BodyKind,
    Message,
    MessageKey,
    NewRecipient,
    Note,
    Pending,
    as_told_of,
    minute_of,
)
from pigeonry.ports.queue_store import Later
from pigeonry.queue.retry import EXPIRY_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from pigeonry.domain.submission import Submission
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.ports.queue_store import Commit, QueueStore
    from pigeonry.queue.content import ContentCache
    from pigeonry.queue.event_ids import EventIds
    from pigeonry.queue.scheduler import Scheduler

__all__ = ["Intake", "Taken"]

RECIPIENTS_MAX: Final = 1_000  # recipients of one message, as the messages API promises
RECIPIENTS_LISTED_MAX: Final = 20  # recipients repeated in each accepted event: with more, events would grow as n x n
HEADER_CHARACTERS_MAX: Final = 1_024  # characters of a To header in an event, for the same reason


class Taken(Protocol):
    """Told how the taking of a message ended."""

    def __call__(self, taken: Accept | None, error: Exception | None, /) -> None:
        """``taken`` is the message that is durable now and ours, None when ``error`` says why there is none."""
        ...


class Intake:
    """Takes submissions in.

    Args:
        store: Makes them durable.
        scheduler: Is offered their recipients.
        clock: Time.
        ids: Makes the ids of events that belong to no message.
        event_ids: Derives the ids of all other events.
        content: Keeps the body for the first attempt, None to read it from the store.
        expiry_s: Seconds from when a message is due until it is given up.
    """

    def __init__(
        self,
        store: QueueStore,
        scheduler: Scheduler,
        clock: Clock,
        ids: IdSource,
        *,
        event_ids: EventIds,
        content: ContentCache | None = None,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._ids = ids
        self._event_ids = event_ids
        self._content = content
        self._expiry_s = expiry_s

    def begin(self, make: Callable[[], Submission], *, octets: int, deadline: float, told: Taken) -> Commit:
        """Begin to make a message durable and its recipients ours to deliver; never waits.

        Args:
            make: Makes the submission; called once, when its group is gathered.
            octets: Of the body that is held in memory meanwhile.
            deadline: Monotonic time by which the door must have its answer.
            told: Called once, later. The error may be ``BadRequest`` (no recipients, or over a thousand), whatever
                ``make`` raised, ``StoreBusy`` (nothing was stored) or ``StoreInDoubt`` (what may have been stored is
                voided by the store).

        Returns:
            What can be withdrawn while nobody was told yet.
        """
        now = events.stamp(self._clock.now())
        made: list[Accept] = []

        def accept() -> Accept:
            submission = make()
            count = len(submission.recipients)
            if not 1 <= count <= RECIPIENTS_MAX:
                raise BadRequest(f"A message has 1 to {RECIPIENTS_MAX} recipients.")
            record = submission.idempotency
            if record is not None and record.place != self._store.place():
                raise StoreBusy("The part of the queue that this key was reserved for moved.", retry_after_s=1.0)
            key = self._store.allocate(count)
            made.append(self._build(submission, key, now))
            self._scheduler.expect(key)
            return made[0]

        def ended(error: Exception | None) -> None:
            if error is None:
                self._hand_over(made[0])
                told(made[0], None)
                return
            if made:
                self._scheduler.abandon(made[0].message.key)
            told(None, error)

        commit = self._store.commit(Later(accept, accepts=True, octets=octets), deadline=deadline)
        commit.then(ended)
        return commit

    async def accept(self, submission: Submission, *, deadline: float) -> MessageKey:
        """The same for those who wait. One that is cancelled has acknowledged nothing: the message is voided.

        Raises:
            BadRequest, StoreBusy, StoreInDoubt: As above.
        """
        waiter: asyncio.Future[MessageKey] = asyncio.get_running_loop().create_future()

        def told(taken: Accept | None, error: Exception | None) -> None:
            if waiter.done():
                return
            if taken is not None:
                waiter.set_result(taken.message.key)
            elif error is not None:
                waiter.set_exception(error)

        body = submission.body
        octets = len(body) if isinstance(body, bytes) else 0
        commit = self.begin(lambda: submission, octets=octets, deadline=deadline, told=told)
        try:
            return await waiter
        except asyncio.CancelledError:
            commit.withdraw()
            raise

    async def reject(self, submission: Submission, *, reason: str, description: str, deadline: float) -> None:
        """Record that a message of an authenticated sender was refused; nothing else is stored of it.

        Args:
            submission: What is known of it; its body is not looked at.
            reason: Why, in a word.
            description: One sentence.

        Raises:
            StoreBusy, StoreInDoubt: As in ``accept``.
        """
        key = int.from_bytes(self._ids.octets(8))
        addresses = tuple(recipient.address for recipient in submission.recipients)
        first = addresses[0] if addresses else ""
        event = events.Rejected(
            id=self._event_ids.event_id(0xFFFF, key, 0, "rejected"),
            timestamp=events.stamp(self._clock.now()),
            domain=submission.domain,
            account=submission.account,
            message=msgspec.structs.replace(
                _bounded(submission.summary, len(addresses)), recipients=addresses[:RECIPIENTS_LISTED_MAX]
            ),
            log_level="warn",
            recipient=first,
            recipient_domain=first.rpartition("@")[2],
            envelope=events.Envelope(_transport(submission.method), submission.reverse_path, first),
            flags=_flags(submission),
            tags=submission.tags,
            user_variables=submission.user_variables,
            reject=events.Reject(reason, description),
        )
        await self._store.commit(Note(events.encode_event(event)), deadline=deadline)

    # -- building

    def _build(self, submission: Submission, key: MessageKey, now: float) -> Accept:
        recipients = tuple([each if each.due else _due_now(each, now) for each in submission.recipients])
        latest = recipients[0].due if len(recipients) == 1 else max([each.due for each in recipients])
        summary = _bounded(submission.summary, len(recipients))
        if latest > now:
            summary = msgspec.structs.replace(summary, scheduled_for=latest)
        message = Message(
            key,
            submission.account,
            submission.domain,
            submission.reverse_path,
            summary,
            now,
            max(latest, now) + self._expiry_s,
            submission.body_kind,
            submission.eight_bit,
            submission.smtputf8,
            submission.method,
            submission.tags,
            submission.user_variables,
            submission.options,
            submission.authenticated,
            submission.envelope_id,
            submission.dsn_return,
            any(each.notify or each.original for each in recipients),
        )
        return Accept(
            message,
            submission.body,
            recipients,
            self._accepted(submission, message, recipients),
            submission.idempotency,
        )

    def _accepted(
        self, submission: Submission, message: Message, recipients: tuple[NewRecipient, ...]
    ) -> tuple[bytes, ...]:
        """One encoded event for each recipient."""
        key = message.key
        shard, serial = key.shard, key.serial
        summary = message.summary
        if len(recipients) <= RECIPIENTS_LISTED_MAX:
            addresses = tuple([recipient.address for recipient in recipients])
            summary = events.EventMessage(
                summary.headers, summary.size, summary.attachments, addresses, summary.scheduled_for
            )
        method = _transport(submission.method)
        flags = _flags(submission)
        storage = events.Storage(key.text())
        reverse_path = message.reverse_path
        timestamp = events.stamp(message.accepted_at)
        event_id, encode, accepted, envelope = (
            self._event_ids.event_id,
            events.encode_event,
            events.Accepted,
            events.Envelope,
        )
        encoded = []
        batch = message.body_kind is BodyKind.TEMPLATE
        user_variables = message.user_variables
        for recipient in recipients:
            address = recipient.address
            if batch:
                told = as_told_of(message, address, recipient.variables)
                summary = msgspec.structs.replace(told.summary, recipients=(address,))
                user_variables = told.user_variables
            event = accepted(
                event_id(shard, serial, 0, "accepted"),
                timestamp,
                message.domain,
                message.account,
                summary,
                "info",
                address,
                address[address.rindex("@") + 1 :],
                envelope(method, reverse_path, address),
                flags,
                message.tags,
                (),
                user_variables,
                storage,
                method,
                submission.originating_ip or UNSET,
                submission.key or UNSET,
            )
            encoded.append(encode(event))
            serial += 1
        return tuple(encoded)

    # -- handing over

    def _hand_over(self, accept: Accept) -> None:
        message = accept.message
        key = message.key
        account, domain, pool, expires_at = message.account, message.domain, message.options.pool, message.expires_at
        minute = minute_of(message.accepted_at)
        pendings = [
            Pending(
                key,
                key.serial + index,
                key.day,
                recipient.address,
                recipient.due,
                account,
                domain,
                pool,
                expires_at,
                0,
                0.0,
                False,  # by place: twice as fast
                minute,
            )
            for index, recipient in enumerate(accept.recipients)
        ]
        body = accept.body
        if self._content is not None and isinstance(body, bytes):
            # Before the offer: what is dispatched may ask for it at once.
            self._content.put(message, body, uses=len(pendings))
            left = len(pendings) - self._scheduler.offer(pendings)
            if left:
                self._content.release(key, left)
        else:
            self._scheduler.offer(pendings)


def _due_now(recipient: NewRecipient, now: float) -> NewRecipient:
    return NewRecipient(recipient.address, now, recipient.variables, recipient.notify, recipient.original)


def _bounded(summary: events.EventMessage, recipients: int) -> events.EventMessage:
    """What all events of a message repeat: without the list of recipients, its To header cut where many share it."""
    headers = summary.headers
    if recipients > RECIPIENTS_LISTED_MAX and len(headers.to) > HEADER_CHARACTERS_MAX:
        kept = headers.to[:HEADER_CHARACTERS_MAX].rpartition(",")[0]
        headers = msgspec.structs.replace(headers, to=kept or headers.to[:HEADER_CHARACTERS_MAX])
    elif summary.recipients is UNSET:
        return summary
    return events.EventMessage(headers, summary.size, summary.attachments, UNSET, summary.scheduled_for)


_PLAIN_FLAGS: Final = events.Flags(is_authenticated=True)


def _flags(submission: Submission) -> events.Flags:
    if submission.authenticated and not submission.options.testmode:
        return _PLAIN_FLAGS
    return events.Flags(is_authenticated=submission.authenticated, is_test_mode=submission.options.testmode)


def _transport(method: str) -> Literal["smtp", "http"]:
    return "smtp" if method == "smtp" else "http"
