"""A message that is composed but not yet stored: what both ways of composing end in."""

from __future__ import annotations

import msgspec

from pigeonry.domain.errors import TooLarge
from pigeonry.domain.event import EMPTY_OBJECT, Attachment, EventMessage, MessageHeaders
from pigeonry.domain.message import Body, BodyKind, IdempotencyRecord, NewRecipient, Options
from pigeonry.domain.submission import Submission

__all__ = ["Draft", "summary", "total"]

MESSAGE_OCTETS_MAX = 36_700_160  # 35 MiB: 25 MiB of content once base64 has grown it by 37 %
RECIPIENTS_SHOWN_MAX = 50  # in each event; a thousand events of a thousand addresses would be 30 MB
_SHOWN_CHARACTERS_MAX = 2_000  # of a header in an event, for the same reason

Octets = bytes | bytearray | memoryview


class Draft(msgspec.Struct, frozen=True):
    """A message but for its place in the store.

    Args:
        pieces: Its body, to be written one after the other.
        size: Octets of all pieces.
        message_id: With angle brackets, as the client is told.
    """

    account: str
    domain: str
    key: str
    originating_ip: str
    reverse_path: str
    recipients: tuple[NewRecipient, ...]
    summary: EventMessage
    pieces: list[Octets]
    size: int
    message_id: str
    body_kind: BodyKind = BodyKind.OCTETS
    eight_bit: bool = False
    smtputf8: bool = False
    tags: tuple[str, ...] = ()
    user_variables: msgspec.Raw = EMPTY_OBJECT
    options: Options = Options()

    def submission(self, body: Body, idempotency: IdempotencyRecord | None = None) -> Submission:
        """What is handed over once the body's octets have their place."""
        return Submission(
            account=self.account,
            domain=self.domain,
            reverse_path=self.reverse_path,
            recipients=self.recipients,
            summary=self.summary,
            body=body,
            body_kind=self.body_kind,
            eight_bit=self.eight_bit,
            smtputf8=self.smtputf8,
            method="http",
            tags=self.tags,
            user_variables=self.user_variables,
            options=self.options,
            key=self.key,
            originating_ip=self.originating_ip,
            idempotency=idempotency,
        )


def total(pieces: list[Octets]) -> int:
    """Octets of all pieces.

    Raises:
        TooLarge: They are over what a message may have.
    """
    size = sum(map(len, pieces))
    if size > MESSAGE_OCTETS_MAX:
        raise TooLarge("The message is larger than 25 MiB.")
    return size


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

    A batch's ``to`` and ``subject`` stand as they were given, with placeholders: the events share this one summary.
    ``recipients`` is left out of a batch, where each recipient is alone, and over 50.
    """
    shown = not batch and len(recipients) <= RECIPIENTS_SHOWN_MAX
    return EventMessage(
        MessageHeaders(
            message_id, from_[:_SHOWN_CHARACTERS_MAX], to[:_SHOWN_CHARACTERS_MAX], subject[:_SHOWN_CHARACTERS_MAX]
        ),
        size,
        attachments,
        tuple([r.address for r in recipients]) if shown else msgspec.UNSET,
        deliver_at or msgspec.UNSET,
    )
