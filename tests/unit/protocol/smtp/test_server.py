from __future__ import annotations

import base64

import pytest

from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.smtp.data import HELD_OCTETS_MAX
from pigeonry.protocol.smtp.server import (
    ALLOWED,
    AUTH_LINE_OCTETS_MAX,
    LINE_OCTETS_MAX,
    MAIL_LINE_OCTETS_MAX,
    RCPT_LINE_OCTETS_MAX,
    SmtpServer,
    State,
)
from support.smtp_session import EHLO, ENVELOPE, Talk, service

BUSY = Reply(451, "Busy", EnhancedStatus(3, 2))
PLAIN = base64.b64encode(b"\0login\0secret")
WRONG = base64.b64encode(b"\0login\0wrong")


def greeted(**options: object) -> Talk:
    talk = Talk(**options)  # type: ignore[arg-type]
    talk.say(EHLO)
    return talk


def test_every_command_has_its_place_in_the_table() -> None:
    assert set(ALLOWED) == set(SmtpServer._COMMANDS)


def test_a_message_comes_in_and_is_acknowledged() -> None:
    talk = greeted()
    assert talk.codes(ENVELOPE + b"DATA\r\n") == ["250 2.1.0", "250 2.1.5", "354 End"]
    assert talk.say(b"Subject: hi\r\n\r\n..dot\r\n.\r\n") == "250 2.0.0 Taken\r\n"
    message = talk.messages[0]
    assert message.octets == b"Subject: hi\r\n\r\n.dot\r\n"
    assert message.event.reverse_path.mailbox == "a@sender.test"
    assert [path.mailbox for path in message.event.forward_paths] == ["b@dest.test"]
    assert talk.codes(b"QUIT\r\n") == ["221 2.0.0"]
    assert talk.ended is not None
    assert talk.ended.quit


def test_a_refused_message_leaves_the_session_usable() -> None:
    talk = greeted(refuse_message=Reply(554, "No", EnhancedStatus(6, 0)))
    assert talk.codes(ENVELOPE + b"DATA\r\nx\r\n.\r\n")[-1] == "554 5.6.0"
    talk.refuse_message = None
    assert talk.codes(ENVELOPE + b"DATA\r\ny\r\n.\r\n")[-1] == "250 2.0.0"
    assert [message.octets for message in talk.messages] == [b"y\r\n"]


def test_refused_mail_opens_no_transaction() -> None:
    talk = greeted(refuse_mail=BUSY)
    assert talk.codes(ENVELOPE + b"DATA\r\n") == ["451 4.3.2", "503 5.5.1", "503 5.5.1"]


def test_an_answer_with_421_ends_the_session() -> None:
    talk = greeted(refuse_mail=Reply(421, "Go", EnhancedStatus(3, 2)))
    assert talk.codes(ENVELOPE) == ["421 4.3.2"]
    assert talk.ended is not None
    assert not talk.ended.quit
    assert talk.say(b"NOOP\r\n") == ""


@pytest.mark.parametrize("state", ["start", "greeted", "mail", "rcpt", "chunks"])
@pytest.mark.parametrize("verb", sorted(ALLOWED))
def test_commands_out_of_order_get_503_and_change_nothing(verb: bytes, state: str) -> None:
    talk = Talk()
    for reached, octets in {
        "greeted": EHLO,
        "mail": b"MAIL FROM:<>\r\n",
        "rcpt": b"RCPT TO:<b@dest.test>\r\n",
        "chunks": b"BDAT 1\r\nx",
    }.items():
        if state == "start":
            break
        talk.say(octets)
        if reached == state:
            break
    before = talk.server.state
    arguments = {b"EHLO": b" c", b"HELO": b" c", b"BDAT": b" 0", b"MAIL": b" FROM:<>", b"RCPT": b" TO:<b@dest.test>"}
    said = talk.codes(verb + arguments.get(verb, b"") + b"\r\n")
    if before in ALLOWED[verb]:
        assert said
        assert said != ["503 5.5.1"]
    else:
        assert said == ["503 5.5.1"]
        assert talk.server.state == before


def test_unauthenticated_mail_is_refused_unless_trusted() -> None:
    talk = greeted(trusted=False)
    assert talk.codes(ENVELOPE + b"DATA\r\n") == ["530 5.7.0", "503 5.5.1", "503 5.5.1"]


# --- lines


