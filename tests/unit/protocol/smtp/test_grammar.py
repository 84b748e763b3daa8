from __future__ import annotations

import pytest

from pigeonry.protocol.smtp.grammar import (
    CommandError,
    ForwardPath,
    ReversePath,
    credential_text,
    decode_base64,
    parse_chunk,
    parse_hello,
    parse_mail,
    parse_plain,
    parse_rcpt,
)


def rcpt(argument: bytes, *, smtputf8: bool = False) -> ForwardPath:
    return parse_rcpt(argument, smtputf8=smtputf8, hostname="mx.test")


def refused(parse: object, argument: bytes, **more: object) -> str:
    with pytest.raises(CommandError) as caught:
        parse(argument, **more)  # type: ignore[operator]
    reply = caught.value.reply
    assert len(argument) < 8 or argument.decode("latin-1") not in reply.text
    return f"{reply.code} {reply.enhanced_code}"


@pytest.mark.parametrize(
    ("argument", "mailbox"),
    [
        (b"FROM:<a@b.test>", "a@b.test"),
        (b"from:<a@b.test>", "a@b.test"),
        (b"FROM: <a@b.test>", "a@b.test"),
        (b"FROM:<>", ""),
        (b"FROM:<A.b+c@B.Test>", "A.b+c@b.test"),
        (b'FROM:<"a b>c"@b.test>', '"a b>c"@b.test'),
        (b"FROM:<@x.test,@y.test:a@b.test>", "a@b.test"),
        (b"FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        (b"FROM:<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
        (b"FROM:<a@" + b"x" * 63 + b".test>", "a@" + "x" * 63 + ".test"),
    ],
)
def test_reverse_paths(argument: bytes, mailbox: str) -> None:
    assert parse_mail(argument) == ReversePath(mailbox)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (b"", "501 5.5.4"),
        (b"FROM", "501 5.5.4"),
        (b"TO:<a@b.test>", "501 5.5.4"),
        (b"FROM:a@b.test", "501 5.5.4"),
        (b"FROM:<a@b.test", "501 5.5.4"),
        (b"FROM:<a@b.test>x", "501 5.5.4"),
        (b"FROM:<a@b.test> SIZE", "501 5.5.4"),
        (b"FROM:<a@b.test> SIZE=", "501 5.5.4"),
        (b"FROM:<a@b.test> SIZE=-1", "501 5.5.4"),
        (b"FROM:<a@b.test> SIZE=" + b"9" * 21, "501 5.5.4"),
        (b"FROM:<a@b.test> SIZE=1 SIZE=1", "501 5.5.4"),
        (b"FROM:<a@b.test> BODY=BINARYMIME", "501 5.5.4"),
        (b"FROM:<a@b.test> SMTPUTF8=1", "501 5.5.4"),
        (b"FROM:<a@b.test> RET=ALL", "501 5.5.4"),
        (b"FROM:<a@b.test> ENVID=a=b", "501 5.5.4"),
        (b"FROM:<a@b.test> ENVID=" + b"x" * 101, "501 5.5.4"),
        (b"FROM:<a@b.test> AUTH=a@b=", "501 5.5.4"),
        (b"FROM:<a@b.test> WHAT=1", "555 5.5.4"),
        (b"FROM:<a@b.test> =1", "501 5.5.4"),
        (b"FROM:<a>", "553 5.1.7"),
        (b"FROM:<a..b@c.test>", "553 5.1.7"),
        (b"FROM:<a@-b.test>", "553 5.1.7"),
        (b"FROM:<a@" + b"x" * 64 + b".test>", "553 5.1.7"),
        (b"FROM:<" + b"x" * 65 + b"@c.test>", "553 5.1.7"),
        (b"FROM:<\xff@b.test>", "553 5.1.7"),
        ("FROM:<ä@b.test>".encode(), "553 5.6.7"),
        (b"FROM:<a\rb@c.test>", "501 5.5.4"),
        (b"FROM:<a@b.test> SIZE=1\nDATA", "501 5.5.4"),
        (b"FROM:<a@b.test> ENVID=a\x07b", "501 5.5.4"),
    ],
)
def test_reverse_paths_that_are_refused(argument: bytes, said: str) -> None:
    assert refused(parse_mail, argument) == said


