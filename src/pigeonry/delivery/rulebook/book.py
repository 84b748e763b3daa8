"""The rule book, ready for use: whose hosts these are, and which rule a reply fires.

Pure: no I/O, no clock. A rule is looked for only when a reply refuses or defers; that takes some tens of microseconds.

The provider's own rules come first, in order, then those of the rest of the world.

Trust: replies are anyone's words. Their first ``TEXT_CHARACTERS_MAX`` characters are compared with phrases, each in one
pass.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.delivery.rulebook.rules import WORLD, Phase
from pigeonry.protocol.smtp.client import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pigeonry.delivery.limits import DeliveryLimits
    from pigeonry.delivery.rulebook.rules import Provider, Rule
    from pigeonry.domain.reply import Reply

__all__ = ["EMPTY", "RuleBook", "phase_of"]

TEXT_CHARACTERS_MAX: Final = 2_000  # of a reply that are compared: what a policy says, and the links behind it

_PHASES: Final = {
    Stage.GREETING: Phase.GREETING,
    Stage.EHLO: Phase.GREETING,
    Stage.HELO: Phase.GREETING,
    Stage.STARTTLS: Phase.GREETING,
    Stage.RSET: Phase.MAIL,  # said before MAIL, in one group with it
    Stage.MAIL: Phase.MAIL,
    Stage.RCPT: Phase.RCPT,
    Stage.DATA: Phase.DATA,
    Stage.BODY: Phase.DOT,
    Stage.DOT: Phase.DOT,
}


def phase_of(stage: Stage) -> Phase | None:
    """What a reply at that stage of a session is about."""
    return _PHASES.get(stage)


class RuleBook:
    """All providers.

    Args:
        providers: With ids of their own; that of the rest of the world is ``WORLD``. ``loading`` and ``proof`` have
            seen to it that they are sound.
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        self.providers = {provider.id: provider for provider in providers}
        """By id."""
        self._matchers = {
            name: [_Matcher(rule) for rule in provider.rules] for name, provider in self.providers.items()
        }
        self._world = self._matchers.pop(WORLD, [])
        self._owners = {host: provider for provider in self.providers.values() for host in provider.hosts}

    def provider_of(self, hosts: Sequence[str]) -> Provider | None:
        """The provider to whom all those MX hosts belong, None when it is nobody, or more than one."""
        found = self._owner(hosts[0]) if hosts else None
        if found is None or any(self._owner(host) is not found for host in hosts[1:]):
            return None
        return found

    def limited(self, limits: DeliveryLimits, provider: str) -> DeliveryLimits:
        """The limits towards a provider, by its id: ours, and within them what it allows."""
        found = self.providers.get(provider)
        if found is None or found.limits is None:
            return limits
        allowed = found.limits
        return msgspec.structs.replace(
            limits,
            connections_per_path=min(limits.connections_per_path, allowed.connections or inf),
            messages_per_connection=min(limits.messages_per_connection, allowed.messages_per_connection or inf),
        )

    def rule_for(self, reply: Reply, phase: Phase | None, provider: str = "") -> Rule | None:
        """The rule that a reply fires, None for one that refuses nothing or that nobody knows.

        Args:
            provider: The id of whose reply it is; empty for anyone's.
        """
        if reply.code < 400:
            return None
        text = plain(reply.text)
        for matchers in (self._matchers.get(provider, ()), self._world):
            for matcher in matchers:
                if matcher.fits(reply, phase, text):
                    return matcher.rule
        return None

    def _owner(self, host: str) -> Provider | None:
        owner = self._owners.get(host)
        at = 0
        while owner is None and (at := host.find(".", at)) >= 0:
            owner = self._owners.get(host[at:])
            at += 1
        return owner


class _Matcher:
    """A rule, taken apart for comparing."""

    __slots__ = ("_codes", "_phases", "_phrases", "_status", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._codes = rule.codes
        self._phases = frozenset(rule.phases)
        self._phrases = tuple(
            tuple(part.strip() for part in plain(phrase).split("*") if part.strip()) for phrase in rule.text
        )
        self._status = {tuple(int(part) for part in status.split(".")) for status in rule.status}

    def fits(self, reply: Reply, phase: Phase | None, text: str) -> bool:
        """Whether all that the rule asks of a reply is there; ``text`` is the reply's in plain form."""
        if self._codes and not str(reply.code).startswith(self._codes):
            return False
        if self._phases and phase not in self._phases:
            return False
        if self._status:
            status = reply.status
            if status is None or not self._status & {(status.subject,), (status.subject, status.detail)}:
                return False
        return not self._phrases or any(_says(text, parts) for parts in self._phrases)


def plain(text: str) -> str:
    """Text as it is compared: in lower case, with single spaces, and bounded."""
    return " ".join(text[:TEXT_CHARACTERS_MAX].split()).lower()


def _says(text: str, parts: tuple[str, ...]) -> bool:
    """Whether the parts stand in the text one after the other, each at the start of a word.

    The earliest place of each is as good as any later one: nothing is ever tried twice.
    """
    end = 0
    for part in parts:
        at = text.find(part, end)
        while at > 0 and part[0].isalnum() and text[at - 1].isalnum():
            at = text.find(part, at + 1)
        if at < 0:
            return False
        end = at + len(part)
    return True


EMPTY: Final = RuleBook(())
"""A book that knows nothing."""
