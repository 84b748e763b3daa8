"""Properties of the server's core: how octets are split makes no difference, and any octets get well-formed replies."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from pigeonry.domain.reply import EnhancedStatus, Reply
from support.smtp_session import EHLO, ENVELOPE, Talk, service

REPLIES = re.compile(rb"(?:[2-5][0-9]{2}(?:-[^\r\n\x00]*|(?: [^\r\n\x00]*)?)\r\n)*")

COMMANDS = st.sampled_from(
    [
        EHLO,
        b"HELO c\r\n",
        b"ehlo \r\n",
        ENVELOPE,
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<a@sender.test> SIZE=60\r\n",
        b"MAIL FROM:<a@sender.test> SIZE=6000000\r\n",
        b"RCPT TO:<b@dest.test> NOTIFY=NEVER\r\n",
        b"RCPT TO:<>\r\n",
        b"DATA\r\n",
        b"DATA\r\nSubject: x\r\n\r\n..y\r\n.\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"bare\nline\r\n",
        b"bare\rline\r\n",
        b"x" * 90 + b"\r\n",
        b"x" * 700 + b"\r\n",
        b"BDAT 3\r\nabc",
        b"BDAT 0\r\n",
        b"BDAT 5 LAST\r\nQUIT\r",
        b"BDAT x\r\n",
        b"AUTH PLAIN AGxvZ2luAHNlY3JldA==\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH LOGIN\r\n",
        b"bG9naW4=\r\n",
        b"c2VjcmV0\r\n",
        b"*\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"VRFY a\r\n",
        b"HELP\r\n",
        b"EXPN a\r\n",
        b"WHAT\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"QUIT\r\n",
    ]
)
STREAMS = st.lists(st.one_of(COMMANDS, COMMANDS, COMMANDS, COMMANDS, st.binary(max_size=12)), max_size=25)
LIMITS = service(
    message_octets_max=300, recipients_max=2, errors_max=6, idle_commands_max=12, transactions_max=4, starttls=False
)
REFUSAL = Reply(451, "Later", EnhancedStatus(3, 0))


def conversation(stream: bytes, cuts: list[int], **options: object) -> Talk:
    talk = Talk(LIMITS, **options)  # type: ignore[arg-type]
    start = 0
    for cut in [*sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]:
        talk.say(stream[start:cut])
        start = cut
    return talk


@given(STREAMS, st.lists(st.integers(0, 1_000), max_size=40), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_how_the_octets_are_split_changes_nothing(
    parts: list[bytes],
    cuts: list[int],
    trusted: bool,
    refuse: bool,
) -> None:
    stream = EHLO + b"".join(parts)
    options = {"trusted": trusted, "refuse_message": REFUSAL if refuse else None}
    whole = conversation(stream, [], **options)
    split = conversation(stream, cuts, **options)
    single = conversation(stream, list(range(len(stream))), **options)
    assert whole.said == split.said == single.said
    assert whole.messages == split.messages == single.messages
    assert whole.ended == split.ended == single.ended
    assert whole.server.state == split.server.state == single.server.state


@given(st.lists(st.one_of(STREAMS.map(b"".join), st.binary(max_size=200)), max_size=6))
@settings(max_examples=400, deadline=None)
def test_any_octets_get_well_formed_replies(parts: list[bytes]) -> None:
    talk = Talk(LIMITS)
    for part in parts:
        talk.say(part)
    assert REPLIES.fullmatch(talk.said)
    stream = b"".join(parts)
    if talk.messages:
        assert b"\r\n.\r\n" in stream or b"LAST" in stream.upper()
    for message in talk.messages:
        assert message.octets == b"" or message.octets.endswith(b"\r\n")
        assert message.octets.count(b"\r\n") == message.octets.count(b"\r") == message.octets.count(b"\n")
        assert len(message.octets) <= 302


LINES = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), max_size=20)


@given(LINES, st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_what_a_client_stuffs_comes_out_as_it_was(lines: list[bytes], by: int) -> None:
    text = b"".join(line + b"\r\n" for line in lines)
    stuffed = b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines)
    for body in (b"DATA\r\n" + stuffed + b".\r\n", b"BDAT %d LAST\r\n" % len(text) + text):
        talk = Talk()
        talk.say(EHLO + ENVELOPE + body, by=by)
        assert [message.octets for message in talk.messages] == [text]
