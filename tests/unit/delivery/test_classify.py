from __future__ import annotations

import pytest

from pigeonry.delivery.classify import judged, outcome_of
from pigeonry.delivery.rulebook.book import RuleBook, phase_of
from pigeonry.delivery.rulebook.loading import book_of, shipped
from pigeonry.domain.blame import Cause
from pigeonry.domain.outcome import Attempt, Deferred, Refused
from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.smtp.client import Finished, Stage


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return book_of(shipped())


def settled(book, reply, provider="", stage=Stage.RCPT):
    outcome = outcome_of(Finished(stage, reply), Attempt())
    return judged(outcome, book.rule_for(reply, phase_of(stage), provider))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(450, "Greylisted, come back", EnhancedStatus(2, 0)), "greylisted"),
        (Reply(451, "recipient is graylisted"), "greylisted"),
        (Reply(421, "too many messages from your IP"), "espblock"),
        (Reply(452, "mailbox full", EnhancedStatus(2, 2)), "generic"),
        (Reply(550, "no such user", EnhancedStatus(1, 1)), "bounce"),
        (Reply(550, "no such user"), "bounce"),
        (Reply(550, "policy", EnhancedStatus(7, 1)), "espblock"),
        (Reply(554, "looks like spam"), "espblock"),
        (Reply(450, "come back"), "generic"),
    ],
)
def test_reason_follows_what_is_to_blame(book, reply, reason):
    assert settled(book, reply).reason == reason


def test_only_what_is_the_recipients_own_fault_suppresses(book):
    unknown = settled(book, Reply(550, "no such user", EnhancedStatus(1, 1)))
    assert isinstance(unknown, Refused)
    assert unknown.cause is Cause.RECIPIENT
    assert [cause for cause in Cause if cause.suppresses] == [Cause.RECIPIENT]


def test_a_blocklist_is_nobodys_fault_but_ours_whatever_the_code_says(book):
    outcome = settled(book, Reply(550, "rejected, mx1 is on a blacklist (spamhaus)", EnhancedStatus(1, 1)))
    assert isinstance(outcome, Deferred)
    assert (outcome.code, outcome.cause, outcome.rule) == (550, Cause.BLOCKLIST, "world.blocklisted")


def test_a_frequency_limit_that_is_permanent_by_its_code_is_tried_again(book):
    reply = Reply(550, "Ip frequency limited. http://service.mail.qq.com/...")
    outcome = settled(book, reply, "tencent", Stage.MAIL)
    assert isinstance(outcome, Deferred)
    assert (outcome.rule, outcome.pause_s) == ("tencent.ip-frequency", 3600.0)


def test_who_refuses_the_session_ends_no_recipient(book):
    reply = Reply(554, "no")
    outcome = judged(Deferred(Attempt(), 554, reply), book.rule_for(reply, phase_of(Stage.GREETING)), session=True)
    assert isinstance(outcome, Deferred)


def test_without_a_rule_an_outcome_stays_as_it_is():
    outcome = Refused(Attempt(), 550, Reply(550, "no"))
    assert judged(outcome, None) is outcome
