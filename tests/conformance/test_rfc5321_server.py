"""The server core against the text of RFC 5321 and its extensions; the section is in the test's id."""

from __future__ import annotations

import pytest

from pigeonry.protocol.smtp.data import HELD_OCTETS_MAX
from support.smtp_session import EHLO, ENVELOPE, Talk, service

MESSAGE = b"From: <a@sender.test>\r\n\r\nbody\r\n"


def greeted(**options: object) -> Talk:
    talk = Talk(**options)  # type: ignore[arg-type]
    talk.say(EHLO)
    return talk


class Case:
    """What a client says after the greeting, and the replies it must get (code, enhanced status or first word)."""

    def __init__(self, section: str, says: bytes, *replies: str, hello: bool = True, **options: object) -> None:
        self.section, self.says, self.replies = section, says, list(replies)
        self.hello, self.options = hello, options


CASES = [
    # RFC 5321
    Case("5321-3.1-session-begins-with-a-greeting", b"", hello=False),
    Case("5321-3.2-helo-is-answered-in-one-line", b"HELO c\r\n", "250 mx.test", hello=False),
    Case("5321-3.3-mail-rcpt-data", ENVELOPE + b"DATA\r\n", "250 2.1.0", "250 2.1.5", "354 End"),
    Case("5321-3.3-data-without-rcpt", b"MAIL FROM:<>\r\nDATA\r\n", "250 2.1.0", "503 5.5.1"),
    Case("5321-3.5.1-vrfy", b"VRFY a@b.test\r\n", "252 2.1.5"),
    Case("5321-3.5.2-expn", b"EXPN list\r\n", "502 5.5.1"),
    Case("5321-3.8-quit", b"QUIT\r\n", "221 2.0.0"),
    Case(
        "5321-4.1.1.1-a-second-ehlo-resets",
        ENVELOPE + EHLO + b"DATA\r\n",
        "250 2.1.0",
        "250 2.1.5",
        "250 AUTH",
        "503 5.5.1",
    ),
    Case("5321-4.1.1.1-ehlo-needs-an-argument", b"EHLO\r\n", "501 5.5.4", hello=False),
    Case("5321-4.1.1.2-nested-mail", ENVELOPE + b"MAIL FROM:<>\r\n", "250 2.1.0", "250 2.1.5", "503 5.5.1"),
    Case("5321-4.1.1.2-null-reverse-path", b"MAIL FROM:<>\r\n", "250 2.1.0"),
    Case("5321-4.1.1.3-rcpt-before-mail", b"RCPT TO:<a@b.test>\r\n", "503 5.5.1"),
    Case(
        "5321-4.1.1.3-source-route-is-ignored",
        b"MAIL FROM:<>\r\nRCPT TO:<@x.test:a@b.test>\r\n",
        "250 2.1.0",
        "250 2.1.5",
    ),
    Case("5321-4.1.1.4-empty-message", ENVELOPE + b"DATA\r\n.\r\n", "250 2.1.0", "250 2.1.5", "354 End", "250 2.0.0"),
    Case(
        "5321-4.1.1.5-rset-forgets", ENVELOPE + b"RSET\r\nDATA\r\n", "250 2.1.0", "250 2.1.5", "250 2.0.0", "503 5.5.1"
    ),
    Case("5321-4.1.1.5-rset-before-ehlo", b"RSET\r\n", "250 2.0.0", hello=False),
    Case("5321-4.1.1.8-help", b"HELP\r\nHELP MAIL\r\n", "214 2.0.0", "214 2.0.0"),
    Case("5321-4.1.1.9-noop-takes-an-argument", b"NOOP something\r\n", "250 2.0.0"),
    Case(
        "5321-4.1.1-noop-in-a-transaction",
        ENVELOPE + b"NOOP\r\nDATA\r\n",
        "250 2.1.0",
        "250 2.1.5",
        "250 2.0.0",
        "354 End",
    ),
    Case("5321-4.1.4-mail-before-ehlo", b"MAIL FROM:<>\r\n", "503 5.5.1", hello=False),
    Case("5321-4.1.4-failed-ehlo-changes-nothing", b"EHLO\r\n" + ENVELOPE, "501 5.5.4", "250 2.1.0", "250 2.1.5"),
    Case("5321-4.2.4-unknown-command", b"XYZZY\r\n", "500 5.5.1"),
    Case("5321-4.3.2-data-takes-no-argument", ENVELOPE + b"DATA x\r\n", "250 2.1.0", "250 2.1.5", "501 5.5.4"),
    Case("5321-4.5.1-postmaster", b"MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\n", "250 2.1.0", "250 2.1.5"),
    Case(
        "5321-4.5.3.1.4-command-line",
        b"NOOP " + b"x" * 505 + b"\r\nNOOP " + b"x" * 506 + b"\r\n",
        "250 2.0.0",
        "500 5.5.2",
    ),
    Case(
        "5321-4.5.3.1.8-a-hundred-recipients",
        b"MAIL FROM:<>\r\n" + b"RCPT TO:<a@b.test>\r\n" * 100,
        "250 2.1.0",
        *["250 2.1.5"] * 100,
    ),
    Case(
        "5321-4.5.3.1.10-too-many-recipients",
        b"MAIL FROM:<>\r\n" + b"RCPT TO:<a@b.test>\r\n" * 2,
        "250 2.1.0",
        "250 2.1.5",
        "452 4.5.3",
        shared=service(recipients_max=1),
    ),
    Case(
        "5321-4.5.3.1.6-a-text-line-of-a-thousand",
        ENVELOPE + b"DATA\r\n" + b"x" * 998 + b"\r\n.\r\n",
        "250 2.1.0",
        "250 2.1.5",
        "354 End",
        "250 2.0.0",
    ),
    Case(
        "5321-2.3.8-bare-cr-and-lf",
        ENVELOPE + b"DATA\r\na\nb\r\n.\r\n" + ENVELOPE + b"DATA\r\na\rb\r\n.\r\n",
        "250 2.1.0",
        "250 2.1.5",
        "354 End",
        "550 5.6.11",
        "250 2.1.0",
        "250 2.1.5",
        "354 End",
        "550 5.6.11",
    ),
    # Extensions
    Case("1870-6.1-size-over-the-limit", b"MAIL FROM:<> SIZE=26214401\r\n", "552 5.3.4"),
    Case("1870-6.1-size-at-the-limit", b"MAIL FROM:<> SIZE=26214400\r\n", "250 2.1.0"),
    Case(
        "2920-3.2-a-group-is-answered-in-order",
        EHLO + ENVELOPE + b"NOOP\r\n",
        "250 AUTH",
        "250 2.1.0",
        "250 2.1.5",
        "250 2.0.0",
    ),
    Case(
        "3030-2-bdat", ENVELOPE + b"BDAT 2\r\nabBDAT 2 LAST\r\n\r\n", "250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0"
    ),
    Case("3030-2-bdat-without-rcpt", b"BDAT 2 LAST\r\nab", "503 5.5.1"),
    Case(
        "3030-2-data-after-bdat", ENVELOPE + b"BDAT 1\r\naDATA\r\n", "250 2.1.0", "250 2.1.5", "250 2.0.0", "503 5.5.1"
    ),
    Case("3030-3-binarymime-is-not-offered", b"MAIL FROM:<> BODY=BINARYMIME\r\n", "501 5.5.4"),
    Case("3207-4-starttls-takes-no-argument", b"STARTTLS x\r\n", "501 5.5.4"),
    Case("3207-4.2-commands-behind-starttls-are-dropped", b"STARTTLS\r\nNOOP\r\n", "503 5.5.1"),
    Case(
        "3461-4.1-notify",
        b"MAIL FROM:<> RET=FULL ENVID=x\r\nRCPT TO:<a@b.test> NOTIFY=NEVER\r\n",
        "250 2.1.0",
        "250 2.1.5",
    ),
    Case(
        "3461-4.1-never-stands-alone",
        b"MAIL FROM:<>\r\nRCPT TO:<a@b.test> NOTIFY=NEVER,DELAY\r\n",
        "250 2.1.0",
        "501 5.5.4",
    ),
    Case("4954-4-cancelled", b"AUTH PLAIN\r\n*\r\n", "334 ", "501 5.7.0"),
    Case("4954-4-unknown-mechanism", b"AUTH GSSAPI\r\n", "504 5.5.4"),
    Case("4954-4-not-in-a-transaction", b"MAIL FROM:<>\r\nAUTH PLAIN\r\n", "250 2.1.0", "503 5.5.1"),
    Case("4954-4-not-twice", b"AUTH PLAIN AGEAc2VjcmV0\r\nAUTH PLAIN AGEAc2VjcmV0\r\n", "235 2.7.0", "503 5.5.1"),
    Case("4954-6-authentication-required", b"MAIL FROM:<>\r\n", "530 5.7.0", trusted=False),
    Case("6152-2-8bitmime", b"MAIL FROM:<> BODY=8BITMIME\r\n", "250 2.1.0"),
    Case("6531-3.4-utf8-needs-the-parameter", "MAIL FROM:<ä@b.test>\r\n".encode(), "553 5.6.7"),
    Case("6531-3.4-utf8", "MAIL FROM:<ä@b.test> SMTPUTF8\r\nRCPT TO:<ö@b.test>\r\n".encode(), "250 2.1.0", "250 2.1.5"),
]


