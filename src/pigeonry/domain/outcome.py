"""What an attempt to deliver to one recipient came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pigeonry.domain.blame import Cause
    from pigeonry.domain.reply import Reply

__all__ = ["Attempt", "Deferred", "Delivered", "InDoubt", "Outcome", "Refused", "Withdrawn"]


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """The circumstances of an attempt, for its event.

    Args:
        mx_host: Name of the host that was tried, empty when none could be.
        sending_ip: Local address, empty when no connection stood.
        sending_host: The name that was said in EHLO there.
        tls: Whether the connection was encrypted.
        certificate_verified: Whether the certificate matched the host.
        session_s: Seconds from the start of this attempt to its end.
    """

    mx_host: str = ""
    sending_ip: str = ""
    tls: bool = False
    certificate_verified: bool = False
    utf8: bool = False
    session_s: float = 0.0
    dkim: str = ""
    sending_host: str = ""


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """The receiver took responsibility (2yz after the final dot)."""

    attempt: Attempt
    reply: Reply


class Deferred(msgspec.Struct, frozen=True, gc=False):
    """It did not work now and may later (4yz, no connection, DNS trouble).

    Args:
        code: The reply code or an internal code (498, 499) for the event.
        description: One sentence when there was no reply.
        reason: The event's reason.
        held: Whether it waits for something of ours and not for its turn: it stays due as it was.
        over: Whether it waited for as long as it may, so that it is not tried again.
        rule: Id of the rule of the rule book that says so; empty for none.
        cause: What is to blame (``domain.blame``), None when nobody knows.
        pause_s: Seconds before which it is not to be tried again; 0.0 for the schedule's own pause.
    """

    attempt: Attempt
    code: int
    reply: Reply | None = None
    description: str = ""
    reason: str = "generic"
    held: bool = False
    over: bool = False
    rule: str = ""
    cause: Cause | None = None
    pause_s: float = 0.0


class Refused(msgspec.Struct, frozen=True, gc=False):
    """It will never work (5yz, null MX, expired).

    Args:
        rule: Id of the rule of the rule book that says so; empty for none.
        cause: What is to blame, None when nobody knows. Whether the recipient may be suppressed for it, it knows.
    """

    attempt: Attempt
    code: int
    reply: Reply | None = None
    description: str = ""
    reason: str = "bounce"
    rule: str = ""
    cause: Cause | None = None


class InDoubt(msgspec.Struct, frozen=True, gc=False):
    """The reply after the final dot was lost: it may have been delivered (invariant I4)."""

    attempt: Attempt
    description: str = ""


class Withdrawn(msgspec.Struct, frozen=True, gc=False):
    """There was no attempt and there will be none: who may decide that has decided it.

    Args:
        reason: The event's reason, such as ``dropped``.
        description: One sentence.
    """

    reason: str
    description: str


Outcome = Delivered | Deferred | Refused | InDoubt | Withdrawn
