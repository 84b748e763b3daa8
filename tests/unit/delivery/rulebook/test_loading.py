"""What is wrong with a file is said, all of it, with its place."""

from __future__ import annotations

import pytest

from pigeonry.delivery.rulebook.loading import RuleBookInvalid, book_of
from pigeonry.domain.reply import Reply

HEAD = 'id = "big"\nname = "Big"\nhosts = [".big.test"]\n'
RULE = """
[[rules]]
id = "{id}"
means = "It means something."
cause = "{cause}"
action = "{action}"
{more}
source = "https://example.org"
date = 2026-11-28
samples = [{samples}]
"""


def made(name="own", *, cause="ip", action="retry", more='codes = ["45"]', samples='"450 no"'):
    return RULE.format(id=name, cause=cause, action=action, more=more, samples=samples)


def problems(text: str, *others: str) -> list[str]:
    with pytest.raises(RuleBookInvalid) as caught:
        book_of({"big.toml": text} | {f"other{n}.toml": other for n, other in enumerate(others)})
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (made(samples='"550 no"'), "big.own: its sample fires no rule: '550 no'"),
        (made("first") + made("hidden"), "big.hidden: its sample fires big.first: '450 no'"),
        (made(samples=""), "big.own: has no sample"),
        (made(samples='"no reply"'), "big.own: the sample is no SMTP reply: 'no reply'"),
        (
            made(samples='"450 no\\n450 and another"'),
            "big.own: the sample is no SMTP reply: '450 no\\n450 and another'",
        ),
        (made(more=""), "big.own: says neither codes nor status nor text, and would fit every reply"),
        (made(action="slow"), "big.own: slow needs for_s, the seconds that it lasts"),
        (made(action="bounce", more='codes = ["45"]\nfor_s = 5'), "big.own: bounce lasts no time; leave out for_s"),
        (made(more='text = [" * "]'), "big.own: a phrase has no words"),
        (made() + made(), "big.own: there are 2 rules of that name"),
    ],
)
def test_a_rule_that_cannot_be_relied_on_is_refused(text, said):
    assert said in problems(HEAD + text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + made(cause="fate"), "big.toml: Invalid enum value 'fate' - at `big.own.cause`"),
        (HEAD + made(more="for_s = 1e9"), "big.toml: Expected `float` <= 86400.0 - at `big.own.for_s`"),
        (HEAD + made(more="cods = []"), "big.toml: Object contains unknown field `cods` - at `big.own`"),
        (HEAD + "[[rules]]\ncause = 1", "big.toml: rule 1: has no id"),
        (HEAD + "rules = 5", "big.toml: write its rules as [[rules]]"),
        ('name = "x"', "big.toml: has no id"),
        ("=", "big.toml: is not TOML: Invalid statement (at line 1, column 1)"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_place(text, said):
    assert problems(text) == [said]


def test_two_providers_cannot_claim_one_host():
    other = 'id = "small"\nname = "Small"\nhosts = [".big.test"]\n'
    assert problems(HEAD, other) == [".big.test: is claimed by big and small"]


def test_two_shipped_files_are_not_about_one_provider():
    assert problems(HEAD, HEAD) == ["other0.toml: another file is about big already"]


def test_a_provider_without_hosts_is_refused_and_a_world_with_them():
    assert problems('id = "big"\nname = "Big"') == ["big: has no hosts, so that nothing would ever be looked up in it"]
    assert problems('id = "world"\nname = "World"\nhosts = [".a.test"]') == ["world: has rules and nothing else"]


def test_an_operators_file_takes_the_place_of_ours_or_adds_a_provider():
    own = {
        "/etc/a.toml": HEAD + made("mine", more='codes = ["42"]', samples='"421 no"'),
        "/etc/b.toml": 'id = "small"\nname = "Small"\nhosts = [".small.test"]',
    }
    book = book_of({"big.toml": HEAD + made()}, own)
    assert [rule.id for rule in book.providers["big"].rules] == ["big.mine"]
    assert book.rule_for(Reply(450, ""), None, "big") is None
    assert book.provider_of(["mx.small.test"]).id == "small"
