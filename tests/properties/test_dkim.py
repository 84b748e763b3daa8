"""Whatever the whitespace, what we sign verifies elsewhere; and canonical forms are their own canonical forms."""

from __future__ import annotations

import dkim
from hypothesis import given, settings
from hypothesis import strategies as st

from pigeonry.protocol.dkim import keys
from pigeonry.protocol.dkim.canonical import relaxed_body
from pigeonry.protocol.dkim.signer import DkimSigner

MADE = keys.generate("ed25519")
SIGNER = DkimSigner(domain="example.org", selector="s", key=keys.load_private_key(MADE.private))
RECORD = keys.record_value(algorithm="ed25519", public=MADE.public).encode()

spaces = st.text(" \t", max_size=4)
words = st.text('ab:;=<>@"\\äλ.', min_size=1, max_size=6)
lines = st.lists(st.tuples(spaces, words), max_size=4).map(lambda parts: "".join(s + w for s, w in parts))
values = st.lists(st.tuples(words, spaces), min_size=1, max_size=4).map(
    lambda parts: "\r\n ".join(word + space for word, space in parts)
)
names = st.sampled_from(["To", "SUBJECT", "cc", "X-Any", "Received", "List-Id", "reply-to", "Content-Type", "Date"])
fields = st.lists(st.tuples(names, spaces, values).map(lambda f: f"{f[0]}:{f[1]}{f[2]}\r\n"), max_size=8)
bodies = st.lists(st.tuples(lines, spaces), max_size=8).map(lambda rows: "".join(a + b + "\r\n" for a, b in rows))


@given(before=fields, after=fields, sender=values, body=bodies)
@settings(deadline=None)
def test_message_with_any_whitespace_verifies(before, after, sender, body):
    message = ("".join(before) + f"From: {sender}\r\n" + "".join(after) + "\r\n" + body).encode()
    signed = SIGNER.sign(message, now=1_700_000_000.0) + message
    assert dkim.DKIM(signed).verify(dnsfunc=lambda name, timeout=5: RECORD)


@given(
    st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"\r", b"\n", b"x", b"  ", b" " * 20]), max_size=30).map(b"".join)
)
def test_relaxed_body_is_its_own_relaxed_body_and_has_no_excess(body):
    canonical = bytes(relaxed_body(body))
    assert bytes(relaxed_body(canonical)) == canonical
    assert b"  " not in canonical
    assert b"\t" not in canonical
    assert b" \r\n" not in canonical
    assert not canonical.endswith(b"\r\n\r\n")
    assert canonical == b"" or canonical.endswith(b"\r\n")
    assert canonical.translate(None, b" \r\n") == body.translate(None, b" \t\r\n")
