"""What is made of a message that came in by SMTP."""

from __future__ import annotations

import json
from email import message_from_bytes, policy

import pytest

from pigeonry.compose.template import render
from pigeonry.domain.message import BodyKind
from pigeonry.domain.tenant import SendingDomain
from support.smtp_door import ENVELOPE, NOW, Bench

DATED = b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-Id: <1@sender.test>\r\n"
FROM = b"From: Ada <ada@our.test>\r\n"


async def test_a_relayed_message_is_stored_as_it_came_behind_its_trace_line() -> None:
    bench = Bench()
    text = b"From: A <a@sender.test>\r\nTo: b@dest.test\r\nSubject: Hi\r\n" + DATED + b"\r\nBody\r\n"
    assert await bench.send(text) == ["250 2.0.0"]
    made = bench.taken[0]
    assert made.body == (
        b"Received: from client.test ([127.0.0.1])\r\n by mx.test with ESMTP id 0001020304051;\r\n"
        b" Thu, 01 Jan 2026 00:00:00 +0000\r\n" + text
    )
    assert (made.account, made.domain, made.reverse_path) == ("relay", "sender.test", "a@sender.test")
    assert [r.address for r in made.recipients] == ["b@dest.test"]
    headers = made.summary.headers
    assert (headers.message_id, headers.from_, headers.to, headers.subject) == (
        "1@sender.test",
        "A <a@sender.test>",
        "b@dest.test",
        "Hi",
    )
    assert made.summary.size == len(made.body)
    assert (made.method, made.authenticated, made.key, made.originating_ip) == ("smtp", False, "", "127.0.0.1")


async def test_a_submitted_message_belongs_to_the_domain_of_its_login() -> None:
    bench = Bench()
    text = FROM + DATED + b"\r\nBody\r\n"
    assert await bench.send(text, login=True) == ["250 2.0.0"]
    made = bench.taken[0]
    assert (made.account, made.domain, made.reverse_path) == ("acct", "our.test", "a@sender.test")
    assert (made.authenticated, made.key, made.originating_ip) == (True, "postmaster@our.test", "192.0.2.1")
    assert b" with ESMTPA id " in made.body  # type: ignore[operator]


async def test_relayed_mail_of_a_known_domain_is_its_accounts() -> None:
    bench = Bench()
    envelope = b"MAIL FROM:<ada@our.test>\r\nRCPT TO:<b@dest.test>\r\n"
    await bench.send(FROM + b"\r\n", envelope=envelope)
    assert (bench.taken[0].account, bench.taken[0].domain) == ("acct", "our.test")


@pytest.mark.parametrize(
    ("text", "domain"),
    [(FROM + b"\r\n", "our.test"), (b"Subject: x\r\n\r\n", "mx.test"), (b"From: nobody\r\n\r\n", "mx.test")],
)
async def test_a_bounce_is_its_authors(text: bytes, domain: str) -> None:
    bench = Bench()
    await bench.send(text, envelope=b"MAIL FROM:<>\r\nRCPT TO:<b@dest.test>\r\n")
    assert (bench.taken[0].domain, bench.taken[0].reverse_path) == (domain, "")


async def test_date_and_message_id_are_added_when_missing_or_empty() -> None:
    bench = Bench()
    added = b"Message-Id: <20260101000000.0001020304050607@sender.test>\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
    assert await bench.stored(b"Subject: x\r\n\r\nBody\r\n") == b"Subject: x\r\n" + added + b"\r\nBody\r\n"
    assert bench.taken[-1].summary.headers.message_id == "20260101000000.0001020304050607@sender.test"
    text = b"Date:\r\nSubject: x\r\nMessage-ID: \r\n\r\nBody\r\n"
    assert await bench.stored(text) == b"Subject: x\r\n" + added + b"\r\nBody\r\n"


@pytest.mark.parametrize("name", [b"Bcc", b"BCC", b"Return-Path"])
async def test_what_recipients_must_not_see_is_taken_out(name: bytes) -> None:
    text = DATED + name + b": x@y.test,\r\n z@y.test\r\nSubject: x\r\n\r\n" + name + b": stays\r\n"
    assert await Bench().stored(text) == DATED + b"Subject: x\r\n\r\n" + name + b": stays\r\n"


