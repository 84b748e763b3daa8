"""What a journal's group is made of, as octets.

An entry says what came of a transition, not what was asked for: whether a settle still counts was decided by the owner
before it was written, so that reading a journal needs no judgement and gives the same state each time.

MessagePack arrays with a tag in front: new fields may be added at an entry's end with a default, so that a node of the
release before reads what this one writes.
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

__all__ = ["Accepted", "Adopted", "Dotted", "Entry", "Noted", "Settled", "Voided", "decode", "encode"]


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag=0, gc=False):
    """A message.

    Args:
        serial: Its first recipient's.
        day: Days since the Unix epoch.
        tenant: The account.
        domain, pool, expires_at: As ``domain.message.Pending`` has them.
        recipients: Address and due time of each.
        events: One for each.
        scope: Of its idempotency record, empty when none.
        minute: Of acceptance, for the ledger.
    """

    serial: int
    day: int
    tenant: str
    domain: str
    pool: str
    expires_at: float
    recipients: tuple[tuple[str, float], ...]
    events: tuple[bytes, ...]
    scope: bytes = b""
    minute: int = 0


class Dotted(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The octet that completes the message was about to leave."""

    serial: int
    attempt: int


class Settled(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A recipient's new state, as ``domain.message.Settle`` has it; an empty event is none.

    Args:
        message: The first serial of its message.
        domain, minute: What the ledger counts it under. It counts each entry, whoever is still known to wait: so that
            what is folded over a checkpoint adds up.
    """

    serial: int
    message: int
    state: int
    due: float
    attempts: int
    first_attempt_at: float
    in_doubt: bool
    event: bytes
    domain: str = ""
    minute: int = 0


class Voided(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A message that was never acknowledged.

    Args:
        day: Days since the Unix epoch, of the message.
        domain, minute: What the ledger counted it under.
        counted: Its recipients that waited, and that the ledger counts no more.
    """

    serial: int
    recipients: int
    day: int
    domain: str = ""
    minute: int = 0
    counted: int = 0


class Noted(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """An event that changes no recipient."""

    event: bytes


class Adopted(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Groups of a closed epoch that appeared late were copied: their entries follow in this group.

    Args:
        epoch: Which.
        next: The number after the last one that was copied; ``COMPLETE`` when no more will come.
    """

    COMPLETE: ClassVar[int] = -1

    epoch: int
    next: int


Entry = Accepted | Dotted | Settled | Voided | Noted | Adopted

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Entry])


def encode(entries: list[Entry]) -> bytes:
    """A group's entries as octets."""
    return _encoder.encode(entries)


def decode(octets: bytes) -> list[Entry]:
    """Read what ``encode`` gave.

    Raises:
        msgspec.DecodeError: They are something else.
    """
    return _decoder.decode(octets)
