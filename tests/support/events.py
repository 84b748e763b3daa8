"""Events and a clock for tests of the search index and what is built on it."""

from __future__ import annotations

import asyncio

import msgspec

from pigeonry.domain.event import (
    Accepted,
    Attachment,
    Delivered,
    DeliveryStatus,
    EventMessage,
    Failed,
    MessageHeaders,
    Storage,
    encode_event,
)

__all__ = ["T0", "SetClock", "accepted", "delivered", "failed", "ids", "number"]

T0 = 1_795_000_000.0  # seconds; 2026-11-18 11:06:40 UTC


class SetClock:
    """A clock that stands where it was set."""

    def __init__(self, now: float = T0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += max(seconds, 0.0)
        await asyncio.sleep(0)


def _message(number: int, subject: str, sender: str, to: str) -> EventMessage:
    headers = MessageHeaders(f"{number}@mail.example", sender, to, subject)
    return EventMessage(headers, size=1000 + number, attachments=(Attachment(f"bill-{number}.pdf", "a/b", 9),))


def accepted(number: int, at: float, **fields) -> bytes:
    recipient = fields.pop("recipient", f"user{number}@there.example")
    message = _message(
        number,
        fields.pop("subject", f"Order #{number} is on its way"),
        fields.pop("sender", "Shop <shop@mail.example>"),
        recipient,
    )
    event = Accepted(
        id=f"a{number:021d}",
        timestamp=at,
        domain=fields.pop("domain", "mail.example"),
        account="acc",
        message=message,
        recipient=recipient,
        storage=Storage("k" * 22),
        user_variables=msgspec.Raw(msgspec.json.encode(fields.pop("variables", {}))),
        **fields,
    )
    return encode_event(event)


def delivered(number: int, at: float, **fields) -> bytes:
    return _outcome(Delivered, number, at, delivery_status=DeliveryStatus(250), **fields)


def failed(number: int, at: float, **fields) -> bytes:
    severity = fields.pop("severity", "permanent")
    return _outcome(Failed, number, at, delivery_status=DeliveryStatus(550), severity=severity, **fields)


def _outcome(kind, number: int, at: float, **fields) -> bytes:
    recipient = fields.pop("recipient", f"user{number}@there.example")
    subject = fields.pop("subject", f"Order #{number} is on its way")
    event = kind(
        id=f"b{number:021d}",
        timestamp=at,
        domain=fields.pop("domain", "mail.example"),
        account="acc",
        message=_message(number, subject, "Shop <shop@mail.example>", recipient),
        recipient=recipient,
        **fields,
    )
    return encode_event(event)


def number(octets: bytes) -> int:
    """The number an event was made with."""
    return int(msgspec.json.decode(octets)["id"][1:])


def ids(page) -> list[int]:
    """The numbers of the events of a page."""
    return [number(octets) for _, octets in page.items]
