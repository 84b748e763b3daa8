"""What a door hands over once it has understood its input: one message, ready to be accepted or refused."""

from __future__ import annotations

import msgspec

from pigeonry.domain.event import EMPTY_OBJECT, EventMessage
from pigeonry.domain.message import Body, BodyKind, IdempotencyRecord, NewRecipient, Options

__all__ = ["Submission"]


class Submission(msgspec.Struct, frozen=True):
    """One message for one or more recipients.

    Args:
        account: Who pays for it.
        domain: The sending domain.
        reverse_path: Empty is the null reverse-path.
        recipients: With ``due`` 0.0 for "now".
        summary: What its events repeat; its message id is final.
        body: Its octets, or a reference to a file that ``Spool.finish`` synced.
        method: ``http`` or ``smtp``.
        key: Id of the API key or SMTP login that sent it; empty for a trusted network.
        idempotency: What to commit beside it, None when the request had no key.
    """

    account: str
    domain: str
    reverse_path: str
    recipients: tuple[NewRecipient, ...]
    summary: EventMessage
    body: Body
    body_kind: BodyKind = BodyKind.OCTETS
    eight_bit: bool = False
    smtputf8: bool = False
    method: str = "http"
    tags: tuple[str, ...] = ()
    user_variables: msgspec.Raw = EMPTY_OBJECT
    options: Options = Options()
    authenticated: bool = True
    key: str = ""
    originating_ip: str = ""
    envelope_id: str = ""
    dsn_return: str = ""
    idempotency: IdempotencyRecord | None = None
