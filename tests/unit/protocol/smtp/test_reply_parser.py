from __future__ import annotations

import pytest

from pigeonry.domain.reply import EnhancedStatus, Reply
from pigeonry.protocol.smtp.reply_parser import (
    REPLY_CHARACTERS_MAX,
    REPLY_LINE_OCTETS_MAX,
    REPLY_LINES_MAX,
    RemoteProtocolError,
    ReplyParser,
)


def parsed(octets: bytes) -> list[Reply]:
    parser = ReplyParser()
    parser.feed(octets)
    replies = []
    while (reply := parser.next_reply()) is not None:
        replies.append(reply)
    return replies


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 ok\r\n", Reply(250, "ok")),
        (b"250\r\n", Reply(250, "")),
        (b"250 ok\n", Reply(250, "ok")),
        (b"250 2.1.0 ok\r\n", Reply(250, "ok", EnhancedStatus(1, 0))),
        (b"550 5.1.1\r\n", Reply(550, "", EnhancedStatus(1, 1))),
        (b"550-5.7.1 one\r\n550 5.7.1 two\r\n", Reply(550, "one\ntwo", EnhancedStatus(7, 1))),
        (b"550 4.7.1 class differs\r\n", Reply(550, "4.7.1 class differs")),
        (b"354 3.0.0 go\r\n", Reply(354, "3.0.0 go")),
        (b"250 caf\xc3\xa9 \xff\r\n", Reply(250, "café \ufffd")),
        (b"250 a\x00b\x1b[31m\r\n", Reply(250, "a b [31m")),
    ],
)
def test_reply_is_read(octets, reply):
    assert parsed(octets) == [reply]


@pytest.mark.parametrize(
    "octets",
    [b"hello\r\n", b"\r\n", b"199 x\r\n", b"650 x\r\n", b"25\r\n", b"2500 x\r\n", b"250-a\r\n251 b\r\n", b"250\tx\r\n"],
)
def test_what_is_no_reply_is_said_to_be_none(octets):
    with pytest.raises(RemoteProtocolError):
        parsed(octets)


def test_line_may_have_so_many_octets_and_no_more():
    line = b"250 " + b"x" * (REPLY_LINE_OCTETS_MAX - 5)
    assert len(parsed(line + b"\n")[0].text) == REPLY_LINE_OCTETS_MAX - 5
    with pytest.raises(RemoteProtocolError):
        parsed(line + b"x\n")
    with pytest.raises(RemoteProtocolError):
        parsed(line + b"x")


def test_reply_may_have_so_many_lines_and_no_more():
    most = b"250-x\r\n" * (REPLY_LINES_MAX - 1) + b"250 x\r\n"
    assert parsed(most)[0].text.count("\n") == REPLY_LINES_MAX - 1
    with pytest.raises(RemoteProtocolError):
        parsed(b"250-x\r\n" + most)


def test_discarded_octets_are_never_seen():
    parser = ReplyParser()
    parser.feed(b"250-begun\r\n250 half")
    assert parser.next_reply() is None
    parser.discard()
    parser.feed(b"220 new\r\n")
    assert parser.next_reply() == Reply(220, "new")


def test_of_a_reply_that_fills_every_line_the_beginning_is_kept():
    parser = ReplyParser()
    parser.feed(b"550-" + b"a" * 2_000 + b"\r\n")
    for _ in range(100):
        parser.feed(b"550-" + b"b" * 2_000 + b"\r\n")
    parser.feed(b"550 end\r\n")
    reply = parser.next_reply()
    assert reply is not None
    assert len(reply.text) == REPLY_CHARACTERS_MAX
    assert reply.text.startswith("a" * 2_000 + "\nb")
    assert parser.next_reply() is None