@pytest.mark.parametrize(
    ("start", "limit", "said"),
    [
        (b"NOOP ", LINE_OCTETS_MAX, "250 2.0.0"),
        (b"MAIL FROM:<> ENVID=", MAIL_LINE_OCTETS_MAX, "501 5.5.4"),
        (b"RCPT TO:<b@dest.test> ORCPT=", RCPT_LINE_OCTETS_MAX, "501 5.5.4"),
        (b"AUTH PLAIN ", AUTH_LINE_OCTETS_MAX, "501 5.5.2"),
    ],
)
@pytest.mark.parametrize("by", [0, 1, 100])
def test_the_longest_command_line_is_exactly_as_long_as_allowed(start: bytes, limit: int, said: str, by: int) -> None:
    for excess, expected in ((0, said), (1, "500 5.5.2")):
        talk = greeted()
        if start.startswith(b"RCPT"):
            talk.say(b"MAIL FROM:<>\r\n")
        line = start + b"x" * (limit - len(start) - 2 + excess) + b"\r\n"
        assert talk.codes(line + b"QUIT\r\n", by=by) == [expected, "221 2.0.0"]


def test_a_line_without_end_is_not_held() -> None:
    talk = greeted()
    for _ in range(100):
        talk.say(b"x" * 10_000)
        assert talk.server.held <= AUTH_LINE_OCTETS_MAX
    assert talk.codes(b"\r\nNOOP\r\n") == ["500 5.5.2", "250 2.0.0"]


@pytest.mark.parametrize("line", [b"NOOP\nQUIT", b"NOOP a\rb", b"NOOP \0", b"\nQUIT", b"HELP \n"])
def test_only_crlf_ends_a_command(line: bytes) -> None:
    talk = greeted()
    assert talk.codes(line + b"\r\n") == ["500 5.5.2"]
    assert talk.ended is None


def test_commands_of_other_protocols_end_the_session() -> None:
    talk = Talk()
    assert talk.codes(b"POST / HTTP/1.1\r\nHost: mx.test\r\n\r\nEHLO x\r\n") == ["421 4.5.1"]
    assert talk.ended is not None


def test_verbs_are_taken_in_any_case_and_with_blanks_behind() -> None:
    talk = Talk()
    assert talk.codes(b"ehlo c\r\nnOoP\r\nrset  \r\n") == ["250 AUTH", "250 2.0.0", "250 2.0.0"]
    assert talk.codes(b"rset x\r\nquit x\r\ndata x\r\n") == ["501 5.5.4", "501 5.5.4", "503 5.5.1"]


# --- limits


def test_errors_are_counted() -> None:
    talk = greeted(shared=service(errors_max=3))
    assert talk.codes(b"WHAT\r\n" * 4) == ["500 5.5.1"] * 3 + ["421 4.7.0"]
    assert talk.ended is not None


def test_commands_that_lead_nowhere_are_counted_and_a_message_forgives_them() -> None:
    talk = greeted(shared=service(idle_commands_max=5))
    assert talk.codes(b"NOOP\r\n" * 3) == ["250 2.0.0"] * 3
    assert talk.codes(ENVELOPE + b"DATA\r\n.\r\n")[-1] == "250 2.0.0"
    assert talk.codes(b"NOOP\r\n" * 6) == ["250 2.0.0"] * 5 + ["421 4.7.0"]


@pytest.mark.parametrize("command", [b"RSET\r\n", EHLO, b"VRFY x\r\n", b"MAIL FROM:<>\r\nRSET\r\n", b"HELP\r\n"])
def test_no_command_can_be_repeated_for_ever(command: bytes) -> None:
    talk = greeted(shared=service(idle_commands_max=5))
    talk.say(command * 10)
    assert talk.ended is not None


def test_empty_chunks_are_counted() -> None:
    talk = greeted(shared=service(idle_commands_max=5))
    talk.say(ENVELOPE + b"BDAT 0\r\n" * 10)
    assert talk.ended is not None


def test_recipients_over_the_limit_are_told_to_wait_and_end_the_session_in_the_end() -> None:
    talk = greeted(shared=service(recipients_max=2))
    said = talk.codes(b"MAIL FROM:<>\r\n" + b"RCPT TO:<b@dest.test>\r\n" * 4)
    assert said == ["250 2.1.0", "250 2.1.5", "250 2.1.5", "452 4.5.3", "452 4.5.3"]
    assert talk.codes(b"DATA\r\n.\r\n")[-1] == "250 2.0.0"
    assert len(talk.messages[0].event.forward_paths) == 2
    assert talk.codes(b"MAIL FROM:<>\r\n" + b"RCPT TO:<b@dest.test>\r\n" * 5)[-1] == "421 4.7.0"


def test_transactions_are_counted() -> None:
    talk = greeted(shared=service(transactions_max=2))
    for _ in range(2):
        assert talk.codes(ENVELOPE + b"DATA\r\n.\r\n")[-1] == "250 2.0.0"
    assert talk.codes(ENVELOPE)[0] == "421 4.7.0"


