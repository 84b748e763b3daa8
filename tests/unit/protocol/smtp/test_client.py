"""Whole conversations with the client's core, octet for octet."""

from __future__ import annotations

import pytest

from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.smtp.client import (
    Capabilities,
    Finished,
    LocalProtocolError,
    Lost,
    NotWelcome,
    Ready,
    SendBody,
    SmtpClient,
    Stage,
    TlsAgreed,
    TlsRefused,
    Transaction,
    parse_capabilities,
)

MESSAGE = Transaction(b"from@a.test", b"to@b.test", 1234)


def client(*offers: str) -> SmtpClient:
    """A session that is ready, with these offers."""
    client = SmtpClient(hostname="me.test")
    assert client.receive(b"220 hello\r\n") == []
    assert client.take_output() == b"EHLO me.test\r\n"
    lines = [b"250-server.test", *[b"250-" + offer.encode() for offer in offers], b"250 HELP\r\n"]
    assert client.receive(b"\r\n".join(lines)) == [Ready()]
    return client


def in_body(*offers: str) -> SmtpClient:
    """A session that waits for the body."""
    talking = client("PIPELINING", *offers)
    talking.begin(MESSAGE)
    talking.take_output()
    assert talking.receive(b"250 ok\r\n250 ok\r\n354 go\r\n") == [SendBody()]
    return talking


def test_message_goes_through_and_the_next_can_begin():
    talking = in_body()
    talking.complete()
    assert talking.receive(b"250 2.0.0 taken\r\n") == [Finished(Stage.DOT, Reply(250, "taken", EnhancedStatus(0, 0)))]
    talking.begin(MESSAGE)
    assert talking.take_output() == b"MAIL FROM:<from@a.test>\r\nRCPT TO:<to@b.test>\r\nDATA\r\n"


def test_parameters_are_given_only_where_they_are_offered():
    transaction = Transaction(
        b"", "ü@b.test".encode(), 10, eight_bit=True, smtputf8=True,
        envelope_id=b"id", dsn_return=b"HDRS", notify=b"NEVER", original=b"rfc822;x",
    )  # fmt: skip
    plain = client("PIPELINING")
    plain.begin(transaction)
    assert plain.take_output() == "MAIL FROM:<>\r\nRCPT TO:<ü@b.test>\r\nDATA\r\n".encode()
    able = client("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN")
    able.begin(transaction)
    assert (
        able.take_output()
        == (
            "MAIL FROM:<> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id\r\n"
            "RCPT TO:<ü@b.test> NOTIFY=NEVER ORCPT=rfc822;x\r\nDATA\r\n"
        ).encode()
    )


def test_first_refusal_of_the_group_is_what_counts():
    talking = client("PIPELINING")
    talking.begin(MESSAGE)
    events = talking.receive(b"550 5.7.1 not you\r\n503 5.5.1 mail first\r\n503 5.5.1 rcpt first\r\n")
    assert events == [Finished(Stage.MAIL, Reply(550, "not you", EnhancedStatus(7, 1)))]
    assert talking.idle


def test_refused_recipient_leaves_a_transaction_to_reset():
    talking = client("PIPELINING")
    talking.begin(MESSAGE)
    talking.receive(b"250 ok\r\n550 no\r\n554 no valid recipients\r\n")
    talking.take_output()
    talking.begin(MESSAGE)
    assert talking.take_output().startswith(b"RSET\r\nMAIL FROM")
    assert talking.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n") == [SendBody()]


def test_354_without_a_recipient_is_answered_with_a_lone_dot():
    talking = client("PIPELINING")
    talking.begin(MESSAGE)
    talking.take_output()
    assert talking.receive(b"250 ok\r\n550 no\r\n354 go\r\n") == []
    assert talking.take_output() == b".\r\n"
    assert talking.receive(b"554 no recipients\r\n") == [Finished(Stage.RCPT, Reply(550, "no"))]
    assert talking.idle


def test_without_pipelining_a_refusal_ends_it_at_once():
    talking = client()
    talking.begin(MESSAGE)
    assert talking.take_output() == b"MAIL FROM:<from@a.test>\r\n"
    assert talking.receive(b"550 no\r\n") == [Finished(Stage.MAIL, Reply(550, "no"))]
    assert talking.take_output() == b""
    talking.begin(MESSAGE)
    assert talking.take_output() == b"MAIL FROM:<from@a.test>\r\n"


def test_without_pipelining_reset_is_a_step_of_its_own():
    talking = client()
    talking.begin(MESSAGE)
    talking.receive(b"250 ok\r\n")
    talking.take_output()
    assert talking.receive(b"550 no\r\n") == [Finished(Stage.RCPT, Reply(550, "no"))]
    talking.begin(MESSAGE)
    assert talking.take_output() == b"RSET\r\n"
    talking.receive(b"250 ok\r\n")
    assert talking.take_output() == b"MAIL FROM:<from@a.test>\r\n"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_421_ends_the_session_at_every_step_of_the_envelope(count):
    talking = client("PIPELINING")
    talking.begin(MESSAGE)
    events = talking.receive(b"250 ok\r\n" * count + b"421 closing\r\n")
    stage = (Stage.MAIL, Stage.RCPT, Stage.DATA)[count]
    assert events == [Finished(stage, Reply(421, "closing"))]
    assert talking.closed