def test_all_parameters_of_mail() -> None:
    argument = "FROM:<ä@b.test> SIZE=12 BODY=8bitmime SMTPUTF8 RET=hdrs ENVID=a+2Bb AUTH=<>".encode()
    assert parse_mail(argument) == ReversePath("ä@b.test", 12, "8BITMIME", True, "HDRS", "a+2Bb")
    assert parse_mail(b"FROM:<a@b.test> AUTH=a+40b") == ReversePath("a@b.test")


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        (b"TO:<b@d.test>", ForwardPath("b@d.test")),
        (b"To:<Postmaster>", ForwardPath("Postmaster@mx.test")),
        (b"TO:<b@d.test> NOTIFY=never", ForwardPath("b@d.test", "NEVER")),
        (b"TO:<b@d.test> NOTIFY=Success,DELAY", ForwardPath("b@d.test", "SUCCESS,DELAY")),
        (b"TO:<b@d.test> ORCPT=rfc822;b+2B@d.test", ForwardPath("b@d.test", "", "rfc822;b+2B@d.test")),
    ],
)
def test_forward_paths(argument: bytes, path: ForwardPath) -> None:
    assert rcpt(argument) == path


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (b"TO:<>", "553 5.1.3"),
        (b"TO:<b>", "553 5.1.3"),
        (b"FROM:<b@d.test>", "501 5.5.4"),
        (b"TO:<b@d.test> NOTIFY=NEVER,DELAY", "501 5.5.4"),
        (b"TO:<b@d.test> NOTIFY=OFTEN", "501 5.5.4"),
        (b"TO:<b@d.test> ORCPT=b@d.test", "501 5.5.4"),
        (b"TO:<b@d.test> ORCPT=rfc822;" + b"x" * 500, "501 5.5.4"),
        (b"TO:<b@d.test> SIZE=1", "555 5.5.4"),
        ("TO:<ä@d.test>".encode(), "553 5.6.7"),
    ],
)
def test_forward_paths_that_are_refused(argument: bytes, said: str) -> None:
    assert refused(parse_rcpt, argument, smtputf8=False, hostname="mx.test") == said


def test_an_internationalised_domain_becomes_its_a_label() -> None:
    assert rcpt("TO:<b@bücher.test>".encode(), smtputf8=True) == ForwardPath("b@xn--bcher-kva.test")


def test_hello_is_one_printable_word() -> None:
    assert parse_hello(b" client.test ") == "client.test"
    for name in (b"", b"two words", b"\x00", "ä".encode(), b"x" * 256, b"a\tb"):
        assert refused(parse_hello, name) == "501 5.5.4"


def test_a_chunk_is_a_number_and_perhaps_the_last() -> None:
    assert parse_chunk(b"12") == (12, False)
    assert parse_chunk(b"0 last ") == (0, True)
    for argument in (b"", b"x", b"-1", b"1 FIRST", b"1" * 13, b"\xd9\xa1"):
        assert refused(parse_chunk, argument) == "501 5.5.4"


def test_plain_credentials() -> None:
    assert parse_plain(b"\0login\0pass") == ("login", "pass")
    assert parse_plain(b"login\0login\0pass") == ("login", "pass")
    assert refused(parse_plain, b"other\0login\0pass") == "535 5.7.8"
    for response in (
        b"",
        b"login\0pass",
        b"\0login\0",
        b"\0\0pass",
        b"\0a\0b\0c",
        b"\0\xff\0pass",
        b"\0" + b"x" * 256 + b"\0p",
    ):
        assert refused(parse_plain, response) == "501 5.5.2"


def test_responses_are_strict_base64() -> None:
    assert decode_base64(b"=") == b""
    assert decode_base64(b"YWI=") == b"ab"
    for line in (b"YWI", b"Y WI=", b"****", b"YWI=\n", b"YWI=YWI="):
        assert refused(decode_base64, line) == "501 5.5.2"


def test_credentials_hold_no_nul() -> None:
    assert credential_text("pä ss".encode()) == "pä ss"
    assert refused(credential_text, b"a\0b") == "501 5.5.2"