def test_size_is_checked_before_and_after_the_text() -> None:
    talk = greeted(shared=service(message_octets_max=100))
    assert talk.codes(b"MAIL FROM:<> SIZE=101\r\n") == ["552 5.3.4"]
    said = talk.codes(b"MAIL FROM:<> SIZE=100\r\nRCPT TO:<b@dest.test>\r\nDATA\r\n" + b"x" * 99 + b"\r\n.\r\n")
    assert said[-1] == "552 5.3.4"
    assert talk.messages == []
    assert talk.codes(ENVELOPE + b"DATA\r\n" + b"x" * 98 + b"\r\n.\r\n")[-1] == "250 2.0.0"


# --- text


@pytest.mark.parametrize("by", [0, 1])
@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r\n\x00.\r\n", b"\r.\r\n", b"\r\r\n.\r\r\n"]
)
def test_nothing_but_crlf_dot_crlf_ends_a_message(end: bytes, by: int) -> None:
    smuggled = b"MAIL FROM:<evil@sender.test>\r\nRCPT TO:<b@dest.test>\r\nDATA\r\nsmuggled\r\n.\r\n"
    talk = greeted()
    said = talk.codes(ENVELOPE + b"DATA\r\nSubject: x\r\n\r\nbody" + end + smuggled, by=by)
    assert len(said) == 4
    assert len(talk.messages) <= 1
    if talk.messages:
        assert talk.messages[0].event.reverse_path.mailbox == "a@sender.test"
    else:
        assert said[3] == "550 5.6.11"


def test_a_large_text_leaves_in_pieces() -> None:
    talk = greeted()
    text = b"x" * 78 + b"\r\n"
    text *= HELD_OCTETS_MAX * 3 // len(text)
    assert talk.codes(ENVELOPE + b"DATA\r\n" + text + b".\r\n", by=100_000)[-1] == "250 2.0.0"
    assert talk.pieces >= 2
    assert talk.messages[0].octets == text
    assert talk.messages[0].event.length == len(text)


def test_a_large_text_that_is_spoilt_at_its_end_is_abandoned() -> None:
    talk = greeted()
    text = (b"x" * 78 + b"\r\n") * 5_000
    assert talk.codes(ENVELOPE + b"DATA\r\n" + text + b"bare\n\r\n.\r\n", by=100_000)[-1] == "550 5.6.11"
    assert (talk.pieces > 0, talk.abandoned, talk.messages) == (True, 1, [])
    assert talk.codes(ENVELOPE + b"DATA\r\nok\r\n.\r\n")[-1] == "250 2.0.0"
    assert talk.messages[0].octets == b"ok\r\n"


# --- chunks


@pytest.mark.parametrize("by", [0, 1, 7])
def test_chunks_make_a_message(by: int) -> None:
    talk = greeted()
    said = talk.codes(ENVELOPE + b"BDAT 5\r\na\r\n.\rBDAT 4\r\n\n\r\nbBDAT 1 LAST\r\n!NOOP\r\n", by=by)
    assert said == ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "250 2.0.0", "250 2.0.0"]
    assert talk.messages[0].octets == b"a\r\n.\r\n\r\nb!\r\n"


def test_the_octets_of_a_refused_chunk_are_read_and_thrown_away() -> None:
    talk = greeted(refuse_mail=BUSY)
    said = talk.codes(ENVELOPE + b"BDAT 6 LAST\r\nRSET\r\nNOOP\r\n")
    assert said == ["451 4.3.2", "503 5.5.1", "503 5.5.1", "250 2.0.0"]
    assert Talk().codes(b"BDAT 6\r\nQUIT\r\nNOOP\r\n") == ["503 5.5.1", "250 2.0.0"]


def test_a_chunk_over_the_limit_spoils_the_message() -> None:
    talk = greeted(shared=service(message_octets_max=10))
    said = talk.codes(ENVELOPE + b"BDAT 8\r\n12345678BDAT 3\r\nabcBDAT 1 LAST\r\nx")
    assert said[2:] == ["250 2.0.0", "552 5.3.4", "503 5.5.1"]
    assert talk.messages == []
    assert talk.codes(b"RSET\r\n" + ENVELOPE + b"BDAT 1 LAST\r\nx")[-1] == "250 2.0.0"


def test_a_chunk_of_unknown_size_ends_the_session() -> None:
    talk = greeted()
    assert talk.codes(ENVELOPE + b"BDAT many\r\nQUIT\r\n")[2:] == ["501 5.5.4"]
    assert talk.ended is not None
    assert not talk.ended.quit