async def test_control_headers_become_settings() -> None:
    bench = Bench()
    text = (
        DATED + b"X-Mailgun-Tag: a\r\nx-mailgun-tag: b\r\nX-Mailgun-Dkim: no\r\nX-Mailgun-Drop-Message: yes\r\n"
        b'X-Mailgun-Require-TLS: true\r\nX-Mailgun-Skip-Verification: true\r\nX-Mailgun-Variables: {"n":\r\n 1}\r\n'
        b"X-Mailgun-Deliver-By: 1767229200\r\nX-Mailgun-Track: yes\r\nSubject: x\r\n\r\nBody\r\n"
    )
    stored = await bench.stored(text)
    assert stored == (
        DATED + b'Subject: x\r\nX-Mailgun-Variables: {"n": 1}\r\nX-Mailgun-Tag: a\r\nX-Mailgun-Tag: b\r\n\r\nBody\r\n'
    )
    made = bench.taken[0]
    assert made.tags == ("a", "b")
    assert json.loads(bytes(made.user_variables)) == {"n": 1}
    assert made.options.dkim is False
    assert (made.options.require_tls, made.options.skip_verification, made.options.testmode) == (True, True, True)
    assert made.recipients[0].due == NOW + 3_600


@pytest.mark.parametrize(
    "header",
    [
        b"X-Mailgun-Dkim: perhaps",
        b"X-Mailgun-Drop-Message: 7",
        b"X-Mailgun-Deliver-By: tomorrow",
        b"X-Mailgun-Deliver-By: 99999999999",
        b"X-Mailgun-Variables: [1]",
        b"X-Mailgun-Variables: {",
        b"X-Mailgun-Tag: " + b"x" * 129,
        "X-Mailgun-Tag: ä".encode(),
        b"X-Mailgun-Template-Name: t",
        b"X-Mailgun-Sending-Ip: 192.0.2.1",
        b"X-Mailgun-Sending-Ip-Pool: dedicated",
        b"X-Mailgun-Recipient-Variables: {",
        b"X-Mailgun-Recipient-Variables: []",
        b'X-Mailgun-Recipient-Variables: {"b@dest.test": {"n": "\\n"}}\r\nX-A: %recipient.n%',
    ],
)
async def test_a_control_header_that_cannot_be_obeyed_refuses_the_message(header: bytes) -> None:
    bench = Bench()
    assert await bench.send(header + b"\r\nSubject: x\r\n\r\n") == ["554 5.6.0"]
    assert bench.taken == []
    assert bench.door.octets_in_flight == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"Subject: x\r\n\r\n", "554 5.6.0"),
        (b"no header at all\r\n", "554 5.6.0"),
        (b"From:\r\n\r\n", "554 5.6.0"),
        (b"From: nobody\r\n\r\n", "554 5.6.0"),
        (b"", "554 5.6.0"),
    ],
)
async def test_a_submission_needs_an_author(text: bytes, said: str) -> None:
    assert await Bench().send(text, login=True) == [said]


async def test_a_foreign_author_gets_a_sender_unless_the_domain_lets_anyone_send() -> None:
    bench = Bench()
    text = b"From: Eve <eve@else.test>\r\n" + DATED + b"\r\n"
    assert await bench.stored(text, login=True) == text[:-2] + b"Sender: eve=else.test@our.test\r\n\r\n"
    named = b"Sender: me@our.test\r\n" + text
    assert await bench.stored(named, login=True) == named
    anyone = {"our.test": SendingDomain("1" * 24, "our.test", "acct", 0.0, any_sender=True)}
    assert await Bench(domains=anyone).stored(text, login=True) == text


