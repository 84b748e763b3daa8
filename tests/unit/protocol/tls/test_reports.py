"""TLS reports by RFC 8460: where they go, what they say, and what is not read."""

from __future__ import annotations

import gzip
import json

import pytest

from pigeonry.protocol.tls.reports import (
    BadReport,
    DateRange,
    Failure,
    Policy,
    PolicyResult,
    Report,
    Summary,
    encode,
    file_name,
    parse_report,
    report_addresses,
    unpacked,
)

# Appendix B of RFC 8460.
EXAMPLE = b"""{
  "organization-name": "Company-X",
  "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
  "contact-info": "sts-reporting@company-x.example",
  "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
  "policies": [{
    "policy": {
      "policy-type": "sts",
      "policy-string": ["version: STSv1","mode: testing","mx: *.mail.company-y.example","max_age: 86400"],
      "policy-domain": "company-y.example",
      "mx-host": "*.mail.company-y.example"
    },
    "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
    "failure-details": [{
      "result-type": "certificate-expired",
      "sending-mta-ip": "2001:db8:abcd:0012::1",
      "receiving-mx-hostname": "mx1.mail.company-y.example",
      "failed-session-count": 100
    }, {
      "result-type": "starttls-not-supported",
      "sending-mta-ip": "2001:db8:abcd:0013::1",
      "receiving-mx-hostname": "mx2.mail.company-y.example",
      "receiving-ip": "203.0.113.56",
      "failed-session-count": 200,
      "additional-information": "https://reports.company-x.example/report_info?id=5065427c-23d3#StarttlsNotSupported"
    }]
  }]
}"""

REPORT = Report(
    "Pigeons",
    DateRange("2026-11-27T00:00:00Z", "2026-11-27T23:59:59Z"),
    "postmaster@send.test",
    "2026-11-27:to.test",
    (
        PolicyResult(
            Policy("tlsa", "to.test", ("3 1 1 ab",)),
            Summary(1, 2),
            (Failure("validation-failure", 2, receiving_mx_hostname="mx.to.test"),),
        ),
    ),
)


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (["v=TLSRPTv1;rua=mailto:reports@example.com"], ("mailto:reports@example.com",)),
        (["v=TLSRPTv1; rua=https://a.test/v1, mailto:b@a.test;"], ("https://a.test/v1", "mailto:b@a.test")),
        (["v=TLSRPTv1; rua=http://a.test"], ()),
        (["v=TLSRPTv1; rua=mailto:a@b.test\r\nX: y"], ()),
        (["v=TLSRPTv1"], ()),
        (["v=TLSRPTv10; rua=mailto:a@b.test"], ()),
        (["v=TLSRPTv1; rua=mailto:a@b.test"] * 2, ()),
        (
            ["v=TLSRPTv1; rua=" + ",".join(f"mailto:{n}@a.test" for n in range(9))],
            tuple(f"mailto:{n}@a.test" for n in range(4)),
        ),
        ([], ()),
    ],
)
def test_where_reports_are_wanted(records, found):
    assert report_addresses(records) == found


def test_the_report_of_the_standard_is_read():
    found = parse_report(EXAMPLE).policies[0]
    assert found.policy.mx_host == "*.mail.company-y.example"
    assert found.summary == Summary(5326, 303)
    assert [(each.result_type, each.failed_session_count) for each in found.failure_details] == [
        ("certificate-expired", 100),
        ("starttls-not-supported", 200),
    ]


def test_what_is_written_is_read_again_compressed_or_not():
    octets = encode(REPORT)
    assert parse_report(octets) == parse_report(gzip.compress(octets)) == REPORT
    assert json.loads(octets)["policies"][0]["summary"] == {
        "total-successful-session-count": 1,
        "total-failure-session-count": 2,
    }


def test_file_is_named_as_the_standard_wants():
    assert (
        file_name(REPORT, sender="send.test", domain="to.test", begin=1, end=2)
        == "send.test!to.test!1!2!20261127totest.json.gz"
    )


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"null",
        b"{}",
        b"[" * 100_000,
        EXAMPLE.replace(b"5326", b'"many"'),
        gzip.compress(EXAMPLE)[:-9],
        b"\x1f\x8b" + bytes(40),
        gzip.compress(bytes(11 * 1024 * 1024)),
        bytes(11 * 1024 * 1024),
        EXAMPLE.replace(b'"policies": [{', b'"policies": [' + b"{}," * 3 + b"{"),
    ],
)
def test_what_is_no_report_or_too_large_a_one_is_said_to_be(octets):
    with pytest.raises(BadReport):
        parse_report(octets)


def test_what_unpacks_to_the_bound_is_unpacked_and_one_octet_more_is_not():
    assert len(unpacked(gzip.compress(bytes(1000)), octets_max=1000)) == 1000
    with pytest.raises(BadReport):
        unpacked(gzip.compress(bytes(1001)), octets_max=1000)


def test_number_of_policies_and_failures_is_bounded():
    one = json.loads(EXAMPLE)
    many = {**one, "policies": one["policies"] * 1001}
    with pytest.raises(BadReport):
        parse_report(json.dumps(many).encode())
    one["policies"][0]["failure-details"] = [{"result-type": "x", "failed-session-count": 1}] * 10_001
    with pytest.raises(BadReport):
        parse_report(json.dumps(one).encode())
