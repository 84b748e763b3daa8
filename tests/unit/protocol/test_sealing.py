"""Sealed values: only the right key opens them, and only where they belong."""

from __future__ import annotations

import pytest

from pigeonry.protocol.sealing import NONCE_OCTETS, DamagedSeal, Seal, WrongSealKey

SEAL = Seal(bytes(32))
NONCE = bytes(range(NONCE_OCTETS))


def test_what_was_sealed_is_opened_again():
    sealed = SEAL.close(b"secret", context="dkim a", nonce=NONCE)
    assert b"secret" not in sealed
    assert SEAL.open(sealed, context="dkim a") == b"secret"


def test_another_key_is_told_apart_from_damage_and_both_keys_are_named():
    other = Seal(b"\x01" * 32)
    with pytest.raises(WrongSealKey) as caught:
        other.open(SEAL.close(b"secret", context="a", nonce=NONCE), context="a")
    assert SEAL.key_id in caught.value.text
    assert other.key_id in caught.value.text


def test_value_that_was_moved_to_another_place_does_not_open():
    with pytest.raises(DamagedSeal):
        SEAL.open(SEAL.close(b"secret", context="dkim a.example", nonce=NONCE), context="dkim b.example")


@pytest.mark.parametrize("index", [5, 16, 17, -1])
def test_value_that_was_changed_does_not_open(index: int):
    sealed = bytearray(SEAL.close(b"secret", context="a", nonce=NONCE))
    sealed[index] ^= 1
    with pytest.raises(DamagedSeal):
        SEAL.open(bytes(sealed), context="a")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x02" + bytes(60)])
def test_octets_of_another_form_do_not_open(sealed: bytes):
    with pytest.raises(DamagedSeal):
        SEAL.open(sealed, context="a")


def test_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="31"):
        Seal(bytes(31))