def test_data_does_not_mix_with_chunks() -> None:
    talk = greeted()
    assert talk.codes(ENVELOPE + b"BDAT 1\r\nxDATA\r\n")[2:] == ["250 2.0.0", "503 5.5.1"]


@pytest.mark.parametrize("command", [b"RSET\r\n", EHLO, b"HELO c\r\n"])
def test_an_unfinished_large_text_is_abandoned(command: bytes) -> None:
    talk = greeted()
    text = (b"x" * 78 + b"\r\n") * 5_000
    talk.say(ENVELOPE + b"BDAT %d\r\n" % len(text) + text)
    assert talk.pieces > 0
    talk.say(command)
    assert talk.abandoned == 1
    assert talk.codes(ENVELOPE + b"BDAT 2 LAST\r\nok")[-1] == "250 2.0.0"
    assert talk.messages[0].octets == b"ok\r\n"


def test_chunks_with_a_bare_line_end_are_refused_at_the_last() -> None:
    talk = greeted()
    assert talk.codes(ENVELOPE + b"BDAT 3\r\na\nbBDAT 0 LAST\r\n")[2:] == ["250 2.0.0", "550 5.6.11"]


# --- AUTH


def login(talk: Talk) -> list[str]:
    return talk.codes(b"AUTH PLAIN " + PLAIN + b"\r\n")


def test_plain_with_and_without_an_initial_response() -> None:
    talk = greeted(trusted=False)
    assert login(talk) == ["235 2.7.0"]
    assert talk.logins == [("login", "secret")]
    assert talk.codes(ENVELOPE)[0] == "250 2.1.0"
    talk = greeted(trusted=False)
    assert talk.say(b"AUTH PLAIN\r\n") == "334 \r\n"
    assert talk.codes(PLAIN + b"\r\n") == ["235 2.7.0"]


@pytest.mark.parametrize("by", [0, 1])
def test_login_asks_for_both(by: int) -> None:
    talk = greeted()
    user, password = base64.b64encode(b"login"), base64.b64encode(b"secret")
    said = talk.say(b"AUTH LOGIN\r\n" + user + b"\r\n" + password + b"\r\n", by=by)
    assert said == "334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 2.7.0 Authentication succeeded\r\n"
    assert talk.logins == [("login", "secret")]
    talk = greeted()
    assert talk.codes(b"AUTH LOGIN " + user + b"\r\n" + password + b"\r\n") == ["334 UGFzc3dvcmQ6", "235 2.7.0"]


@pytest.mark.parametrize(
    ("response", "said"),
    [(b"*", "501 5.7.0"), (b"!", "501 5.5.2"), (b"", "501 5.5.2"), (b"YQ==", "501 5.5.2"), (WRONG, "535 ")],
)
def test_a_failed_login_leaves_nothing(response: bytes, said: str) -> None:
    talk = greeted(trusted=False)
    assert talk.codes(b"AUTH PLAIN\r\n" + response + b"\r\n")[1].startswith(said)
    assert talk.codes(ENVELOPE)[0] == "530 5.7.0"
    assert login(talk) == ["235 2.7.0"]


def test_logins_are_counted() -> None:
    talk = greeted()
    assert talk.codes((b"AUTH PLAIN " + WRONG + b"\r\n") * 5)[-1] == "421 4.7.0"
    assert len(talk.logins) == 3
    talk = greeted()
    assert talk.codes(b"AUTH PLAIN\r\n*\r\n" * 3)[-1] == "421 4.7.0"


def test_auth_is_refused_where_it_has_no_place() -> None:
    talk = greeted(shared=service(plain_auth=False))
    assert "AUTH" not in talk.said.decode()
    assert login(talk) == ["538 5.7.11"]
    assert greeted(shared=service(auth=False)).codes(b"AUTH PLAIN\r\n") == ["502 5.5.1"]
    talk = greeted()
    login(talk)
    assert login(talk) == ["503 5.5.1"]
    assert greeted().codes(b"AUTH CRAM-MD5\r\nAUTH\r\n") == ["504 5.5.4", "504 5.5.4"]
    talk = greeted()
    talk.say(b"MAIL FROM:<>\r\n")
    assert login(talk) == ["503 5.5.1"]


def test_the_password_may_be_sent_under_tls() -> None:
    talk = greeted(shared=service(plain_auth=False), secure=True)
    assert "AUTH PLAIN LOGIN" in talk.said.decode()
    assert "STARTTLS" not in talk.said.decode()
    assert login(talk) == ["235 2.7.0"]


# --- STARTTLS


