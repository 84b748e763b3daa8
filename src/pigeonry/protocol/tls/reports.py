"""TLS reports: the record that asks for them, the report written and read, and what it is sent as.

A report that is received may be a gzip bomb or nested without end: what it unpacks to is bounded before it is parsed.

Standards: RFC 8460 sections 3 (record), 4.3 (result types), 4.4 (the JSON), 5.1 (file name), 5.3 (mail).
Trust: records and received reports are anyone's; they come to values, or to ``BadReport``.
"""

from __future__ import annotations

import zlib
from typing import Final, Literal

import msgspec

__all__ = [
    "REPORT_OCTETS_MAX",
    "BadReport",
    "DateRange",
    "Failure",
    "Policy",
    "PolicyResult",
    "Report",
    "Result",
    "Summary",
    "encode",
    "file_name",
    "parse_report",
    "report_addresses",
    "unpacked",
]

REPORT_OCTETS_MAX: Final = 10 * 1024 * 1024  # of a received report, unpacked; large providers send some 100 KB
ADDRESSES_MAX: Final = 4  # places that a domain's reports are sent to; published records have one or two
POLICIES_MAX: Final = 1_000  # policies of a received report
FAILURES_MAX: Final = 10_000  # failure details of each of them

Result = Literal[
    "starttls-not-supported",
    "certificate-host-mismatch",
    "certificate-expired",
    "certificate-not-trusted",
    "validation-failure",
    "tlsa-invalid",
    "dnssec-invalid",
    "dane-required",
    "sts-policy-fetch-error",
    "sts-policy-invalid",
    "sts-webpki-invalid",
]
"""Why a session failed (section 4.3)."""


class BadReport(ValueError):
    """It is no report, or too large a one."""


class _Dashed(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    pass


class DateRange(_Dashed, frozen=True, omit_defaults=False):
    """Of a report: as ISO 8601 has times, UTC, both ends in it."""

    start_datetime: str
    end_datetime: str


class Policy(_Dashed, frozen=True, omit_defaults=False):
    """The policy that sessions were held to.

    Args:
        policy_type: ``tlsa``, ``sts``, or ``no-policy-found``.
        policy_string: Its lines, or its TLSA records.
        mx_host: The patterns of a policy of MTA-STS.
    """

    policy_type: str
    policy_domain: str
    policy_string: tuple[str, ...] = ()
    mx_host: tuple[str, ...] | str = ()


class Summary(_Dashed, frozen=True, omit_defaults=False):
    """How many sessions there were."""

    total_successful_session_count: int
    total_failure_session_count: int


class Failure(_Dashed, frozen=True):
    """Sessions that failed in the same way."""

    result_type: str
    failed_session_count: int
    sending_mta_ip: str = ""
    receiving_ip: str = ""
    receiving_mx_hostname: str = ""
    receiving_mx_helo: str = ""
    additional_information: str = ""
    failure_reason_code: str = ""


class PolicyResult(_Dashed, frozen=True, omit_defaults=False):
    """What became of the sessions that one policy was for."""

    policy: Policy
    summary: Summary
    failure_details: tuple[Failure, ...] = ()


class Report(_Dashed, frozen=True, omit_defaults=False):
    """One sender's sessions with one domain, of one day."""

    organization_name: str
    date_range: DateRange
    contact_info: str
    report_id: str
    policies: tuple[PolicyResult, ...]


_DECODER: Final = msgspec.json.Decoder(Report)


def report_addresses(records: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Where the TXT records of ``_smtp._tls.DOMAIN`` want reports: ``mailto:`` and ``https:`` URIs.

    Several records that look like one are none (section 3).
    """
    found = [record for record in records if _asks(record)]
    if len(found) != 1:
        return ()
    for field in found[0].split(";")[1:]:
        key, equals, value = field.strip(" \t").partition("=")
        if equals and key.strip(" \t") == "rua":
            uris = [uri.strip(" \t") for uri in value.split(",")]
            return tuple([uri for uri in uris if _is_place(uri)][:ADDRESSES_MAX])
    return ()


def _asks(record: str) -> bool:
    return record.startswith("v=TLSRPTv1") and record[10:].lstrip(" \t")[:1] in ("", ";")


def _is_place(uri: str) -> bool:
    return uri.startswith(("mailto:", "https://")) and uri.isascii() and uri.isprintable()


def encode(report: Report) -> bytes:
    """The report as it is sent, before it is compressed."""
    return msgspec.json.encode(report)


def file_name(report: Report, *, sender: str, domain: str, begin: int, end: int) -> str:
    """What its file is called (section 5.1); times in seconds since the Unix epoch."""
    unique = "".join(character for character in report.report_id if character.isalnum())[:40]
    return f"{sender}!{domain}!{begin}!{end}!{unique}.json.gz"


def unpacked(octets: bytes, *, octets_max: int = REPORT_OCTETS_MAX) -> bytes:
    """What gzip holds, or the octets themselves if they are none.

    Raises:
        BadReport: It is spoilt, or unpacks to more than may be.
    """
    if octets[:2] != b"\x1f\x8b":
        if len(octets) > octets_max:
            raise BadReport("The report is too large.")
        return octets
    inflating = zlib.decompressobj(wbits=31)
    try:
        found = inflating.decompress(octets, octets_max + 1)
    except zlib.error:
        raise BadReport("The report's compression is spoilt.") from None
    if len(found) > octets_max:
        raise BadReport("The report is too large.")
    if not inflating.eof:
        raise BadReport("The report ends before its compression does.")
    return found


def parse_report(octets: bytes) -> Report:
    """Read a report, compressed or not.

    Raises:
        BadReport: It is none.
    """
    try:
        report = _DECODER.decode(unpacked(octets))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadReport("The report is not what RFC 8460 describes.") from None
    if len(report.policies) > POLICIES_MAX or any(len(each.failure_details) > FAILURES_MAX for each in report.policies):
        raise BadReport("The report has too many parts.")
    return report
