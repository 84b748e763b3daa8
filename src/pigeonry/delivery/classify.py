"""What a conversation came to, as an outcome for the queue.

The reply code decides (4yz later, 5yz never) unless a rule of the rule book knows better (``judged``): it says what is
to blame, which also chooses the event's ``reason``.
Anything lost before the final dot is deferred, anything lost after it is in doubt (invariant I4).

Standards: RFC 5321 section 4.2.1 (reply codes); RFC 3463 section 3 (subjects); RFC 6531 section 3.5 (5.6.7);
RFC 7505 section 4.2 (null MX, 5.1.10).
Trust: replies are the server's words: they are recorded and matched, never interpreted further.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.delivery.connection import Withheld
from pigeonry.delivery.rulebook.rules import Action
from pigeonry.domain.blame import Cause
from pigeonry.domain.outcome import Attempt, Deferred, Delivered, InDoubt, Outcome, Refused
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.smtp.client import Capabilities, Finished, Lost, NotWelcome, Stage, TlsRefused, Transaction

if TYPE_CHECKING:
    from pigeonry.delivery.rulebook.rules import Rule
    from pigeonry.delivery.standing import Rest

__all__ = [
    "HELD_BACK",
    "UNREACHABLE",
    "UNRESOLVED",
    "held_back",
    "judged",
    "obstacle",
    "outcome_of",
    "session_refused",
    "speaks_of_the_session",
    "stale",
    "timed",
    "unreachable",
]

UNRESOLVED: Final = 498  # internal code: no host could be found for the domain
UNREACHABLE: Final = 499  # internal code: hosts are known, none could be talked to

HELD_BACK: Final = 604  # internal code, ours: not attempted, since a rule has its source or tenant rest

_ABOUT_US: Final = frozenset(
    {Cause.BLOCKLIST, Cause.CONTENT, Cause.IP, Cause.POLICY, Cause.RATE, Cause.SENDER_DOMAIN, Cause.TENANT}
)


def outcome_of(result: Finished | Lost | Withheld, attempt: Attempt) -> Outcome:
    """The outcome of a message that was begun on a session."""
    if isinstance(result, Finished):
        reply = result.reply
        if result.stage is Stage.DOT and reply.code < 300:
            return Delivered(attempt, reply)
        if reply.code >= 500:
            return Refused(attempt, reply.code, reply)
        return Deferred(attempt, reply.code, reply)
    if isinstance(result, Withheld):
        return Deferred(attempt, 451, description="The message was held back because storage did not answer in time.")
    if result.stage is Stage.DOT:
        return InDoubt(attempt, result.description)
    return Deferred(attempt, UNREACHABLE, description=result.description, cause=Cause.NETWORK)


def session_refused(event: NotWelcome | TlsRefused | Lost, attempt: Attempt) -> Deferred:
    """The outcome when no host gave a session; also 5yz at the greeting is about the host, not the recipient."""
    if isinstance(event, Lost):
        return Deferred(attempt, UNREACHABLE, description=event.description, cause=Cause.NETWORK)
    return Deferred(attempt, event.reply.code, event.reply)


def unreachable(attempt: Attempt, description: str) -> Deferred:
    """The outcome when no host could be reached."""
    return Deferred(attempt, UNREACHABLE, description=description, cause=Cause.NETWORK)


def speaks_of_the_session(result: Finished | Lost | Withheld) -> bool:
    """Whether another host of the route may say something else: the sender or the session was refused for good."""
    return isinstance(result, Finished) and result.stage is Stage.MAIL and result.reply.code >= 500


def stale(result: Finished | Lost | Withheld | Refused) -> bool:
    """Whether a session that stood before was over when the message began: it was not offered, so try anew."""
    if isinstance(result, Lost):
        return result.stage < Stage.RCPT
    return isinstance(result, Finished) and result.stage <= Stage.MAIL and result.reply.code == 421


def timed(outcome: Deferred | Refused, session_s: float) -> Deferred | Refused:
    """The outcome of an attempt that took so long."""
    attempt: Attempt = msgspec.structs.replace(outcome.attempt, session_s=round(session_s, 6))
    return msgspec.structs.replace(outcome, attempt=attempt)


def obstacle(capabilities: Capabilities, transaction: Transaction, attempt: Attempt) -> Refused | None:
    """Why a message cannot go over a session at all, None when it can; needs no conversation.

    8-bit content is no obstacle here: it is converted, or refused, before it is signed.
    """
    if transaction.smtputf8 and not capabilities.smtputf8:
        reply = Reply(553, "The server does not take internationalised mail (SMTPUTF8).", EnhancedStatus(6, 7))
        return Refused(attempt, 553, reply, description=reply.text, cause=Cause.PROTOCOL)
    if 0 < capabilities.size_octets_max < transaction.size:
        reply = Reply(552, "The message is larger than the server takes.", EnhancedStatus(3, 4))
        return Refused(attempt, 552, reply, description=reply.text, reason="generic", cause=Cause.CONTENT)
    return None


def judged(outcome: Deferred | Refused, rule: Rule | None, *, session: bool = False) -> Deferred | Refused:
    """An outcome as the rule has it that its reply fired: tried again or not, why, and what is to blame.

    Args:
        rule: None when there is no rule.
        session: Whether the reply refused the session: that is about the host or us and ends no recipient.
    """
    if rule is None:
        return outcome
    over = rule.action is Action.BOUNCE and not session
    reason, description = _reason(rule.cause, over=over), outcome.description or rule.means
    attempt, code, reply = outcome.attempt, outcome.code, outcome.reply
    if over:
        return Refused(attempt, code, reply, description, reason, rule.id, rule.cause)
    pause_s = 0.0 if rule.action is Action.SLOW else rule.for_s
    return Deferred(
        attempt, code, reply, description=description, reason=reason, rule=rule.id, cause=rule.cause, pause_s=pause_s
    )


def held_back(rest: Rest, now: float) -> Deferred:
    """The outcome of a recipient that is not attempted, since its source or its tenant rests at the provider.

    Args:
        now: Monotonic.
    """
    wait_s = max(0.0, rest.until - now)
    description = f"Held back for {wait_s:.0f} s after a reply of {rest.whose} (rule {rest.rule.id}): {rest.rule.means}"
    cause = rest.rule.cause
    return Deferred(
        Attempt(),
        HELD_BACK,
        description=description,
        reason=_reason(cause, over=False),
        rule=rest.rule.id,
        cause=cause,
        pause_s=wait_s,
    )


def _reason(cause: Cause, *, over: bool) -> str:
    """The event's ``reason`` (reference: Mailgun's events)."""
    if cause is Cause.GREYLIST:
        return "greylisted"
    if cause is Cause.BLOCKLIST and over:
        return "blacklisted"
    if cause in _ABOUT_US:
        return "espblock"
    return "bounce" if over else "generic"
