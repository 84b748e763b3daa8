"""A queue store that a test holds in its hand: a dictionary, with gates where things may be slow or fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import (
    Accept,
    DotSent,
    IdempotencyRecord,
    Message,
    MessageKey,
    NewRecipient,
    Note,
    Pending,
    RecipientState,
    RecipientView,
    Settle,
    Transition,
    Void,
)
from pigeonry.domain.submission import Submission
from pigeonry.ports.queue_store import DueMark


class ModelStore:
    """Everything is durable at once, unless ``faults`` says otherwise.

    ``commits`` are what was stored, in order. ``faults`` are raised by the next commits. ``page_gate``, when set,
    holds back the answer of ``due`` after its snapshot was taken.
    """

    def __init__(self) -> None:
        self.commits: list[Transition] = []
        self.faults: list[BaseException] = []
        self.messages: dict[MessageKey, tuple[Message, bytes]] = {}
        self.views: dict[tuple[int, int], RecipientView] = {}
        self.events: list[bytes] = []
        self.page_gate: asyncio.Event | None = None
        self.commit_gate: asyncio.Event | None = None
        self.pages = 0
        self.reads = 0
        self._serial = 1

    def owned(self) -> Sequence[int]:
        return (3,)

    def allocate(self, recipients: int) -> MessageKey:
        key = MessageKey(3, 20_000, self._serial)
        self._serial += recipients
        return key

    async def commit(self, transition: Transition, *, deadline: float) -> None:
        if self.commit_gate is not None:
            await self.commit_gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        self.commits.append(transition)
        self.apply(transition)

    def apply(self, transition: Transition) -> None:
        if isinstance(transition, Accept):
            message, body = transition.message, transition.body
            assert isinstance(body, bytes)
            self.messages[message.key] = (message, body)
            key = message.key
            for index, new in enumerate(transition.recipients):
                pending = Pending(key, key.serial + index, key.day, new.address, new.due, message.account)
                self.views[key.shard, pending.serial] = RecipientView(pending, RecipientState.PENDING)
            self.events += transition.events
        elif isinstance(transition, Settle):
            was = transition.pending
            place = (was.message.shard, was.serial)
            if self.views[place].state is not RecipientState.PENDING:
                return
            pending = msgspec.structs.replace(
                was,
                due=transition.due,
                attempts=transition.attempts,
                first_attempt_at=transition.first_attempt_at,
                in_doubt=transition.in_doubt,
            )
            self.views[place] = RecipientView(pending, transition.state)
            self.events.append(transition.event)
        elif isinstance(transition, Void):
            key = transition.message
            self.messages.pop(key, None)
            for serial in range(key.serial, key.serial + transition.recipients):
                self.views.pop((key.shard, serial), None)
        elif isinstance(transition, Note):
            self.events.append(transition.event)
        else:
            assert isinstance(transition, DotSent)

    async def due(self, *, after: DueMark, until: float, limit: int) -> Sequence[Pending]:
        self.pages += 1
        waiting = [view.pending for view in self.views.values() if view.state is RecipientState.PENDING]
        marks = sorted((DueMark(p.due, p.message.shard, p.serial), p) for p in waiting)
        page = [p for mark, p in marks if mark > after and mark.due <= until][:limit]
        if self.page_gate is not None:
            await self.page_gate.wait()
        return page

    async def message(self, key: MessageKey) -> Message | None:
        self.reads += 1
        await asyncio.sleep(0)
        found = self.messages.get(key)
        return None if found is None else found[0]

    async def body(self, key: MessageKey) -> bytes | None:
        found = self.messages.get(key)
        return None if found is None else found[1]

    async def recipients(self, key: MessageKey) -> Sequence[RecipientView]:
        return [view for view in self.views.values() if view.pending.message == key]

    async def recipient(self, pending: Pending) -> RecipientView | None:
        return self.views.get((pending.message.shard, pending.serial))

    async def idempotent(self, scope: bytes) -> IdempotencyRecord | None:
        return None

    def reason_to_shed(self) -> str | None:
        return None


def submission(
    *addresses: str, due: float = 0.0, body: bytes = b"Subject: x\r\n\r\nhello\r\n", **more: object
) -> Submission:
    """A submission to these addresses."""
    return Submission(
        account="acct",
        domain="send.test",
        reverse_path="bounce@send.test",
        recipients=tuple(NewRecipient(address, due) for address in addresses),
        summary=EventMessage(MessageHeaders("1@send.test", "a@send.test", ", ".join(addresses), "x"), len(body)),
        body=body,
        **more,  # type: ignore[arg-type]
    )
