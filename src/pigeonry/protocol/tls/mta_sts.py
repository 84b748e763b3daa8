"""MTA-STS: the TXT record that says there is a policy, the policy, and which hosts it allows.

Standards: RFC 8461 sections 3.1 (record), 3.2 (policy), 4.1 (MX matching).
Trust: both texts are the receiver's and may be anything; what they come to is a policy, no policy, or ``BadPolicy``.
Octets, lines and patterns are bounded.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

__all__ = ["POLICY_OCTETS_MAX", "BadPolicy", "StsPolicy", "allows", "parse_policy", "policy_id"]

POLICY_OCTETS_MAX: Final = 65_536  # RFC 8461 section 3.3 suggests 64 KB
LINES_MAX: Final = 1_000  # of a policy; large providers have ten
PATTERNS_MAX: Final = 100  # mx lines of a policy
MAX_AGE_S_MAX: Final = 31_557_600  # seconds: RFC 8461 section 3.2, about a year

_ID: Final = re.compile(r"[A-Za-z0-9]{1,32}")
_FIELD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_PATTERN: Final = re.compile(
    r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_MODES: Final = ("enforce", "testing", "none")


class BadPolicy(ValueError):
    """It is no policy, or says what cannot be."""


class StsPolicy(msgspec.Struct, frozen=True):
    """A policy.

    Args:
        mode: ``enforce``: a host that does not fit gets no mail. ``testing``: it does, and that is reported. ``none``:
            there is no policy any more.
        mx: Names of hosts, or ``*.`` and the name that follows one label; in lower case.
        max_age_s: Seconds for which it holds from when it was fetched.
    """

    mode: Literal["enforce", "testing", "none"]
    max_age_s: int
    mx: tuple[str, ...] = ()


def policy_id(records: tuple[str, ...] | list[str]) -> str:
    """The id that the TXT records of ``_mta-sts.DOMAIN`` give; empty when they give none.

    Several records that look like one are none (section 3.1).
    """
    found = [record for record in records if record.startswith("v=STSv1") and record[7:].lstrip(" \t")[:1] in ("", ";")]
    if len(found) != 1:
        return ""
    for field in found[0].split(";")[1:]:
        key, equals, value = field.strip(" \t").partition("=")
        if equals and key == "id":
            return value if _ID.fullmatch(value) else ""
    return ""


def parse_policy(octets: bytes) -> StsPolicy:
    """Read a policy.

    Raises:
        BadPolicy: It is none.
    """
    if len(octets) > POLICY_OCTETS_MAX:
        raise BadPolicy("The policy is too large.")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise BadPolicy("The policy is no UTF-8.") from None
    fields, mx = _fields(text)
    if fields.get("version") != "STSv1":
        raise BadPolicy("The policy's version is not STSv1.")
    mode, age = fields.get("mode", ""), fields.get("max_age", "")
    if mode not in _MODES:
        raise BadPolicy("The policy's mode is none that there is.")
    if not (age.isascii() and age.isdecimal() and len(age) <= 10):
        raise BadPolicy("The policy's max_age is no number of seconds.")
    if not mx and mode != "none":
        raise BadPolicy("The policy names no host.")
    return StsPolicy(mode, min(int(age), MAX_AGE_S_MAX), mx)  # type: ignore[arg-type]  # one of the modes


def allows(policy: StsPolicy, host: str) -> bool:
    """Whether a host, an MX record's in lower case, is one that the policy names (section 4.1)."""
    parent = host.partition(".")[2]
    return any(
        bool(parent) and pattern[2:] == parent if pattern.startswith("*.") else pattern == host for pattern in policy.mx
    )


def _fields(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The first value of each field but ``mx``, and all of that one. Fields that are not known are left out."""
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > LINES_MAX:
        raise BadPolicy("The policy has too many lines.")
    fields: dict[str, str] = {}
    mx: list[str] = []
    for line in lines:
        if not line.strip(" \t"):
            continue
        name, colon, value = line.partition(":")
        if not colon or not _FIELD.fullmatch(name.strip(" \t")):
            raise BadPolicy("A line of the policy is no field.")
        name, value = name.strip(" \t"), value.strip(" \t")
        if name == "mx":
            pattern = value.lower().removesuffix(".")
            if len(pattern) > 255 or not _PATTERN.fullmatch(pattern):
                raise BadPolicy("An mx of the policy is no name of hosts.")
            mx.append(pattern)
        else:
            fields.setdefault(name, value)
    if len(mx) > PATTERNS_MAX:
        raise BadPolicy("The policy names too many hosts.")
    return fields, tuple(mx)
