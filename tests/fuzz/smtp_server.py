"""Any octets: replies are well formed, nothing is accepted without CRLF.CRLF or BDAT LAST, no exception, bounded memory.

Under atheris: ``python tests/fuzz/smtp_server.py [corpus]``. Without it the same target runs on octets that a seeded
generator makes of the protocol's own words: ``python tests/fuzz/smtp_server.py --seed 1 --runs 100000``.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from pigeonry.domain.reply import Reply  # noqa: E402 - after the path above
from pigeonry.protocol.smtp.data import HELD_OCTETS_MAX  # noqa: E402 - after the path above
from pigeonry.protocol.smtp.server import AUTH_LINE_OCTETS_MAX  # noqa: E402 - after the path above
from support.fuzzing import main  # noqa: E402 - after the path above
from support.smtp_session import Talk, service  # noqa: E402 - after the path above

REPLIES = re.compile(rb"(?:[2-5][0-9]{2}(?:-[^\r\n\x00]*|(?: [^\r\n\x00]*)?)\r\n)*")
LIMITS = service(message_octets_max=2_000, recipients_max=3, errors_max=8, idle_commands_max=20, starttls=True)
WORDS = (
    *b"EHLO c|HELO c|MAIL FROM:<>|MAIL FROM:<a@sender.test>|RCPT TO:<b@dest.test>|DATA|BDAT 3|BDAT 7 LAST|BDAT 0".split(
        b"|"
    ),
    *b"RSET|NOOP|VRFY x|HELP|QUIT|STARTTLS|AUTH PLAIN|AUTH LOGIN|*|AGEAc2VjcmV0|YQ==| SIZE=9| BODY=8BITMIME| SMTPUTF8".split(
        b"|"
    ),
    *b" NOTIFY=NEVER| ORCPT=rfc822;x| RET=HDRS| ENVID=x|.|..|Subject: x|Received: x|<|>|@|:|\xc3\xa4|\xff|\0|\t| ".split(
        b"|"
    ),
    *(b"\r\n",) * 24,
    *b"\r|\n|\r\n.\r\n|\n.\n|\r.\r|\n.\r\n|\r\n.\n|\r\n\r\n".split(b"|"),
    b"x" * 600,
    b"x" * 13_000,
)


def target(octets: bytes) -> None:
    """Run one conversation; the first octets decide on how it is cut and answered."""
    options, stream = octets[:3], octets[3:]
    flags = options[0] if options else 0
    step = 1 + (options[1] if len(options) > 1 else 0)
    talk = Talk(LIMITS, secure=bool(flags & 1), trusted=bool(flags & 2))
    if flags & 4:
        talk.refuse_message = Reply(451, "Later")
    if flags & 8:
        talk.refuse_mail = Reply(451, "Later")
    for at in range(0, len(stream), step):
        talk.say(stream[at : at + step])
        assert talk.server.held <= AUTH_LINE_OCTETS_MAX + step
        text = talk.server._text
        assert text is None or text._held is None or len(text._held) <= HELD_OCTETS_MAX + step
    assert REPLIES.fullmatch(talk.said), talk.said
    assert not talk.messages or b"\r\n.\r\n" in stream or b"LAST" in stream.upper()
    for message in talk.messages:
        octets = message.octets
        assert octets.count(b"\r\n") == octets.count(b"\r") == octets.count(b"\n")
        assert octets == b"" or octets.endswith(b"\r\n")
        assert len(octets) <= 2_000


def generated(dice: random.Random) -> bytes:
    """Octets made of the protocol's own words, some of them damaged."""
    made = bytearray(dice.randbytes(3))
    made += b"EHLO c\r\n" * (dice.random() < 0.8)
    for _ in range(dice.randrange(60)):
        made += dice.choice(WORDS)
        if dice.random() < 0.3:
            made += b"\r\n"
    for _ in range(dice.choice((0, 0, 1, 5))):
        made[dice.randrange(len(made))] = dice.randrange(256)
    return bytes(made)


if __name__ == "__main__":
    main(target, generated)