@pytest.mark.parametrize(
    "domains",
    [
        {},
        {"our.test": SendingDomain("1" * 24, "our.test", "other", 0.0)},
        {"our.test": SendingDomain("1" * 24, "our.test", "acct", 0.0, state="disabled")},
    ],
)
async def test_a_login_cannot_send_for_a_domain_that_is_not_its_own(domains: dict[str, SendingDomain]) -> None:
    bench = Bench(domains=domains)
    assert await bench.send(FROM + b"\r\n", login=True) == ["550 5.7.1"]
    assert bench.taken == []


@pytest.mark.parametrize(("count", "said"), [(29, "250 2.0.0"), (30, "554 5.4.6")])
async def test_a_message_that_goes_in_circles_is_refused(count: int, said: str) -> None:
    text = b"Received: from a\r\n by b;\r\n now\r\n" * count + b"Subject: x\r\n" * 40 + b"\r\nReceived: body\r\n"
    assert await Bench().send(text) == [said]


@pytest.mark.parametrize(("octets", "said"), [(131_000, "250 2.0.0"), (132_000, "554 5.6.0")])
async def test_a_header_section_has_a_largest_size(octets: int, said: str) -> None:
    assert await Bench().send(b"X: y\r\n" * (octets // 6) + b"\r\nBody\r\n") == [said]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (b"no header at all\r\nbody\r\n", b"%b\r\nno header at all\r\nbody\r\n"),
        (b"Subject: x\r\nnot a header\r\nTo: y\r\n", b"Subject: x\r\n%b\r\nnot a header\r\nTo: y\r\n"),
        (b" folded first\r\nSubject: x\r\n", b"%b\r\n folded first\r\nSubject: x\r\n"),
        (b"\r\nSubject: body\r\n", b"%b\r\nSubject: body\r\n"),
        (b"Subject: x\r\n", b"Subject: x\r\n%b\r\n"),
        (b"Two words: x\r\n\r\n", b"%b\r\nTwo words: x\r\n\r\n"),
        (b"Subject \t: x\r\n\r\n", b"Subject \t: x\r\n%b\r\n"),
        (b"", b"%b\r\n"),
    ],
)
async def test_a_line_that_is_no_header_begins_the_body(text: bytes, stored: bytes) -> None:
    added = b"Message-Id: <20260101000000.0001020304050607@sender.test>\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
    assert await Bench().stored(text) == stored.replace(b"%b", added)


async def test_headers_are_shown_decoded_and_bounded() -> None:
    bench = Bench()
    text = (
        b"Subject: =?utf-8?Q?gr=C3=BC=C3=9Fe?=\r\nTo: b@dest.test,\r\n c@dest.test\r\nFrom: " + b"x" * 5_000 + b"\r\n"
    )
    await bench.send(text + "Comments: ä\r\n\r\n".encode())
    headers = bench.taken[0].summary.headers
    assert headers.subject == "grüße"
    assert headers.to == "b@dest.test, c@dest.test"
    assert len(headers.from_) == 2_000


async def test_a_name_that_is_none_does_not_get_into_the_trace_line() -> None:
    bench = Bench()
    client = await bench.client()
    await client.say(b"EHLO <script>;evil()\r\n" + ENVELOPE + b"DATA\r\n.\r\n")
    assert bench.taken[0].body.startswith(b"Received: from unknown ([127.0.0.1])\r\n")  # type: ignore[union-attr]


async def test_eight_bit_and_smtputf8_are_facts_about_the_message() -> None:
    bench = Bench()
    await bench.send(DATED + b"\r\nplain\r\n")
    await bench.send(DATED + "\r\nä\r\n".encode())
    utf8 = "MAIL FROM:<ä@sender.test> SMTPUTF8\r\nRCPT TO:<b@dest.test>\r\n".encode()
    await bench.send(DATED + b"\r\n", envelope=utf8)
    unneeded = b"MAIL FROM:<a@sender.test> SMTPUTF8\r\nRCPT TO:<b@dest.test>\r\n"
    await bench.send(DATED + b"\r\n", envelope=unneeded)
    assert [(made.eight_bit, made.smtputf8) for made in bench.taken] == [
        (False, False),
        (True, False),
        (False, True),
        (False, False),
    ]


