"""The text of a message as it comes in: dots unstuffed, its end found, its lines checked.

Only CRLF ends a line and only CRLF.CRLF ends DATA. A bare CR or LF never ends anything; a text that holds one is
received to its true end and then refused, for if it were passed on, the next server could take it for a line end
and what follows for commands (SMTP smuggling). Work is done on whole reads by ``find``, ``replace`` and
``splitlines``, never line by line.

Standards: RFC 5321 sections 2.3.8 (CR and LF only together), 4.5.2 (transparency), 4.5.3.1.6 (text line);
RFC 3030 section 2 (BDAT).
Trust: all octets come from the network. What is held in memory is at most ``HELD_OCTETS_MAX`` and one read.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

__all__ = ["HELD_OCTETS_MAX", "TEXT_LINE_OCTETS_MAX", "TextProblem", "TextReceiver", "longer_line", "only_crlf"]

HELD_OCTETS_MAX: Final = 262_144  # octets kept whole in memory; a longer text leaves in pieces, to be spooled
TEXT_LINE_OCTETS_MAX: Final = 8_192  # RFC 5321 asks for 1,000; eight times that is what careless software sends

_END: Final = b"\r\n.\r\n"


class TextProblem(Enum):
    """Why a received text cannot be taken."""

    BARE_LINE_END = auto()
    """A CR or LF stands alone."""
    LINE_TOO_LONG = auto()
    TOO_LARGE = auto()


class TextReceiver:
    """Receives one message's text, by DATA or by BDAT chunks.

    Feed it; when the end is reached take ``rest()``. While it is not, ``take()`` gives what has grown too large to
    be held. Once ``problem`` is set the text is still read to its end, and thrown away. ``length`` counts the octets
    given away, ``received`` those that came by chunks.

    Args:
        octets_max: Octets of the unstuffed text.
        line_octets_max: Octets of a line without its CRLF.
    """

    __slots__ = ("_held", "_line_octets_max", "_octets_max", "_rest", "_stuffed", "length", "problem", "received")

    def __init__(self, *, octets_max: int, line_octets_max: int = TEXT_LINE_OCTETS_MAX) -> None:
        self._octets_max = octets_max
        self._line_octets_max = line_octets_max
        self._held: bytearray | None = None  # begins at the start of a line unless there is a problem
        self._rest = b""
        self._stuffed = True
        self.length = 0
        self.received = 0
        self.problem: TextProblem | None = None

    def feed(self, octets: bytes, at: int) -> int:
        """Take stuffed text from ``octets[at:]``.

        Returns:
            Where the octets behind the final dot begin; -1 when the end is not among them.
        """
        held = self._held
        if not held:
            if octets.startswith(b".\r\n", at):
                return at + 3
            end = octets.find(b"\r\n.", at)
            if end >= 0 and octets.startswith(b"\r\n", end + 3):
                # The first line with a dot in front is the last: nothing is stuffed, and one search found both out.
                self._rest = octets[at : end + 2]
                self._stuffed = octets.startswith(b".", at)
                return end + 5
            if end >= 0 and (end := octets.find(_END, end)) >= 0:
                self._rest = octets[at : end + 2]
                return end + 5
            self._held = bytearray(memoryview(octets)[at:])
            return -1
        start = max(len(held) - 4, 0)
        held += memoryview(octets)[at:]
        if start == 0 and held.startswith(b".\r\n"):
            beyond = len(held) - 3
            held.clear()
            return len(octets) - beyond
        end = held.find(_END, start)
        if end < 0:
            return -1
        beyond = len(held) - end - 5
        self._rest = bytes(memoryview(held)[: end + 2])
        self._held = None
        return len(octets) - beyond

    def feed_chunk(self, octets: bytes | memoryview) -> None:
        """Take octets of a BDAT chunk: text as it is."""
        self._stuffed = False
        self.received += len(octets)
        if self._held is None:
            self._held = bytearray(octets)
        else:
            self._held += octets

    def take(self) -> bytes:
        """Whole lines, unstuffed and checked, once more is held than may be; else nothing."""
        held = self._held
        if held is None or len(held) < HELD_OCTETS_MAX:
            return b""
        cut = held.rfind(b"\r\n") + 2
        if self.problem is None and cut < 2:
            self.problem = TextProblem.LINE_TOO_LONG
        if self.problem is not None:
            # Keep what may be the beginning of the end; the x in front says that no line begins here.
            self._held = bytearray(b"x" + held[-4:])
            return b""
        piece = bytes(memoryview(held)[:cut])
        del held[:cut]
        return self._checked(piece)

    def rest(self) -> bytes:
        """All that was not taken yet, unstuffed and checked; to be called once, at the end."""
        if self.problem is not None:
            return b""
        if not self._stuffed and self._held:
            self._rest = bytes(self._held)
            if not self._rest.endswith(b"\r\n"):
                self._rest += b"\r\n"
        return self._checked(self._rest)

    def _checked(self, piece: bytes) -> bytes:
        """Whole lines, unstuffed; sets ``problem`` and gives nothing when they cannot be taken."""
        if self._stuffed:
            piece = piece.replace(b"\r\n.", b"\r\n")
            if piece.startswith(b"."):
                piece = piece[1:]
        self.length += len(piece)
        if self.length > self._octets_max:
            self.problem = TextProblem.TOO_LARGE
        elif not only_crlf(piece):
            self.problem = TextProblem.BARE_LINE_END
        elif longer_line(piece, self._line_octets_max):
            self.problem = TextProblem.LINE_TOO_LONG
        else:
            return piece
        return b""


def only_crlf(text: bytes) -> bool:
    """Whether CR and LF stand only together.

    ``splitlines`` ends a line at CRLF, CR and LF alike: when each line lost two octets, each end was a CRLF. This
    is one pass less than counting all three. The text must be empty or end with CRLF.
    """
    lines = text.splitlines()
    return len(b"".join(lines)) + 2 * len(lines) == len(text)


def longer_line(text: bytes, octets_max: int) -> bool:
    """Whether a line has more octets than that before its CRLF; looks at one place in so many octets."""
    start = 0
    while len(text) - start > octets_max + 2:
        end = text.rfind(b"\r\n", start, start + octets_max + 2)
        if end < 0:
            return True
        start = end + 2
    return False
