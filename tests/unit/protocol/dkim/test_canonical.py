"""RFC 6376 section 3.4: relaxed canonical forms, its own examples first."""

from __future__ import annotations

import pytest

from pigeonry.protocol.dkim.canonical import body_start, relaxed_body, relaxed_fields


def relaxed(octets: bytes, start: int = 0) -> bytes:
    return bytes(relaxed_body(octets, start))


def test_rfc6376_3_4_5_example_of_a_relaxed_header():
    message = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n"
    names, fields = relaxed_fields(message[: body_start(message)], {b"a": b"a", b"b": b"b"})
    assert (names, fields) == ([b"b", b"a"], [b"b:Y Z\r\n", b"a:X\r\n"])


def test_rfc6376_3_4_5_example_of_a_relaxed_body():
    message = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n"
    assert relaxed(message, body_start(message)) == b" C\r\nD E\r\n"


@pytest.mark.parametrize(
    ("body", "canonical"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"\r\n\r\n\r\n", b""),
        (b" \t \r\n\t\r\n", b""),
        (b"   ", b""),
        (b"text", b"text\r\n"),
        (b"text\r\n", b"text\r\n"),
        (b"text  ", b"text\r\n"),
        (b"text \r\n \r\n\t", b"text\r\n"),
        (b"text\r\n\r\n\r\nmore\r\n\r\n", b"text\r\n\r\n\r\nmore\r\n"),
        (b"  indented\r\n", b" indented\r\n"),
        (b"a\tb\t\tc \t d\r\n", b"a b c d\r\n"),
        (b"a" + b" " * 5000 + b"b\r\n", b"a b\r\n"),
        (b"bare\rCR\nLF\r\n\n\r\n", b"bare\rCR\nLF\r\n\n\r\n"),
        (b"ends in CR\r", b"ends in CR\r\r\n"),
        (b"text\r\n" + b"\r\n" * 10_000, b"text\r\n"),
        (b"\x0b \x0c\x00\xff\r\n", b"\x0b \x0c\x00\xff\r\n"),
    ],
)
def test_relaxed_body(body: bytes, canonical: bytes):
    assert relaxed(body) == canonical
    assert relaxed(b"From: a\r\n\r\n" + body, 11) == canonical


def test_body_that_is_canonical_already_is_not_copied():
    octets = b"From: a\r\n\r\nline one\r\nline two\r\n\r\n"
    body = relaxed_body(octets, 11)
    assert isinstance(body, memoryview)
    assert body.obj is octets


@pytest.mark.parametrize(
    ("message", "start"),
    [(b"A: b\r\n\r\nbody", 8), (b"A: b\r\n", 6), (b"\r\nbody", 2), (b"", 0), (b"A: b\r\n\r\n", 8)],
)
def test_body_begins_behind_the_first_empty_line(message: bytes, start: int):
    assert body_start(message) == start


def test_fields_come_from_the_last_to_the_first_in_any_spelling():
    header = b"FROM: one\r\nX-Other: no\r\nfrom : two\r\nSubject:\r\nfrom no colon\r\nTo:a\r\n\t b\r\n\r\n"
    wanted = {b"from": b"from", b"to": b"to", b"subject": b"subject"}
    names, fields = relaxed_fields(header, wanted)
    assert names == [b"to", b"subject", b"from", b"from"]
    assert fields == [b"to:a b\r\n", b"subject:\r\n", b"from:two\r\n", b"from:one\r\n"]


def test_line_with_a_name_but_no_colon_is_no_field():
    assert relaxed_fields(b"From\r\n", {b"from": b"from", b"From": b"from"}) == ([], [])
