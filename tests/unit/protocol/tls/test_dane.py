"""TLSA records against chains (RFC 6698, 7671, 7672): what matches, and above all what does not."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from pigeonry.protocol.tls.dane import BadTlsa, Tlsa, matches, parse_tlsa, usable
from support.certificates import Certificate

NOW = dt.datetime.now(dt.UTC)
ROOT = Certificate("root", authority=True)
MIDDLE = Certificate("middle", issuer=ROOT, authority=True)
LEAF = Certificate("mx.test", issuer=MIDDLE)
OTHER = Certificate("other", authority=True)
KINDS = [(selector, matching) for selector in (0, 1) for matching in (0, 1, 2)]


def fits(
    record: Tlsa, leaf: Certificate = LEAF, *, names: tuple[str, ...] = ("mx.test",), chain: tuple[bytes, ...] = ()
) -> bool:
    return matches([record], chain or leaf.chain, names=names, now=NOW)


@pytest.mark.parametrize("kind", KINDS)
def test_the_hosts_own_certificate_is_all_that_counts_for_usage_3(kind):
    stranger = Certificate("elsewhere.test", days=(-9, -8))
    assert fits(LEAF.tlsa(3, *kind))
    assert fits(stranger.tlsa(3, *kind), stranger)  # RFC 7672 section 3.1.1: no name, no date
    assert not fits(MIDDLE.tlsa(3, *kind))
    assert not fits(OTHER.tlsa(3, *kind))


@pytest.mark.parametrize("anchor", [ROOT, MIDDLE])
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_anchor_in_the_chain_signed_matches_usage_2(anchor, kind):
    assert fits(anchor.tlsa(2, *kind))


def test_a_whole_anchor_need_not_be_sent():
    assert fits(ROOT.tlsa(2, 0, 0), chain=(LEAF.der, MIDDLE.der))
    assert not fits(ROOT.tlsa(2, 0, 1), chain=(LEAF.der, MIDDLE.der))
    assert not fits(ROOT.tlsa(2, 1, 0), chain=(LEAF.der, MIDDLE.der))


@pytest.mark.parametrize(
    ("leaf", "names"),
    [
        (Certificate("mx.test", issuer=MIDDLE), ("other.test",)),
        (Certificate("mx.test", issuer=MIDDLE, days=(-9, -8)), ("mx.test",)),
        (Certificate("mx.test", issuer=MIDDLE, days=(8, 9)), ("mx.test",)),
        (Certificate("mx.test", issuer=MIDDLE, usage=ExtendedKeyUsageOID.CLIENT_AUTH), ("mx.test",)),
        (
            Certificate("mx.test", issuer=Certificate("middle", issuer=ROOT, authority=True, days=(-9, -8))),
            ("mx.test",),
        ),
        (Certificate("mx.test", issuer=Certificate("no-authority", issuer=ROOT)), ("mx.test",)),
    ],
    ids=["name", "expired", "not yet", "client", "expired between", "signed by no authority"],
)
def test_below_an_anchor_names_and_dates_and_uses_hold(leaf, names):
    assert fits(LEAF.tlsa(2, 0, 1), LEAF) is False
    assert not fits(ROOT.tlsa(2, 0, 1), leaf, names=names)


def test_an_anchor_beside_a_chain_that_it_did_not_sign_is_no_anchor():
    assert not fits(OTHER.tlsa(2, 0, 1), chain=(*LEAF.chain, OTHER.der))
    forged = Certificate("mx.test", issuer=Certificate("middle", authority=True))
    assert not fits(MIDDLE.tlsa(2, 0, 1), chain=(forged.der, MIDDLE.der, ROOT.der))


def test_a_wildcard_stands_for_one_label():
    leaf = Certificate("any", issuer=ROOT, names=("*.test",))
    assert fits(ROOT.tlsa(2, 1, 1), leaf)
    assert not fits(ROOT.tlsa(2, 1, 1), leaf, names=("a.mx.test",))


@pytest.mark.parametrize("chain", [(), (b"",), (b"nonsense", LEAF.der)])
def test_nothing_matches_where_there_is_no_certificate(chain):
    assert not matches([LEAF.tlsa(3, 0, 1)], chain, names=("mx.test",), now=NOW)


@pytest.mark.parametrize(
    "record",
    [
        Tlsa(0, 0, 1, bytes(32)),
        Tlsa(1, 0, 1, bytes(32)),
        Tlsa(255, 0, 1, bytes(32)),
        Tlsa(3, 2, 1, bytes(32)),
        Tlsa(3, 0, 3, bytes(32)),
        Tlsa(3, 0, 1, bytes(31)),
        Tlsa(3, 0, 2, bytes(32)),
        Tlsa(3, 0, 0, b"no certificate"),
        Tlsa(2, 1, 0, b"no key"),
    ],
)
def test_what_is_not_for_smtp_or_malformed_is_unusable(record):
    assert usable([record]) == ()
    assert usable([record, LEAF.tlsa(3, 1, 1)]) == (LEAF.tlsa(3, 1, 1),)


def test_only_the_strongest_digest_of_a_kind_counts():
    weak, strong, whole, other = LEAF.tlsa(3, 1, 1), LEAF.tlsa(3, 1, 2), LEAF.tlsa(3, 1, 0), LEAF.tlsa(3, 0, 1)
    assert usable([weak, strong, whole, other]) == (strong, whole, other)


def test_number_of_records_is_bounded():
    assert len(usable([Tlsa(3, 1, 1, bytes([n]) * 32) for n in range(40)])) == 32


@pytest.mark.parametrize(
    "text", ["", "3 1 1", "3 1 x ab", "3 1 1 xy", "3 1 1 abc", "-3 1 1 ab", "3 1 256 ab", "٣ 1 1 ab"]
)
def test_what_is_no_record_is_said_to_be_none(text):
    with pytest.raises(BadTlsa):
        parse_tlsa(text)


def test_a_record_may_be_written_in_pieces():
    assert parse_tlsa("3 1 1 ab CD") == Tlsa(3, 1, 1, b"\xab\xcd")
