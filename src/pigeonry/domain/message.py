"""A message as the store keeps it, its recipients, and what may change of them.

Everything that an attempt needs is fixed at acceptance (invariant I9), so that every attempt has the same
octets before signing. Structs are ``gc=False``: a million of them must cost no collector pause.
"""

from __future__ import annotations

import base64
import binascii
from enum import IntEnum
from typing import Final

import msgspec

from pigeonry.domain.errors import NotFound
from pigeonry.domain.event import EMPTY_OBJECT, EventMessage

__all__ = [
    "USER_VARIABLES_KEY",
    "Accept",
    "Body",
    "BodyKind",
    "BodyRef",
    "DotSent",
    "IdempotencyRecord",
    "Message",
    "MessageKey",
    "NewRecipient",
    "Note",
    "Options",
    "Pending",
    "RecipientState",
    "RecipientView",
    "Settle",
    "Transition",
    "Void",
    "as_told_of",
    "is_personal",
    "minute_of",
]

USER_VARIABLES_KEY: Final = "%user%"
"""In a batch recipient's variables: the user variables filled in for it, where the batch's have placeholders."""
_VARIABLES: Final = msgspec.json.Decoder(dict[str, str])
_PLACEHOLDER: Final = b"%recipient"
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_KEY: Final = 16  # octets of a message key: shard 2, day 4, serial 10


class MessageKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a message lives; names the shard that owns it.

    Args:
        shard: The shard's number.
        day: The day file in which it was accepted, days since the Unix epoch (UTC). A carried message
            keeps its key.
        serial: Unique in its shard for ever. The message's recipients are ``serial + 0``, ``serial + 1``, ...
    """

    shard: int
    day: int
    serial: int

    def text(self) -> str:
        """22 characters of base64url, as events show it in ``storage.key``."""
        octets = (self.shard << 112 | self.day << 80 | self.serial).to_bytes(_KEY)
        return binascii.b2a_base64(octets, newline=False)[:22].translate(_URL_SAFE).decode()

    @classmethod
    def parse(cls, text: str) -> MessageKey:
        """Read what ``text`` gave.

        Raises:
            NotFound: It is no key: for a client, the same as a key that names nothing.
        """
        try:
            octets = base64.b64decode(text.encode("ascii") + b"==", altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            octets = b""
        if len(octets) != _KEY or len(text) != 22:
            raise NotFound("Message not found")
        return cls(int.from_bytes(octets[:2]), int.from_bytes(octets[2:6]), int.from_bytes(octets[6:]))


class BodyKind(IntEnum):
    """What the stored octets are."""

    OCTETS = 0
    """The message itself, CRLF line ends, neither dot-stuffed nor terminated."""
    TEMPLATE = 1
    """What ``compose.template`` renders for each recipient."""


class BodyRef(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where a body's octets are: immutable from the commit on.

    Args:
        shard: The shard whose folder holds it.
        segment: Number of the segment file, or of a file of its own when ``offset`` is -1.
        offset: First octet in the segment.
        length: Octets.
        crc: CRC-32 of the octets; checked on every read.
    """

    shard: int
    segment: int
    offset: int
    length: int
    crc: int


Body = bytes | BodyRef
"""A body on its way into a commit: small ones as octets, those received into a file of their own by reference."""


