"""What each message gets of its own when it is accepted: its time, Message-ID, boundary and trace line.

All of it is fixed here once (invariant I9); later attempts and other recipients see the same.

Standards: RFC 5322 sections 3.3 (dates), 3.6.4 (Message-ID); RFC 5321 section 4.4 (Received).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock, IdSource

__all__ = ["Identity", "IdentitySource"]

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_OCTETS: Final = 32  # Message-ID 8, boundary 12, trace id 12


class Identity(msgspec.Struct, frozen=True, gc=False):
    """One message's own.

    Args:
        now: Seconds since the Unix epoch.
        message_id: Without angle brackets.
        date: The time as a header shows it.
        boundary: For its multiparts; holds ``=_``, which neither base64 nor quoted-printable can make.
        received: Its ``Received`` header, complete with CRLF.
    """

    now: float
    message_id: str
    date: bytes
    boundary: bytes
    received: bytes


class IdentitySource:
    """Makes identities.

    Args:
        hostname: Who we are in trace lines.
        clock: Wall time.
        ids: Random octets.
    """

    def __init__(self, *, hostname: str, clock: Clock, ids: IdSource) -> None:
        self._by = b"Received: by %b with HTTP id " % hostname.encode("ascii")
        self._clock = clock
        self._ids = ids
        self._second = -1
        self._date = b""
        self._at = b""
        self._compact = ""

    def make(self, domain: str) -> Identity:
        """A fresh identity for a message from that domain."""
        now = self._clock.now()
        if int(now) != self._second:
            self._turn(int(now))
        chance = self._ids.octets(_OCTETS).hex()
        octets = chance.encode("ascii")
        return Identity(
            now,
            f"{self._compact}.{chance[:16]}@{domain}",
            self._date,
            b"=_" + octets[16:40],
            b"".join((self._by, octets[40:], self._at)),
        )

    def _turn(self, second: int) -> None:
        """Format the time: it is the same for every message of a second."""
        at = datetime.fromtimestamp(second, UTC)
        day, month = _DAYS[at.weekday()], _MONTHS[at.month - 1]
        self._date = f"{day}, {at.day:02d} {month} {at.year} {at:%H:%M:%S} +0000".encode("ascii")
        self._at = b";\r\n %b\r\n" % self._date
        self._compact = f"{at:%Y%m%d%H%M%S}"
        self._second = second