async def test_a_recipient_that_comes_twice_is_one() -> None:
    bench = Bench()
    envelope = (
        b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<b@dest.test> NOTIFY=DELAY\r\n" + b"RCPT TO:<%b@dest.test>\r\n" * 3
    )
    await bench.send(b"\r\n", envelope=envelope % (b"c", b"b", b"postmaster"))
    assert [(r.address, r.notify) for r in bench.taken[0].recipients] == [
        ("b@dest.test", "DELAY"),
        ("c@dest.test", ""),
        ("postmaster@dest.test", ""),
    ]


async def test_what_the_sender_wants_to_hear_is_kept() -> None:
    bench = Bench()
    envelope = (
        b"MAIL FROM:<a@sender.test> RET=HDRS ENVID=x+2By\r\nRCPT TO:<b@dest.test> NOTIFY=NEVER ORCPT=rfc822;z\r\n"
    )
    await bench.send(b"\r\n", envelope=envelope)
    made = bench.taken[0]
    assert (made.dsn_return, made.envelope_id) == ("HDRS", "x+2By")
    assert (made.recipients[0].notify, made.recipients[0].original) == ("NEVER", "rfc822;z")


async def test_with_recipient_variables_each_recipient_gets_a_message_of_its_own() -> None:
    bench = Bench()
    envelope = (
        b"MAIL FROM:<a@our.test>\r\nRCPT TO:<b@dest.test> NOTIFY=NEVER ORCPT=rfc822;z\r\nRCPT TO:<C@dest.test>\r\n"
    )
    text = (
        b"From: Ada <ada@our.test>\r\nTo: Bo <b@dest.test>, c@dest.test\r\nCc: d@dest.test\r\n"
        b'X-Mailgun-Recipient-Variables: {"b@dest.test":\r\n {"n": "B\\u00f8\\""}, "c@DEST.test": {"n": "Cy"}}\r\n'
        b'X-Mailgun-Variables: {"id": "%recipient.n%"}\r\nX-Mailgun-Tag: t\r\n'
        b"Subject: Hi %recipient_name%\r\n" + DATED + b"\r\nDear %recipient.n%, 100%\r\n"
    )
    assert await bench.send(text, login=True, envelope=envelope) == ["250 2.0.0"]
    made = bench.taken[0]
    assert made.body_kind is BodyKind.TEMPLATE
    assert isinstance(made.body, bytes)
    assert made.summary.size == len(made.body)
    assert made.tags == ("t",)
    first, second = made.recipients
    assert (first.notify, first.original) == ("NEVER", "rfc822;z")
    for recipient, to, subject, name in (
        (first, "Bo <b@dest.test>", "Hi Bo", 'B\u00f8"'),
        (second, "C@dest.test", "Hi", "Cy"),
    ):
        octets = render(made.body, address=recipient.address, variables=recipient.variables)
        assert octets.startswith(b"Received: from client.test ")
        assert b"Recipient-Variables" not in octets
        message = message_from_bytes(octets, policy=policy.default)
        assert (message["To"], message["Cc"], message["Subject"].strip()) == (to, "d@dest.test", subject)
        assert json.loads(str(message["X-Mailgun-Variables"])) == {"id": name}
        assert message.get_content().strip() == f"Dear {name}, 100%"
        assert json.loads(json.loads(recipient.variables)["%user%"]) == {"id": name}


@pytest.mark.parametrize("by", [300_000, 65_536])
async def test_a_large_message_cannot_be_opened_up_for_each_recipient(by: int) -> None:
    bench = Bench()
    text = b"X-Mailgun-Recipient-Variables: {}\r\n" + FROM + b"\r\n" + (b"x" * 998 + b"\r\n") * 265 + b".\r\n"
    client = await bench.client()
    await client.say(ENVELOPE + b"DATA\r\n")
    assert [said for at in range(0, len(text), by) for said in await client.say(text[at : at + by])] == ["554 5.6.0"]
    assert bench.taken == []
    assert all(spool.discarded for spool in bench.spools)
    assert bench.door.octets_in_flight == 0
