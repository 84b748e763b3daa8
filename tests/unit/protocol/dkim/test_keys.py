"""DKIM keys: made, written, read back, published."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pigeonry.protocol.dkim import keys


def test_rsa_key_has_2048_bits_unless_said_otherwise():
    assert keys.load_private_key(keys.generate().private).key_size == 2048
    assert keys.load_private_key(keys.generate(bits=1024).private).key_size == 1024


def test_rsa_key_under_1024_bits_is_refused():
    with pytest.raises(keys.BadDkimKey, match="1024"):
        keys.generate(bits=512)


@pytest.mark.parametrize("algorithm", ["rsa", "ed25519"])
def test_key_read_back_has_the_same_public_half(algorithm):
    made = keys.generate(algorithm)
    assert keys.public_text(keys.load_private_key(made.private)) == made.public


def test_public_half_of_ed25519_is_the_bare_key():
    assert len(base64.b64decode(keys.generate("ed25519").public)) == 32


def test_octets_that_are_no_key_are_refused():
    with pytest.raises(keys.BadDkimKey):
        keys.load_private_key(b"\x30\x03nope")


def test_key_of_another_kind_is_refused():
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(keys.BadDkimKey, match="RSA or Ed25519"):
        keys.load_private_key(other.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def test_record_stands_below_domainkey_and_says_the_algorithm():
    assert keys.record_name(selector="p1", domain="example.org") == "p1._domainkey.example.org"
    assert keys.record_value(algorithm="rsa", public="AAAA") == "v=DKIM1; k=rsa; p=AAAA"
