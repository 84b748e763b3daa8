"""Whatever the whitespace, what we sign verifies elsewhere; and canonical forms are their own canonical forms."""

from __future__ import annotations

import dkim
from hypothesis import given, settings
from hypothesis import strategies as st

from pigeonry.protocol.dkim import keys
from pigeonry.protocol.dkim.canonical import relaxed_body
from pigeonry.protocol.dkim.signer import DkimSigner, sign_many

MADE = keys.generate("ed25519")
SIGNER = DkimSigner(domain="example.org", selector="s", key=keys.load_private_key(MADE.private))
RECORD = keys.record_value(algorithm="ed25519", public=MADE.public).encode()
RSA = keys.generate("rsa", bits=1024)
RSA_SIGNER = DkimSigner(domain="example.org", selector="r", key=keys.load_private_key(RSA.private))
RSA_RECORD = keys.record_value(algorithm="rsa", public=RSA.public).encode()

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


odd_names = st.sampled_from(
    ["From", "to", "To", "SUBJECT", "Message-ID", "MIME-Version", "List-Unsubscribe-Post", "X-Odd", "DKIM-Signature"]
)
odd_values = st.lists(
    st.sampled_from(["", " ", "\t", "\r\n ", "\r\n\t", "a", "é", "x" * 900, "=?utf-8?q?=C3=A9?=", "b=", ";", ":"]),
    max_size=5,
).map("".join)
odd_fields = st.lists(st.tuples(odd_names, odd_values).map(lambda f: f"{f[0]}:{f[1]}\r\n"), max_size=40)
odd_bodies = st.lists(
    st.sampled_from([b"\r\n", b"\r\n" * 5000, b" ", b"\t", b".", b"\xe9\x00", b"word", b"-- \r\n", b" " * 300]),
    max_size=8,
).map(b"".join)


def on_the_wire(octets: bytes) -> bytes:
    """As it leaves: the last line has its CRLF."""
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def record(name: bytes, timeout: int = 5) -> bytes:
    return RSA_RECORD if name.startswith(b"r.") else RECORD


@given(fields=odd_fields, where=st.integers(0, 40), body=st.none() | odd_bodies)
@settings(deadline=None)
def test_both_signatures_of_an_odd_message_verify(fields, where, body):
    """Empty values, endless lines, dozens of one field, 8-bit octets, no body, no last line end."""
    fields = [*fields[:where], "From: a@example.org\r\n", *fields[where:]]
    message = "".join(fields).encode() + (b"" if body is None else b"\r\n" + body)
    signed = sign_many([RSA_SIGNER, SIGNER], message, now=1_700_000_000.0) + message
    verifier = dkim.DKIM(on_the_wire(signed))
    assert verifier.verify(idx=0, dnsfunc=record)
    assert verifier.verify(idx=1, dnsfunc=record)


@given(
    name=st.sampled_from(["From", "Subject", "To", "Content-Type", "Date", "Reply-To"]),
    there=st.booleans(),
    first=st.booleans(),
)
def test_a_field_that_is_added_to_a_signed_message_breaks_its_signature(name, there, first):
    message = b"From: a@example.org\r\n" + (f"{name}: old\r\n".encode() if there else b"") + b"\r\nbody\r\n"
    signed = SIGNER.sign(message, now=1_700_000_000.0) + message
    added = f"{name}: new\r\n".encode()
    forged = added + signed if first else signed.replace(b"\r\n\r\n", b"\r\n" + added + b"\r\n", 1)
    assert dkim.DKIM(signed).verify(dnsfunc=record)
    assert not dkim.DKIM(forged).verify(dnsfunc=record)


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
