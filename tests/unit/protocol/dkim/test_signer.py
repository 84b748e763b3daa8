"""Signatures as another implementation, dkimpy, sees them."""

from __future__ import annotations

import re

import dkim
import pytest

from pigeonry.protocol.dkim import keys
from pigeonry.protocol.dkim.signer import DkimSigner, sign_many

NOW = 1_700_000_000.5
MESSAGE = (
    b"Received: from a by b\r\nFrom: Al <al@example.org>\r\nTo: bo@example.com\r\nSubject: A  subject\r\n"
    b" that is\tfolded\r\nDate: Tue, 24 Nov 2026 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\nX-Unsigned: yes\r\n\r\nHello  there \r\n\r\nbye\r\n\r\n"
)
NEW = {"rsa": keys.generate("rsa", bits=1024), "ed25519": keys.generate("ed25519")}


def signer(algorithm: str, **options) -> DkimSigner:
    private = keys.load_private_key(NEW[algorithm].private)
    return DkimSigner(domain="example.org", selector=f"{algorithm}-1", key=private, **options)


def look_up(name: bytes, timeout: int = 5) -> bytes:
    algorithm = name.partition(b"-")[0].decode()
    assert name == f"{algorithm}-1._domainkey.example.org.".encode()
    return keys.record_value(algorithm=algorithm, public=NEW[algorithm].public).encode()


def verifies(octets: bytes, index: int = 0) -> bool:
    try:
        return dkim.DKIM(octets).verify(idx=index, dnsfunc=look_up)
    except dkim.DKIMException:
        return False


@pytest.fixture(params=["rsa", "ed25519"])
def algorithm(request) -> str:
    return request.param


def test_signature_verifies_elsewhere(algorithm: str):
    assert verifies(signer(algorithm).sign(MESSAGE, now=NOW) + MESSAGE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Hello  there", b"Hello there!"),
        (b"al@example.org>", b"eve@example.org>"),
        (b"Subject: A", b"Subject: B"),
        (b"\r\n\r\nHello", b"\r\nFrom: eve@example.net\r\n\r\nHello"),
        (b"Received:", b"From: eve@example.net\r\nReceived:"),
        (b"Received:", b"Subject: Pay\r\nReceived:"),
        (b"Received:", b"Cc: all@example.net\r\nReceived:"),
        (b"Received:", b"Reply-To: eve@example.net\r\nReceived:"),
        (b"Received:", b"Content-Type: text/html\r\nReceived:"),
    ],
)
def test_what_was_changed_or_added_does_not_verify(algorithm: str, old: bytes, new: bytes):
    assert not verifies(signer(algorithm).sign(MESSAGE, now=NOW) + MESSAGE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"X-Unsigned: yes", b"X-Unsigned: no"),
        (b"Received:", b"Received: from c by d\r\nReceived:"),
        (b"A  subject\r\n that is\tfolded", b"A subject that is folded"),
        (b"Hello  there \r\n", b"Hello there\r\n"),
        (b"bye\r\n\r\n", b"bye\r\n"),
    ],
)
def test_what_happens_to_mail_on_its_way_does_no_harm(algorithm: str, old: bytes, new: bytes):
    assert verifies(signer(algorithm).sign(MESSAGE, now=NOW) + MESSAGE.replace(old, new, 1))


def test_two_signers_of_one_message_both_verify():
    fields = sign_many([signer("rsa"), signer("ed25519")], MESSAGE, now=NOW)
    assert fields == signer("rsa").sign(MESSAGE, now=NOW) + signer("ed25519").sign(MESSAGE, now=NOW)
    assert verifies(fields + MESSAGE, 0)
    assert verifies(fields + MESSAGE, 1)


def test_without_signers_nothing_is_added():
    assert sign_many([], MESSAGE, now=NOW) == b""


def test_field_is_folded_into_lines_that_fit():
    field = signer("rsa").sign(MESSAGE, now=NOW)
    lines = field.split(b"\r\n")
    assert lines.pop() == b""
    assert max(map(len, lines)) <= 78
    assert all(line.startswith(b"\t") for line in lines[1:])
    assert b"\r" not in field.replace(b"\r\n", b"")


def test_time_and_expiry_are_whole_seconds():
    field = signer("ed25519", valid_s=3600.0).sign(MESSAGE, now=NOW)
    assert b"t=1700000000; x=1700003600;" in field
    assert b"x=" not in re.sub(rb"b=.*", b"", signer("ed25519").sign(MESSAGE, now=NOW), flags=re.DOTALL)


def test_expired_signature_is_refused_elsewhere_and_a_valid_one_not():
    assert not verifies(signer("ed25519", valid_s=3600.0).sign(MESSAGE, now=NOW) + MESSAGE)
    assert verifies(signer("ed25519", valid_s=3_000_000_000.0).sign(MESSAGE, now=NOW) + MESSAGE)


def test_identity_is_named_when_given():
    field = signer("ed25519", identity="news@example.org").sign(MESSAGE, now=NOW)
    assert b"i=news@example.org;" in field
    assert verifies(field + MESSAGE)


def test_fields_that_occur_several_times_are_all_signed(algorithm: str):
    message = b"To: one@example.com\r\nTo: two@example.com\r\nList-Id: x\r\n" + MESSAGE
    field = signer(algorithm).sign(message, now=NOW)
    assert verifies(field + message)
    assert not verifies(field + message.replace(b"one@", b"eve@"))
    assert not verifies(field + b"To: three@example.com\r\n" + message)


def test_hundreds_of_fields_of_one_name_make_no_long_signature(algorithm: str):
    message = b"".join(b"Cc: r%d@example.com\r\n" % n for n in range(500)) + MESSAGE
    field = signer(algorithm).sign(message, now=NOW)
    assert len(field) < 2_000
    assert verifies(field + message)


@pytest.mark.parametrize("message", [b"From: a@example.org\r\n\r\n", b"From: a@example.org\r\n\r\n\r\n"])
def test_message_without_a_body_verifies(algorithm: str, message: bytes):
    assert verifies(signer(algorithm).sign(message, now=NOW) + message)


def test_message_with_utf8_in_its_header_verifies(algorithm: str):
    message = "From: Älva <älva@example.org>\r\nSubject: ｶﾀｶﾅ\r\n\r\nHej\r\n".encode()
    assert verifies(signer(algorithm).sign(message, now=NOW) + message)


def test_signer_does_not_show_its_key():
    assert repr(signer("rsa")) == "DkimSigner(rsa-1._domainkey.example.org, rsa)"
