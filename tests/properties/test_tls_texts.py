"""Properties of what domains publish about TLS: anything at all is read, or refused, and what is printed is read again."""

from __future__ import annotations

import gzip

from hypothesis import given
from hypothesis import strategies as st

from pigeonry.protocol.tls.dane import BadTlsa, Tlsa, parse_tlsa, usable
from pigeonry.protocol.tls.mta_sts import BadPolicy, StsPolicy, allows, parse_policy, policy_id
from pigeonry.protocol.tls.reports import BadReport, encode, parse_report, report_addresses

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PATTERNS = st.one_of(NAMES, NAMES.map(lambda name: f"*.{name}"))
FIELDS = st.sampled_from(
    ["version: STSv1", "mode: enforce", "mode: none", "mx: a.test", "mx: *.b.test", "max_age: 60", "x: y", "", "mx:"]
)
OCTETS = st.integers(0, 255)


@given(OCTETS, OCTETS, OCTETS, st.binary(min_size=1, max_size=80))
def test_a_tlsa_record_that_is_printed_is_read_again(usage, selector, matching, data):
    record = Tlsa(usage, selector, matching, data)
    assert parse_tlsa(record.text()) == record
    assert set(usable([record])) <= {record}


@given(st.text(max_size=60))
def test_any_text_is_a_tlsa_record_or_none(text):
    try:
        found = parse_tlsa(text)
    except BadTlsa:
        return
    assert parse_tlsa(found.text()) == found


@given(st.sampled_from(["enforce", "testing"]), st.integers(0, 31_557_600), st.lists(PATTERNS, min_size=1, max_size=5))
def test_a_policy_that_is_printed_is_read_again(mode, age, patterns):
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {pattern}" for pattern in patterns), f"max_age: {age}"]
    for end in ("\n", "\r\n"):
        assert parse_policy(end.join(lines).encode()) == StsPolicy(mode, age, tuple(patterns))


@given(st.lists(FIELDS, max_size=8), st.binary(max_size=30))
def test_any_octets_are_a_policy_or_none(fields, more):
    try:
        policy = parse_policy("\n".join(fields).encode() + more)
    except BadPolicy:
        return
    assert policy.mx or policy.mode == "none"


@given(NAMES, LABELS, LABELS)
def test_a_wildcard_stands_for_exactly_one_label(name, one, two):
    policy = StsPolicy("enforce", 60, (f"*.{name}",))
    assert allows(policy, f"{one}.{name}")
    assert not allows(policy, name)
    assert not allows(policy, f"{one}.{two}.{name}")


@given(st.lists(st.one_of(st.text(max_size=50), st.text(max_size=50).map(lambda rest: f"v=STSv1;{rest}")), max_size=3))
def test_any_records_give_an_id_or_none(records):
    found = policy_id(records)
    assert len(found) <= 32
    assert not found or found.isalnum()


@given(st.text(max_size=80))
def test_any_record_gives_places_that_are_safe_to_use(rest):
    for place in report_addresses([f"v=TLSRPTv1;rua={rest}"]):
        assert place.startswith(("mailto:", "https://"))
        assert place.isprintable()


@given(st.binary(max_size=200), st.booleans())
def test_any_octets_are_a_report_or_none(octets, packed):
    try:
        report = parse_report(gzip.compress(octets) if packed else octets)
    except BadReport:
        return
    assert parse_report(encode(report)) == report
