"""Which provider, which rule."""

from __future__ import annotations

import datetime as dt

import pytest

from pigeonry.delivery.rulebook.book import EMPTY, RuleBook
from pigeonry.delivery.rulebook.rules import WORLD, Action, Phase, Provider, Rule
from pigeonry.domain.blame import Cause
from pigeonry.domain.reply import EnhancedStatus, Reply


def rule(name: str, **conditions) -> Rule:
    return Rule(
        id=name,
        means="It means something.",
        cause=Cause.POLICY,
        action=Action.RETRY,
        source="https://example.org",
        date=dt.date(2026, 11, 28),
        samples=("450 x",),
        **conditions,
    )


def book(*rules: Rule) -> RuleBook:
    return RuleBook([Provider(id=WORLD, name="World", rules=rules)])


def fires(condition: Rule, reply: Reply, phase: Phase = Phase.RCPT) -> bool:
    return book(condition).rule_for(reply, phase) is not None


@pytest.mark.parametrize(
    ("phrase", "text", "said"),
    [
        ("blocked", "You are BLOCKED.", True),
        ("rbl", "the marbles", False),
        ("rbl", "the rbls", True),
        ("[TSS04]", "4.7.0 [tss04] Messages", True),
        ("messages from * deferred", "Messages from 192.0.2.1 temporarily\ndeferred", True),
        ("messages from * deferred", "deferred messages from 192.0.2.1", False),
        ("over  quota", "user over\n quota", True),
        ("one * two * three", "one two two three", True),
        ("one * two * three", "one three two", False),
        ("a.c", "abc", False),
        ("((", "all ((( of it", True),
    ],
)
def test_phrases_are_words_in_order_and_nothing_else(phrase, text, said):
    assert fires(rule("r", text=(phrase,)), Reply(450, text)) is said


@pytest.mark.parametrize(
    ("conditions", "reply", "phase", "said"),
    [
        ({"codes": ("45",)}, Reply(451, ""), Phase.DOT, True),
        ({"codes": ("45",)}, Reply(421, ""), Phase.DOT, False),
        ({"status": ("1.1",)}, Reply(550, "", EnhancedStatus(1, 1)), Phase.DOT, True),
        ({"status": ("1.1",)}, Reply(550, "", EnhancedStatus(1, 10)), Phase.DOT, False),
        ({"status": ("1",)}, Reply(550, "", EnhancedStatus(1, 10)), Phase.DOT, True),
        ({"status": ("1",)}, Reply(550, "1.1"), Phase.DOT, False),
        ({"codes": ("5",), "phases": (Phase.RCPT,)}, Reply(550, ""), Phase.RCPT, True),
        ({"codes": ("5",), "phases": (Phase.RCPT,)}, Reply(550, ""), Phase.MAIL, False),
        ({"codes": ("5",), "text": ("no",)}, Reply(550, "yes"), Phase.DOT, False),
    ],
)
def test_all_conditions_must_hold(conditions, reply, phase, said):
    assert fires(rule("r", **conditions), reply, phase) is said


def test_the_first_rule_fires_and_the_providers_own_come_before_the_worlds():
    own = Provider(id="big", name="Big", hosts=(".big.test",), rules=(rule("big.own", codes=("4",)),))
    everyone = Provider(id=WORLD, name="W", rules=(rule("world.a", codes=("4",)), rule("world.b", codes=("4", "5"))))
    found = RuleBook([own, everyone])
    assert found.rule_for(Reply(450, ""), Phase.DOT, "big").id == "big.own"
    assert found.rule_for(Reply(550, ""), Phase.DOT, "big").id == "world.b"
    assert found.rule_for(Reply(450, ""), Phase.DOT).id == "world.a"
    assert found.rule_for(Reply(450, ""), Phase.DOT, "unknown").id == "world.a"
    assert EMPTY.rule_for(Reply(450, ""), Phase.DOT) is None


def test_a_route_is_a_providers_when_all_its_hosts_are():
    one = Provider(id="one", name="One", hosts=(".one.test", "mx.other.test"))
    inner = Provider(id="inner", name="Inner", hosts=(".inner.one.test",))
    found = RuleBook([one, inner])
    assert found.provider_of(["a.one.test", "b.c.one.test", "mx.other.test"]) is one
    assert found.provider_of(["a.inner.one.test"]) is inner
    assert found.provider_of(["a.one.test", "a.inner.one.test"]) is None
    assert found.provider_of(["one.test"]) is None
    assert found.provider_of(["a.mx.other.test"]) is None
    assert found.provider_of(["bone.test", "xone.test"]) is None
    assert found.provider_of([]) is None
