"""What a conversation came to, as an outcome for the queue.

The reply code decides (4yz later, 5yz never); the enhanced status and the words only choose the event's ``reason``.
Anything lost before the final dot is deferred, anything lost after it is in doubt (invariant I4).

Standards: RFC 5321 section 4.2.1 (reply codes); RFC 3463 section 3 (subjects); RFC 6531 section 3.5 (5.6.7);
RFC 7505 section 4.2 (null MX, 5.1.10).
Trust: replies are the server's words: they are recorded and matched, never interpreted further.
"""

from __future__ import annotations

import re
from typing import Final

from pigeonry.delivery.connection import Withheld
from pigeonry.domain.outcome import Attempt, Deferred, Delivered, InDoubt, Outcome, Refused
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.smtp.client import Capabilities, Finished, Lost, NotWelcome, Stage, TlsRefused, Transaction

__all__ = [
    "UNREACHABLE",
    "UNRESOLVED",
    "obstacle",
    "outcome_of",
    "reason_of",
    "session_refused",
    "speaks_of_the_session",
    "unreachable",
]

UNRESOLVED: Final = 498  # internal code: no host could be found for the domain
UNREACHABLE: Final = 499  # internal code: hosts are known, none could be talked to

_GREYLISTED: Final = re.compile(r"gr[ea]y[- ]?list", re.IGNORECASE)
_BLACKLISTED: Final = re.compile(r"black[- ]?list|block[- ]?list|\bdnsbl\b|\brbl\b|spamhaus|spamcop", re.IGNORECASE)
_BLOCKED: Final = re.compile(
    r"\bspam\b|\bblocked\b|reputation|rate.?limit|too many (?:messages|connections)", re.IGNORECASE
)


def outcome_of(result: Finished | Lost | Withheld, attempt: Attempt) -> Outcome:
    """The outcome of a message that was begun on a session."""
    if isinstance(result, Finished):
        reply = result.reply
        if result.stage is Stage.DOT and reply.code < 300:
            return Delivered(attempt, reply)
        if reply.code >= 500:
            return Refused(attempt, reply.code, reply, reason=reason_of(reply))
        return Deferred(attempt, reply.code, reply, reason=reason_of(reply))
    if isinstance(result, Withheld):
        return Deferred(attempt, 451, description="The message was held back because storage did not answer in time.")
    if result.stage is Stage.DOT:
        return InDoubt(attempt, result.description)
    return Deferred(attempt, UNREACHABLE, description=result.description)


def session_refused(event: NotWelcome | TlsRefused | Lost, attempt: Attempt) -> Deferred:
    """The outcome when no host gave a session; also 5yz at the greeting is about the host, not the recipient."""
    if isinstance(event, Lost):
        return Deferred(attempt, UNREACHABLE, description=event.description)
    return Deferred(attempt, event.reply.code, event.reply, reason=reason_of(event.reply))


def unreachable(attempt: Attempt, description: str) -> Deferred:
    """The outcome when no host could be reached."""
    return Deferred(attempt, UNREACHABLE, description=description)


def speaks_of_the_session(result: Finished | Lost | Withheld) -> bool:
    """Whether another host of the route may say something else: the sender or the session was refused for good."""
    return isinstance(result, Finished) and result.stage is Stage.MAIL and result.reply.code >= 500


def obstacle(capabilities: Capabilities, transaction: Transaction, attempt: Attempt) -> Refused | None:
    """Why a message cannot go over a session at all, None when it can; needs no conversation.

    8-bit content is no obstacle here: it is converted, or refused, before it is signed.
    """
    if transaction.smtputf8 and not capabilities.smtputf8:
        reply = Reply(553, "The server does not take internationalised mail (SMTPUTF8).", EnhancedStatus(6, 7))
        return Refused(attempt, 553, reply, description=reply.text)
    if 0 < capabilities.size_octets_max < transaction.size:
        reply = Reply(552, "The message is larger than the server takes.", EnhancedStatus(3, 4))
        return Refused(attempt, 552, reply, description=reply.text, reason="generic")
    return None


def reason_of(reply: Reply) -> str:
    """The event's ``reason`` for a refusal (reference: Mailgun's events)."""
    text = reply.text
    if reply.code < 500:
        if _GREYLISTED.search(text):
            return "greylisted"
        blocked = _BLOCKED.search(text) or _BLACKLISTED.search(text)
        return "espblock" if blocked else "generic"
    if _BLACKLISTED.search(text):
        return "blacklisted"
    policy = reply.status is not None and reply.status.subject == 7
    return "espblock" if policy or _BLOCKED.search(text) else "bounce"