class Options(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the sender chose. None means: as the domain's settings say.

    Args:
        dkim: Whether to sign.
        require_tls: Whether plain text is no alternative.
        skip_verification: Whether any certificate will do.
        testmode: Accept and report as delivered (650), send nothing.
        pool: Id of the egress pool to send from; empty for the domain's.
    """

    dkim: bool | None = None
    require_tls: bool | None = None
    skip_verification: bool | None = None
    testmode: bool = False
    pool: str = ""


class Message(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is stored of a message beside its octets.

    Args:
        key: Its place.
        account: Id of the account it is sent for.
        domain: The sending domain.
        reverse_path: Where failures go; empty is the null reverse-path.
        summary: What its events repeat.
        accepted_at: Seconds since the Unix epoch.
        expires_at: Seconds since the Unix epoch; what is pending then fails with reason ``old``.
        body_kind: What its octets are.
        eight_bit: Whether the body has octets over 127 (RFC 6152).
        smtputf8: Whether an address or header needs RFC 6531.
        method: The door it came in by: ``http`` or ``smtp``.
        tags: At most 10.
        user_variables: A JSON object.
        test_mode, authenticated: Facts for its events' flags.
        envelope_id: ENVID of RFC 3461, empty when none.
        dsn_return: RET of RFC 3461: ``FULL``, ``HDRS`` or empty.
        dsn_each: Whether a recipient has NOTIFY or ORCPT of its own, to be asked for when it is sent.
    """

    key: MessageKey
    account: str
    domain: str
    reverse_path: str
    summary: EventMessage
    accepted_at: float
    expires_at: float
    body_kind: BodyKind = BodyKind.OCTETS
    eight_bit: bool = False
    smtputf8: bool = False
    method: str = "http"
    tags: tuple[str, ...] = ()
    user_variables: msgspec.Raw = EMPTY_OBJECT
    options: Options = Options()
    authenticated: bool = True
    envelope_id: str = ""
    dsn_return: str = ""
    dsn_each: bool = False


class NewRecipient(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A recipient on its way into a commit.

    Args:
        address: The forward-path.
        due: When to attempt it first, seconds since the Unix epoch.
        variables: Its recipient variables, a JSON object; empty when the message is no batch.
        notify: NOTIFY of RFC 3461, empty when none.
        original: ORCPT of RFC 3461, empty when none.
    """

    address: str
    due: float
    variables: bytes = b""
    notify: str = ""
    original: str = ""


class RecipientState(IntEnum):
    """Where a recipient stands. All but PENDING are ends."""

    PENDING = 0
    DELIVERED = 1
    FAILED = 2
    VOID = 3
    """The door did not acknowledge the message: it was never ours."""
    CARRIED = 4
    """Goes on in a newer day file."""


class Pending(msgspec.Struct, frozen=True, gc=False):
    """One recipient that waits: all that the queue keeps in memory of it.

    Args:
        message: The message's key; ``message.shard`` owns the recipient.
        serial: ``message.serial`` + its index.
        day: The day file it is in now (not the message's day once it was carried).
        address: The forward-path.
        due: Seconds since the Unix epoch.
        attempts: How many have been made.
        first_attempt_at: Seconds since the Unix epoch, 0.0 before the first.
        in_doubt: An attempt's final dot may have left and its outcome is not known.
        tenant: The account, by which ready queues share out connections.
        domain: The sending domain, whose egress pool it leaves by.
        pool: The egress pool that its message names; empty when it names none.
        expires_at: As its message has it.
        accepted_minute: The minute in which its message was accepted (``minute_of``), under which the ledger counts it.
    """

    message: MessageKey
    serial: int
    day: int
    address: str
    due: float
    tenant: str
    domain: str
    pool: str
    expires_at: float
    attempts: int = 0
    first_attempt_at: float = 0.0
    in_doubt: bool = False
    accepted_minute: int = 0


class RecipientView(msgspec.Struct, frozen=True):
    """One recipient as it stands in the store, for those who ask about a message."""

    pending: Pending
    state: RecipientState
    variables: bytes = b""
    notify: str = ""
    original: str = ""


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """What a repeated request is answered with, committed together with the message.

    Args:
        scope: Domain and key, hashed by the door: 32 octets.
        fingerprint: SHA-256 of what the first request asked for.
        response: The octets of the JSON answer.
        expires_at: Seconds since the Unix epoch.
        place: Where alone its message may be accepted: ``QueueStore.place`` when the key was reserved.
    """

    scope: bytes
    fingerprint: bytes
    response: bytes
    expires_at: float
    place: str = ""


class Accept(msgspec.Struct, frozen=True):
    """Take a message: body, recipients, their ``accepted`` events and the idempotency record, or none of it.

    Args:
        events: One encoded event for each recipient, in the same order.
    """

    message: Message
    body: Body
    recipients: tuple[NewRecipient, ...]
    events: tuple[bytes, ...]
    idempotency: IdempotencyRecord | None = None


class DotSent(msgspec.Struct, frozen=True, gc=False):
    """The octet that completes the message is about to leave (invariant I4).

    Args:
        pending: The recipient.
        attempt: Number of the attempt, 1 for the first.
    """

    pending: Pending
    attempt: int


class Settle(msgspec.Struct, frozen=True, gc=False):
    """An attempt ended: the recipient's new state and its event, as one write (invariant I2).

    Settling a recipient that already has an end changes nothing: the first final event stands.

    Args:
        pending: The recipient as it was attempted.
        state: DELIVERED, FAILED, or PENDING to try again.
        event: The encoded event.
        due: With PENDING: when to try again.
        attempts: How many attempts have now been made.
        first_attempt_at: When the first one was made.
        in_doubt: With PENDING: whether the reply after the final dot was lost.
    """

    pending: Pending
    state: RecipientState
    event: bytes
    due: float = 0.0
    attempts: int = 0
    first_attempt_at: float = 0.0
    in_doubt: bool = False


class Void(msgspec.Struct, frozen=True, gc=False):
    """The door answered anything but 200/250: the message's recipients are not to be attempted.

    Its ``accepted`` events are made invisible with it (``EventLog`` says how).
    """

    message: MessageKey
    recipients: int


class Note(msgspec.Struct, frozen=True, gc=False):
    """An event that changes no recipient's state, such as ``rejected``."""

    event: bytes


Transition = Accept | DotSent | Settle | Void | Note


def minute_of(seconds: float) -> int:
    """The minute of a time, in minutes since the Unix epoch.

    Args:
        seconds: Since the Unix epoch. Divided and cut off as SQLite does it, so that both say the same.
    """
    return int(seconds / 60.0)


def is_personal(message: Message) -> bool:
    """Whether the user variables of its recipients may differ, so that ``as_told_of`` needs their own."""
    return message.body_kind is BodyKind.TEMPLATE and _PLACEHOLDER in bytes(message.user_variables)


def as_told_of(message: Message, address: str, variables: bytes) -> Message:
    """A message as the events of one recipient tell of it: one of a batch is to that recipient alone.

    Args:
        message: As it is stored, once for all.
        address: The recipient.
        variables: As ``NewRecipient.variables`` keeps them; looked at only where ``is_personal``.
    """
    if message.body_kind is not BodyKind.TEMPLATE:
        return message
    summary = msgspec.structs.replace(
        message.summary, headers=msgspec.structs.replace(message.summary.headers, to=address)
    )
    filled = _VARIABLES.decode(variables).get(USER_VARIABLES_KEY) if variables and is_personal(message) else None
    user_variables = message.user_variables if filled is None else msgspec.Raw(filled.encode())
    return msgspec.structs.replace(message, summary=summary, user_variables=user_variables)