def test_refusal_before_the_end_of_the_body_ends_the_session():
    talking = in_body()
    assert talking.receive(b"552 5.3.4 too large\r\n") == [
        Finished(Stage.BODY, Reply(552, "too large", EnhancedStatus(3, 4)))
    ]
    assert talking.closed
    with pytest.raises(LocalProtocolError):
        talking.complete()


def test_acceptance_before_the_final_dot_is_not_believed():
    talking = in_body()
    assert talking.receive(b"250 ok\r\n") == [Lost(Stage.BODY, "The server sent a reply that nothing asked for.")]


def test_what_is_lost_is_told_by_its_stage():
    assert in_body().lost("gone") == [Lost(Stage.BODY, "gone")]
    talking = in_body()
    talking.complete()
    assert talking.lost("gone") == [Lost(Stage.DOT, "gone")]
    assert talking.lost("again") == []
    assert client().lost("gone") == [Lost(Stage.IDLE, "gone")]


def test_refusal_stands_although_the_session_broke_after_it():
    talking = client("PIPELINING")
    talking.begin(MESSAGE)
    assert talking.receive(b"250 ok\r\n550 no\r\n") == []
    assert talking.lost("gone") == [Finished(Stage.RCPT, Reply(550, "no"))]


@pytest.mark.parametrize("garbage", [b"354 more\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_nonsense_after_the_dot_leaves_the_message_in_doubt(garbage):
    talking = in_body()
    talking.complete()
    (event,) = talking.receive(garbage)
    assert isinstance(event, Lost)
    assert event.stage is Stage.DOT


def test_tls_forgets_all_that_was_learnt_and_what_was_injected():
    talking = client("STARTTLS", "SIZE 10")
    talking.start_tls()
    assert talking.take_output() == b"STARTTLS\r\n"
    assert talking.receive(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n") == [TlsAgreed()]
    assert talking.receive(b"250 more evil\r\n") == []
    talking.secured()
    assert talking.capabilities == Capabilities()
    assert talking.take_output() == b"EHLO me.test\r\n"
    assert talking.receive(b"250-real\r\n250 STARTTLS\r\n") == [Ready()]
    with pytest.raises(LocalProtocolError):
        talking.start_tls()


def test_refused_tls_leaves_the_session_as_it_was():
    talking = client("STARTTLS")
    talking.start_tls()
    assert talking.receive(b"454 4.7.0 not now\r\n") == [TlsRefused(Reply(454, "not now", EnhancedStatus(7, 0)))]
    assert talking.idle


@pytest.mark.parametrize("greeting", [b"554 no\r\n", b"421 busy\r\n", b"250 odd\r\n"])
def test_server_that_does_not_greet_is_left(greeting):
    talking = SmtpClient(hostname="me.test")
    (event,) = talking.receive(greeting)
    assert isinstance(event, NotWelcome)
    assert talking.closed
    assert talking.take_output() == b""


def test_helo_is_said_where_ehlo_is_not_known():
    talking = SmtpClient(hostname="me.test")
    talking.receive(b"220 old\r\n")
    talking.take_output()
    assert talking.receive(b"500 what\r\n") == []
    assert talking.take_output() == b"HELO me.test\r\n"
    assert talking.receive(b"250 hello\r\n") == [Ready()]
    assert not talking.capabilities.extended


def test_quit_is_said_and_answered():
    talking = client()
    talking.quit()
    assert talking.take_output() == b"QUIT\r\n"
    assert talking.receive(b"221 bye\r\n") == []
    assert talking.closed


@pytest.mark.parametrize("path", [b"a\r\nDATA@b.test", b"a b@c.test", b"a@b.test\x00", b'"a\nb"@c.test'])
def test_no_command_is_smuggled_in_by_a_path(path):
    talking = client()
    with pytest.raises(LocalProtocolError):
        talking.begin(Transaction(b"", path, 1))
    assert talking.take_output() == b""
    talking.begin(Transaction(b"", b'"a b"@c.test', 1))


def test_one_message_at_a_time():
    talking = client()
    talking.begin(MESSAGE)
    with pytest.raises(LocalProtocolError):
        talking.begin(MESSAGE)
    with pytest.raises(LocalProtocolError):
        talking.complete()
    with pytest.raises(LocalProtocolError):
        talking.secured()


@pytest.mark.parametrize(
    ("text", "size"),
    [("x\nSIZE 100", 100), ("x\nSIZE", 0), ("x\nsize 5 ", 5), ("x\nSIZE " + "9" * 30, 0), ("x\nSIZE ٣", 0)],
)
def test_size_limit_is_read(text, size):
    assert parse_capabilities(text).size
    assert parse_capabilities(text).size_octets_max == size


def test_first_line_of_ehlo_is_a_name_and_offers_nothing():
    assert parse_capabilities("PIPELINING\nDSN") == Capabilities(extended=True, dsn=True)
