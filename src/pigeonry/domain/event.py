"""Everything we record of a message, in the very shape that the events API and webhooks show.

One representation serves log, search index, API and webhooks, so that nothing is lost between them:
the field names are the wire's (reference: Mailgun's event schema), encoded by msgspec with defaults
left out. Storage URLs depend on the host a client used and are added when an event is shown.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from pigeonry.domain.blame import Cause

__all__ = [
    "Accepted",
    "Attachment",
    "Delivered",
    "DeliveryStatus",
    "Envelope",
    "Event",
    "EventMessage",
    "Failed",
    "Flags",
    "MessageHeaders",
    "Reject",
    "Rejected",
    "Storage",
    "decode_event",
    "encode_event",
    "stamp",
]

EMPTY_OBJECT: Final = msgspec.Raw(b"{}")


class _Part(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True, gc=False):
    """What the nested parts have in common: frozen, kebab-case on the wire, defaults left out."""


class MessageHeaders(_Part, frozen=True):
    """The four headers that an event repeats. ``message_id`` stands without angle brackets."""

    message_id: str
    from_: str = msgspec.field(default="", name="from")
    to: str = ""
    subject: str = ""


class Attachment(_Part, frozen=True):
    """One attachment; ``size`` in octets, decoded."""

    filename: str
    content_type: str
    size: int


class EventMessage(_Part, frozen=True, omit_defaults=False):
    """What an event says of its message; ``size`` in octets as stored, ``scheduled_for`` in epoch seconds."""

    headers: MessageHeaders
    size: int = 0
    attachments: tuple[Attachment, ...] = ()
    recipients: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    scheduled_for: float | msgspec.UnsetType = msgspec.UNSET


class Envelope(_Part, frozen=True, omit_defaults=False):
    """How the message travels: ``sender`` is the reverse-path, ``targets`` this forward-path."""

    transport: Literal["smtp", "http"] = "smtp"
    sender: str = ""
    targets: str = ""
    sending_ip: str = ""
    sending_host: str = ""


class Flags(_Part, frozen=True, omit_defaults=False):
    """Facts with two values. ``is_possible_duplicate`` is ours: set on a retry after an attempt in doubt."""

    is_routed: bool = False
    is_authenticated: bool = False
    is_system_test: bool = False
    is_test_mode: bool = False
    is_possible_duplicate: bool | msgspec.UnsetType = msgspec.UNSET


class Storage(_Part, frozen=True):
    """Where the message is kept; ``url`` is filled in when an event is shown."""

    key: str
    url: str = ""


class DeliveryStatus(_Part, frozen=True, omit_defaults=False):
    """The outcome of one attempt. Durations in seconds; ``code`` may be one of the internal ones.

    Internal codes (reference section 2.4): 498 no MX or unreachable, 499 MX unreachable, 602 too old,
    650 test mode.

    ``rule`` and ``cause`` are ours: the rule of the rule book that a refusal or deferral fired, and what is to blame
    (``domain.blame``).
    """

    code: int
    message: str = ""
    description: str = ""
    enhanced_code: str = ""
    attempt_no: int = 1
    session_seconds: float = 0.0
    mx_host: str = ""
    tls: bool = False
    certificate_verified: bool = False
    utf8: bool = False
    retry_seconds: int | msgspec.UnsetType = msgspec.UNSET
    first_delivery_attempt_seconds: float | msgspec.UnsetType = msgspec.UNSET
    bounce_type: Literal["hard", "soft"] | msgspec.UnsetType = msgspec.UNSET
    last_code: int | msgspec.UnsetType = msgspec.UNSET
    last_message: str | msgspec.UnsetType = msgspec.UNSET
    rule: str | msgspec.UnsetType = msgspec.UNSET
    cause: Cause | msgspec.UnsetType = msgspec.UNSET


class Reject(_Part, frozen=True):
    """Why a message was not taken."""

    reason: str
    description: str = ""


class _Event(msgspec.Struct, frozen=True, rename="kebab", tag_field="event", gc=False):
    """What all events have.

    Args:
        id: 22 characters of base64url; unique, fixed before the write and the same on a repeated write.
        timestamp: Seconds since the Unix epoch, in whole microseconds (``stamp``).
        domain: The sending domain; an extension of ours, removed when an event is shown.
        account: The account's id; removed when an event is shown.
    """

    id: str
    timestamp: float
    domain: str
    account: str
    message: EventMessage
    log_level: Literal["info", "warn", "error"] = "info"
    recipient: str = ""
    recipient_domain: str = ""
    envelope: Envelope = Envelope()
    flags: Flags = Flags()
    tags: tuple[str, ...] = ()
    campaigns: tuple[str, ...] = ()
    user_variables: msgspec.Raw = EMPTY_OBJECT
    storage: Storage | msgspec.UnsetType = msgspec.UNSET


class Accepted(_Event, frozen=True, tag="accepted"):
    """Durable, and ours to deliver. One for each recipient."""

    method: Literal["smtp", "http"] = "http"
    originating_ip: str | msgspec.UnsetType = msgspec.UNSET
    api_key_id: str | msgspec.UnsetType = msgspec.UNSET


class Rejected(_Event, frozen=True, tag="rejected", kw_only=True):
    """Refused after authentication, before anything was stored but this event."""

    reject: Reject


class Delivered(_Event, frozen=True, tag="delivered", kw_only=True):
    """The receiver took responsibility. Final.

    A final event says in which minute its message was accepted (``domain.message.minute_of``), so that whoever reads
    the log can balance it without remembering each message; an extension of ours, removed when an event is shown.
    """

    delivery_status: DeliveryStatus
    primary_dkim: str | msgspec.UnsetType = msgspec.UNSET
    accepted_minute: int | msgspec.UnsetType = msgspec.UNSET


class Failed(_Event, frozen=True, tag="failed", kw_only=True):
    """An attempt failed: ``permanent`` is final, ``temporary`` is tried again."""

    delivery_status: DeliveryStatus
    severity: Literal["permanent", "temporary"]
    reason: str = "generic"
    primary_dkim: str | msgspec.UnsetType = msgspec.UNSET
    accepted_minute: int | msgspec.UnsetType = msgspec.UNSET


Event = Accepted | Rejected | Delivered | Failed

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Event)


def stamp(now: float) -> float:
    """A time as an event's timestamp: in whole microseconds, for clients read six decimals and a clock may give seven.

    Args:
        now: Seconds since the Unix epoch.
    """
    return round(now * 1e6) / 1e6


def encode_event(event: Event) -> bytes:
    """The event as the log keeps it: one JSON object."""
    return _ENCODER.encode(event)


def decode_event(octets: bytes) -> Event:
    """Read back what ``encode_event`` wrote.

    Raises:
        msgspec.DecodeError: The octets are not one of our events.
    """
    event: Event = _DECODER.decode(octets)
    return event
