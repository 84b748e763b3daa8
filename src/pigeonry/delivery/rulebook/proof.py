"""Whether a rule book holds what it says: each rule has samples, and fires for each of them.

A rule that another one hides, that is written wrongly or that nobody ever saw at work is found before it is relied on:
in ``make test`` for ours, at the start of a node for an operator's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from pigeonry.delivery.rulebook.book import RuleBook
from pigeonry.delivery.rulebook.rules import WORLD, Action, Phase, Provider, Rule
from pigeonry.domain.reply import Reply
from pigeonry.protocol.smtp.reply_parser import RemoteProtocolError, ReplyParser

__all__ = ["Shot", "fired", "problems_of", "reply_of", "shots_of"]


class Shot(msgspec.Struct, frozen=True):
    """A sample of a rule, and the rule that it fired: another one, or none, is a fault.

    Args:
        phase: What the sample was taken to answer.
        fired: The id of the rule; empty for none.
    """

    rule: str
    sample: str
    phase: Phase
    fired: str

    @property
    def hit(self) -> bool:
        """Whether it is the one it should be."""
        return self.fired == self.rule


def reply_of(text: str) -> Reply | None:
    """A reply as it comes over the wire, one or more lines; None when it is no single reply."""
    parser = ReplyParser()
    parser.feed("".join(f"{line}\r\n" for line in text.strip().splitlines()).encode("utf-8"))
    try:
        reply = parser.next_reply()
        return None if reply is None or parser.next_reply() is not None else reply
    except RemoteProtocolError:
        return None


def fired(book: RuleBook, provider: str, rule: Rule, sample: str) -> Iterable[Shot]:
    """What a sample fires, in each phase that the rule is about; in that of the whole message where it names none."""
    reply = reply_of(sample)
    for phase in rule.phases or (Phase.DOT,):
        found = None if reply is None else book.rule_for(reply, phase, "" if provider == WORLD else provider)
        yield Shot(rule.id, sample, phase, "" if found is None else found.id)


def shots_of(book: RuleBook) -> Sequence[Shot]:
    """All samples of all rules, fired."""
    return [
        shot
        for provider in book.providers.values()
        for rule in provider.rules
        for sample in rule.samples
        for shot in fired(book, provider.id, rule, sample)
    ]


def problems_of(providers: Iterable[Provider]) -> list[str]:
    """What is wrong with them, one sentence each."""
    providers = tuple(providers)
    book = RuleBook(providers)
    problems = [problem for provider in providers for problem in _of_provider(provider)]
    hosts = [(host, provider.id) for provider in providers for host in set(provider.hosts)]
    problems += [
        f"{host}: is claimed by {' and '.join(sorted(owner for name, owner in hosts if name == host))}"
        for host, count in Counter(host for host, _ in hosts).items()
        if count > 1
    ]
    for shot in shots_of(book):
        if reply_of(shot.sample) is None:
            problems.append(f"{shot.rule}: the sample is no SMTP reply: {shot.sample!r}")
        elif not shot.hit:
            problems.append(f"{shot.rule}: its sample fires {shot.fired or 'no rule'}: {shot.sample!r}")
    return problems


def _of_provider(provider: Provider) -> Iterable[str]:
    counts = Counter(rule.id for rule in provider.rules)
    yield from (f"{name}: there are {count} rules of that name" for name, count in counts.items() if count > 1)
    if provider.id == WORLD:
        if provider.hosts or provider.limits is not None or provider.one_site:
            yield f"{WORLD}: has rules and nothing else"
    elif not provider.hosts:
        yield f"{provider.id}: has no hosts, so that nothing would ever be looked up in it"
    for rule in provider.rules:
        if not rule.samples:
            yield f"{rule.id}: has no sample"
        if not (rule.codes or rule.status or rule.text):
            yield f"{rule.id}: says neither codes nor status nor text, and would fit every reply"
        if rule.action.lasts and not rule.for_s:
            yield f"{rule.id}: {rule.action} needs for_s, the seconds that it lasts"
        if rule.action is Action.BOUNCE and rule.for_s:
            yield f"{rule.id}: bounce lasts no time; leave out for_s"
        if any(not phrase.strip().strip("*").strip() for phrase in rule.text):
            yield f"{rule.id}: a phrase has no words"
