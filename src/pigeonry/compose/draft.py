"""A message that is composed but not yet stored: what both ways of composing end in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from pigeonry.domain.errors import TooLarge
from pigeonry.domain.event import Attachment, EventMessage, MessageHeaders
from pigeonry.domain.message import Body, IdempotencyRecord, NewRecipient
from pigeonry.domain.submission import Submission

__all__ = ["Draft", "gathered", "summary"]

SMALL_OCTETS_MAX: Final = 262_144  # a body over this is not put together in memory but written to a file of its own
MESSAGE_OCTETS_MAX: Final = 36_700_160  # 35 MiB: 25 MiB of content once base64 has grown it by 37 %
RECIPIENTS_SHOWN_MAX: Final = 50  # in each event; a thousand events of a thousand addresses would be 30 MB
ATTACHMENTS_CHARACTERS_MAX: Final = 8_192  # of the files listed in each event: a hundred, with ordinary names
_FILE_CHARACTERS: Final = 50  # of a file in an event beside its name and type
_SHOWN_CHARACTERS_MAX: Final = 2_000  # of a header in an event, for the same reason

Octets = bytes | bytearray | memoryview


class Draft(msgspec.Struct, frozen=True):
    """A message but for its place in the store.

    Args:
        composed: Everything else; its body is the octets when they are few, and empty when they are not.
        pieces: The octets of a large body, to be written one after the other; empty for a small one.
        message_id: With angle brackets, as the client is told.
    """

    composed: Submission
    pieces: Sequence[Octets]
    message_id: str

    def submission(self, *, body: Body | None = None, idempotency: IdempotencyRecord | None = None) -> Submission:
        """What is handed over.

        Args:
            body: Where the octets of a large body are now.
            idempotency: What to commit beside it.
        """
        composed = self.composed
        if idempotency is not None:
            composed = msgspec.structs.replace(composed, idempotency=idempotency)
        return composed if body is None else msgspec.structs.replace(composed, body=body)


def gathered(pieces: Sequence[Octets]) -> tuple[int, bytes, Sequence[Octets]]:
    """The size of a body, its octets when it is small, and its pieces when it is not.

    Raises:
        TooLarge: It is over what a message may have.
    """
    size = sum(map(len, pieces))
    if size <= SMALL_OCTETS_MAX:
        return size, b"".join(pieces), ()
    if size > MESSAGE_OCTETS_MAX:
        raise TooLarge("The message is larger than 25 MiB.")
    return size, b"", pieces


def summary(
    *,
    message_id: str,
    from_: str,
    to: str,
    subject: str,
    size: int,
    recipients: tuple[NewRecipient, ...],
    batch: bool,
    attachments: tuple[Attachment, ...] = (),
    deliver_at: float = 0.0,
) -> EventMessage:
    """What the message's events repeat.

    A batch's ``subject`` stands as it was given, with placeholders, for its events share this one summary; its ``to``
    becomes the recipient's address in each (``domain.message.as_told_of``).
    ``recipients`` is left out of a batch, where each recipient is alone, and over 50. Of the attachments the first ones
    are listed, up to 8 KiB: a thousand recipients repeat them.
    """
    shown = not batch and len(recipients) <= RECIPIENTS_SHOWN_MAX
    if len(from_) + len(to) + len(subject) > _SHOWN_CHARACTERS_MAX:
        from_, to, subject = (text[:_SHOWN_CHARACTERS_MAX] for text in (from_, to, subject))
    return EventMessage(
        MessageHeaders(message_id, from_, to, subject),
        size,
        _listed(attachments) if attachments else (),
        tuple([recipient.address for recipient in recipients]) if shown else msgspec.UNSET,
        deliver_at or msgspec.UNSET,
    )


def _listed(attachments: Sequence[Attachment]) -> tuple[Attachment, ...]:
    """The first files, as many as an event may list."""
    room = ATTACHMENTS_CHARACTERS_MAX
    for count, file in enumerate(attachments):
        room -= len(file.filename) + len(file.content_type) + _FILE_CHARACTERS
        if room < 0:
            return tuple(attachments[:count])
    return tuple(attachments)
