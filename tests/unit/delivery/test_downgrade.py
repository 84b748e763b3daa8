"""8-bit content for servers that take seven: the same message for whoever reads it."""

from __future__ import annotations

import email
import email.policy

import pytest

from pigeonry.delivery.downgrade import NotConvertible, seven_bit


def text_of(octets: bytes) -> list[str]:
    message = email.message_from_bytes(octets, policy=email.policy.default)
    return [
        part.get_content().replace("\r\n", "\n") for part in message.walk() if part.get_content_maintype() == "text"
    ]


PLAIN = b"Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
MIXED = (
    'Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary="b b"\r\n\r\npreamble\r\n'
    "--b b\r\nContent-Type: multipart/alternative; boundary=in\r\n\r\n"
    "--in\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ncafé\r\n.\r\n"
    "--in\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<p>café = ü</p>\r\n--in--\r\n"
    "--b b\r\nContent-Type: text/plain\r\n\r\nplain\r\n"
    "--b b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
).encode() + b"\x00\xff\xfe" * 50 + b"\r\n--b b--\r\nepilogue\r\n"  # fmt: skip


def test_message_in_seven_bits_stays_the_same_object():
    octets = b"Subject: x\r\n\r\nhello\r\n"
    assert seven_bit(octets) is octets


@pytest.mark.parametrize(
    "text", ["café\n", "a\n.\n é\n", "é" * 200 + "\n", "trailing \té \t\nend", "=3D é\n", "From é\n"]
)
def test_text_reads_the_same(text):
    octets = PLAIN + text.replace("\n", "\r\n").encode()
    converted = seven_bit(octets)
    assert converted.isascii()
    assert b"quoted-printable" in converted
    assert max(len(line) for line in converted.split(b"\r\n")) <= 78
    assert text_of(converted)[0].removesuffix("\n") == text.removesuffix("\n")


def test_parts_are_converted_each_for_itself():
    converted = seven_bit(MIXED)
    assert converted.isascii()
    assert text_of(converted) == text_of(MIXED)
    parts = [part for part in email.message_from_bytes(converted).walk() if not part.is_multipart()]
    assert [part["Content-Transfer-Encoding"] for part in parts] == ["quoted-printable"] * 2 + [None, "base64"]
    assert parts[3].get_payload(decode=True) == b"\x00\xff\xfe" * 50
    assert converted.count(b"preamble") == converted.count(b"epilogue") == 1


@pytest.mark.parametrize(
    "octets",
    [
        "DKIM-Signature: v=1\r\n\r\né\r\n".encode(),
        "Subject: é\r\n\r\nx\r\n".encode(),
        "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\né\r\n--b--\r\n".encode(),
        "Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\né\r\n".encode(),
        "Content-Type: multipart/mixed\r\n\r\né\r\n".encode(),
        "Content-Type: multipart/mixed; boundary=b\r\n\r\né\r\n--b\r\n\r\nx\r\n--b--\r\n".encode(),
        "Content-Transfer-Encoding: base64\r\n\r\né\r\n".encode(),
        b"Subject: \xff",
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(20))
        + b"\r\n\xff",
    ],
)
def test_what_would_break_is_not_converted(octets):
    with pytest.raises(NotConvertible):
        seven_bit(octets)