@pytest.mark.parametrize("case", CASES, ids=[case.section for case in CASES])
def test_the_reply_is_the_one_the_standard_asks_for(case: Case) -> None:
    talk = Talk(**case.options)  # type: ignore[arg-type]
    if case.hello:
        talk.say(EHLO)
    assert [
        reply[: len(expected)] for reply, expected in zip(talk.codes(case.says), case.replies, strict=True)
    ] == case.replies


def test_5321_3_1_the_greeting_names_us_and_esmtp() -> None:
    assert Talk().said == b"220 mx.test ESMTP pigeonry\r\n"


def test_5321_4_1_1_1_ehlo_lists_each_extension_once() -> None:
    said = Talk().say(EHLO).splitlines()
    assert said[0] == "250-mx.test"
    assert [line[4:].split()[0] for line in said[1:]] == [
        "PIPELINING",
        "SIZE",
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "STARTTLS",
        "AUTH",
    ]


def test_5321_4_5_2_transparency() -> None:
    talk = greeted()
    talk.say(ENVELOPE + b"DATA\r\n..\r\n...\r\n.x\r\n.\r\n")
    assert talk.messages[0].octets == b".\r\n..\r\nx\r\n"


def test_5321_4_5_3_1_7_a_message_of_64k_and_more() -> None:
    talk = greeted()
    text = MESSAGE + (b"x" * 70 + b"\r\n") * (HELD_OCTETS_MAX // 72 * 2)
    assert talk.codes(ENVELOPE + b"DATA\r\n" + text + b".\r\n")[-1] == "250 2.0.0"
    assert talk.messages[0].octets == text


def test_5321_6_1_a_message_is_acknowledged_by_its_answer_only() -> None:
    talk = greeted()
    said = talk.say(ENVELOPE + b"DATA\r\n" + MESSAGE)
    assert "Taken" not in said
    assert "Taken" in talk.say(b".\r\n")