def test_starttls_begins_anew() -> None:
    talk = greeted(trusted=False)
    login(talk)
    assert talk.codes(b"STARTTLS\r\n") == ["220 2.0.0"]
    assert talk.tls_asked
    talk.server.secured()
    assert talk.codes(ENVELOPE) == ["503 5.5.1", "503 5.5.1"]
    assert "STARTTLS" not in talk.say(EHLO)
    assert talk.codes(ENVELOPE)[0] == "530 5.7.0"


def test_commands_behind_starttls_in_the_same_read_are_dropped() -> None:
    talk = greeted()
    assert talk.codes(b"STARTTLS\r\n" + ENVELOPE) == ["503 5.5.1"]
    assert not talk.tls_asked
    assert talk.ended is not None
    assert talk.server.held == 0


def test_plain_octets_where_tls_should_begin_end_the_session() -> None:
    talk = greeted()
    talk.say(b"STARTTLS\r\n")
    assert talk.say(ENVELOPE) == ""
    assert talk.ended is not None


def test_starttls_is_refused_where_it_has_no_place() -> None:
    assert greeted(shared=service(starttls=False)).codes(b"STARTTLS\r\n") == ["502 5.5.1"]
    assert greeted(secure=True).codes(b"STARTTLS\r\n") == ["502 5.5.1"]
    assert greeted().codes(b"STARTTLS now\r\n") == ["501 5.5.4"]
    assert greeted().codes(b"MAIL FROM:<>\r\nSTARTTLS\r\n")[-1] == "503 5.5.1"


# --- ends


@pytest.mark.parametrize("octets", [b"", b"NOO", ENVELOPE + b"RSET\r\n", ENVELOPE + b"DATA\r\n.\r\n"])
def test_draining_ends_an_idle_session_at_once(octets: bytes) -> None:
    talk = greeted()
    talk.say(octets)
    talk._act(talk.server.drain())
    talk.take()
    assert talk.said.endswith(b"421 4.3.2 Closing: the service is restarting, connect again\r\n")
    assert talk.ended is not None


def test_draining_waits_for_the_answer_that_is_owed() -> None:
    talk = greeted()
    talk.say(ENVELOPE + b"DATA\r\nhalf")
    assert talk.server.drain() is None
    assert talk.codes(b" a message\r\n.\r\n" + ENVELOPE) == ["250 2.0.0", "421 4.3.2"]
    assert len(talk.messages) == 1
    assert talk.ended is not None


@pytest.mark.parametrize(
    ("before", "after", "codes"),
    [
        (
            b"MAIL FROM:<a@b.test>\r\n",
            b"RCPT TO:<c@d.test>\r\nDATA\r\nx\r\n.\r\n",
            ["250 2.1.5", "354 End", "250 2.0.0"],
        ),
        (ENVELOPE, b"DATA\r\nx\r\n.\r\n", ["354 End", "250 2.0.0"]),
        (ENVELOPE + b"BDAT 1\r\nx", b"BDAT 1 LAST\r\ny", ["250 2.0.0"]),
        (ENVELOPE + b"BDAT 4\r\nab", b"cdRSET\r\n", ["250 2.0.0", "250 2.0.0"]),
    ],
)
def test_draining_cuts_no_transaction(before: bytes, after: bytes, codes: list[str]) -> None:
    talk = greeted()
    talk.say(before)
    assert talk.server.drain() is None
    assert talk.codes(after + ENVELOPE) == [*codes, "421 4.3.2"]
    assert talk.ended is not None


def test_time_is_up_unless_an_answer_is_owed() -> None:
    server = SmtpServer(service(), secure=False, trusted=True)
    server.receive(EHLO + ENVELOPE)
    assert server.state == State.ANSWER
    assert server.time_out(BUSY) is None
    server.accept()
    assert server.time_out(BUSY) is not None
    assert server.state == State.ENDED


def test_what_waits_behind_an_answer_is_counted_and_read_later() -> None:
    server = SmtpServer(service(), secure=False, trusted=True)
    server.receive(EHLO)
    assert server.receive(b"MAIL FROM:<>\r\nNOOP\r\n") is not None
    assert server.receive(b"NOOP\r\n") is None
    assert server.held == 12
    server.take_output()
    server.accept()
    assert server.take_output() == b"250 2.1.0 OK\r\n" + b"250 2.0.0 OK\r\n" * 2


def test_nothing_of_a_read_is_kept_once_it_is_understood() -> None:
    talk = greeted()
    talk.say(b"NOOP\r\n" * 50)
    assert talk.server._input == b""
    talk.say(b"NOOP\r\nNO")
    assert talk.server._input == b"NO"
