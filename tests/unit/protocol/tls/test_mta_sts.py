"""MTA-STS by RFC 8461: records, policies, hosts."""

from __future__ import annotations

import pytest

from pigeonry.protocol.tls.mta_sts import POLICY_OCTETS_MAX, BadPolicy, StsPolicy, allows, parse_policy, policy_id

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["v=STSv1;id=a"], "a"),
        (["v=STSv1 ; x=y ; id=a ;"], "a"),
        (["v=spf1 -all", "v=STSv1; id=a"], "a"),
        (["v=STSv1; id=a", "v=STSv1; id=b"], ""),
        (["v=STSv1"], ""),
        (["v=STSv1; id="], ""),
        (["v=STSv1; id=a-b"], ""),
        (["v=STSv1; id=" + "a" * 33], ""),
        (["v=STSv10; id=a"], ""),
        (["V=STSv1; id=a"], ""),
        ([" v=STSv1; id=a"], ""),
        ([], ""),
    ],
)
def test_id_of_a_record(records, found):
    assert policy_id(records) == found


def test_policy_of_the_standard_is_read():
    assert parse_policy(POLICY) == StsPolicy("enforce", 604_800, ("mail.example.com", "*.example.net"))


def test_lines_may_end_with_lf_and_fields_that_are_not_known_are_left_out():
    octets = b"version: STSv1\nmode: testing\nmx: A.Example.COM.\nnew-field: x: y\n\nmax_age: 99999999999"[:-1]
    assert parse_policy(octets) == StsPolicy("testing", 31_557_600, ("a.example.com",))


def test_no_policy_needs_no_host():
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 0") == StsPolicy("none", 0)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"<html>",
        POLICY.replace(b"STSv1", b"STSv2"),
        POLICY.replace(b"enforce", b"Enforce"),
        POLICY.replace(b"mode: enforce\r\n", b""),
        POLICY.replace(b"max_age: 604800", b"max_age: -1"),
        POLICY.replace(b"max_age: 604800", b"max_age: 12345678901"),
        POLICY.replace(b"max_age: 604800", "max_age: ٣".encode()),
        POLICY.replace(b"max_age: 604800\r\n", b""),
        b"version: STSv1\nmode: enforce\nmax_age: 1",
        POLICY.replace(b"mail.example.com", b"*"),
        POLICY.replace(b"mail.example.com", b"*.*.example.com"),
        POLICY.replace(b"mail.example.com", b"mail.*.com"),
        POLICY.replace(b"mail.example.com", b"mail..com"),
        POLICY.replace(b"mail.example.com", b"a" * 64 + b".com"),
        POLICY.replace(b"mail.example.com", b"[192.0.2.1]"),
        POLICY + b"no field\r\n",
        POLICY + b"\xff: x\r\n",
        POLICY + b"x: " + b"y" * POLICY_OCTETS_MAX,
        POLICY + b"\r\n" * 1000,
        POLICY + b"mx: a.test\n" * 99,
    ],
)
def test_what_is_no_policy_is_said_to_be_none(octets):
    with pytest.raises(BadPolicy):
        parse_policy(octets)


def test_policy_of_the_largest_size_is_read():
    filler = b"x: " + b"y" * (POLICY_OCTETS_MAX - len(POLICY) - 3)
    assert len(parse_policy(POLICY + filler).mx) == 2
    assert len(parse_policy(POLICY + b"mx: a.test\n" * 98).mx) == 100


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mail.example.com", True),
        ("a.mail.example.com", False),
        ("example.net", False),
        ("mx.example.net", True),
        ("a.mx.example.net", False),
        ("mx.example.net.evil.test", False),
        ("", False),
        ("net", False),
    ],
)
def test_a_pattern_stands_for_one_host_or_one_label(host, allowed):
    assert allows(parse_policy(POLICY), host) is allowed
