"""The trace line of a message, and the date and Message-ID of one that came without.

Standards: RFC 5321 section 4.4 (Received), RFC 3848 and RFC 6531 section 3.7.3 (``with`` keywords).
Trust: of what stands in a trace line, the client chose only the name it gave with EHLO; any but a plain name is left
out.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock, IdSource

__all__ = ["Trace"]

_NAME: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")
_PROTOCOLS: Final = {
    (extended, secure, authenticated): ("SMTP" if not extended else "ESMTP" + "S" * secure + "A" * authenticated)
    for extended in (False, True)
    for secure in (False, True)
    for authenticated in (False, True)
}


class Trace:
    """Writes trace lines.

    Args:
        hostname: Who we are.
        clock: Wall time.
        ids: Gives what makes our ids differ from those of other workers and other runs.
    """

    def __init__(self, *, hostname: str, clock: Clock, ids: IdSource) -> None:
        self._hostname = hostname
        self._clock = clock
        self._run = ids.octets(6).hex()
        self._count = 0
        self._second = -1
        self._date = ""

    def origin(self, *, hello: str, address: str, extended: bool, secure: bool, authenticated: bool) -> str:
        """The part of the line that stays the same in a session."""
        name = hello if _NAME.fullmatch(hello) else "unknown"
        literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        protocol = _PROTOCOLS[extended, secure, authenticated]
        return f"Received: from {name} ({literal})\r\n by {self._hostname} with {protocol} id "

    def line(self, origin: str) -> bytes:
        """One message's line, complete with CRLF."""
        self._count += 1
        return f"{origin}{self._run}{self._count:x};\r\n {self.date()}\r\n".encode("ascii")

    def date(self) -> str:
        """The time as a header shows it."""
        second = int(self._clock.now())
        if second != self._second:
            self._second, self._date = second, formatdate(second)[:-5] + "+0000"  # UTC known, not guessed
        return self._date
