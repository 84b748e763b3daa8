"""The rules that come with the program: each one fires."""

from __future__ import annotations

import datetime as dt

import pytest

from pigeonry.delivery.rulebook.book import TEXT_CHARACTERS_MAX
from pigeonry.delivery.rulebook.loading import book_of, shipped
from pigeonry.delivery.rulebook.proof import shots_of
from pigeonry.delivery.rulebook.rules import WORLD, Phase
from pigeonry.domain.reply import Reply

BOOK = book_of(shipped())  # raises with every problem there is

NAMED = {
    "google": "gmail-smtp-in.l.google.com",
    "microsoft-consumer": "outlook-com.olc.protection.outlook.com",
    "microsoft-365": "contoso-com.mail.protection.outlook.com",
    "yahoo": "mta5.am0.yahoodns.net",
    "apple": "mx01.mail.icloud.com",
    "united-internet": "mx00.gmx.net",
    "orange": "smtp-in.orange.fr",
    "comcast": "mx1.mxge.comcast.net",
    "mimecast": "eu-smtp-inbound-1.mimecast.com",
    "barracuda": "d241253a.ess.barracudanetworks.com",
    "netease": "163mx01.mxmail.netease.com",
    "tencent": "mx3.qq.com",
    "mail-ru": "mxs.mail.ru",
    "proofpoint": "mxa-00262c01.gslb.pphosted.com",
}


def test_each_sample_fires_its_own_rule() -> None:
    shots = shots_of(BOOK)
    assert [shot for shot in shots if not shot.hit] == []
    assert {shot.rule for shot in shots} == {rule.id for provider in BOOK.providers.values() for rule in provider.rules}


@pytest.mark.parametrize(("provider", "host"), NAMED.items())
def test_the_large_receivers_are_known_by_their_hosts(provider: str, host: str) -> None:
    found = BOOK.provider_of([host])
    assert found is not None
    assert found.id == provider
    assert found.limits is not None


def test_nobody_else_is_in_the_book() -> None:
    assert set(BOOK.providers) == {*NAMED, WORLD}


def test_what_was_read_tomorrow_was_not_read() -> None:
    dates = [rule.date for provider in BOOK.providers.values() for rule in provider.rules]
    assert max(dates) <= dt.date(2026, 12, 31)
    assert min(dates) >= dt.date(2024, 1, 1)


def test_every_refusal_has_a_rule() -> None:
    for code in range(400, 600):
        assert BOOK.rule_for(Reply(code, "qwertz"), Phase.RCPT) is not None
    assert BOOK.rule_for(Reply(250, "spamhaus"), Phase.DOT) is None


def test_the_costliest_reply_is_read_in_one_pass_a_rule() -> None:
    """Text made to look like every phrase's beginning over and over; what is over the bound is not read at all."""
    starts = " ".join(phrase[:-1] for rule in BOOK.providers[WORLD].rules for phrase in rule.text)
    assert BOOK.rule_for(Reply(550, (starts * 200)[: TEXT_CHARACTERS_MAX * 4]), Phase.RCPT) is not None
    late = BOOK.rule_for(Reply(550, "x" * TEXT_CHARACTERS_MAX + " spamhaus"), Phase.RCPT)
    assert late is not None
    assert late.id == "world.mailbox-unavailable"
