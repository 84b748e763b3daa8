"""What somebody wrote, without what they quoted and without their signature.

A guess by the marks that mail programs leave: lines that begin with ``>``, the line that introduces them, the headers
that some programs repeat, and the signature's ``-- ``. Where no mark is found everything was written by them.

Standards: RFC 3676 section 4.3 (signature separator), 4.5 (quoting).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["strip_quotes"]

_INTRODUCTION: Final = re.compile(r"(?:On\b.{0,300}\bwrote|Am\b.{0,300}\bschrieb.{0,100}|Le\b.{0,300}\ba écrit\s?):\s*")
_SEPARATOR: Final = re.compile(
    r"(?:-{2,}\s?(?:Original Message|Forwarded message|Reply above).*|_{20,})\s*", re.IGNORECASE
)
_HEADER: Final = re.compile(r"(?:From|Von|De|Sent|To|Subject|Date):\s.*")
_LINES_MAX: Final = 2_000  # of a text that is looked through, at up to 0.2 ms a line; no person wrote more


def strip_quotes(text: str) -> tuple[str, str]:
    """The text somebody wrote, and their signature (empty when there is none).

    Args:
        text: With LF line ends.
    """
    written: list[str] = []
    signature: list[str] = []
    kept = written
    lines = text.split("\n", _LINES_MAX)
    for number, line in enumerate(lines):
        if line == "-- " or (line == "--" and number):
            kept = signature
            continue
        if line.startswith(">"):
            continue
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if _SEPARATOR.fullmatch(line) or (_HEADER.fullmatch(line) and _HEADER.fullmatch(after)):
            break
        if len(line) < 500 and (_INTRODUCTION.fullmatch(line) or _INTRODUCTION.fullmatch(f"{line} {after}"[:500])):
            break
        kept.append(line)
    return "\n".join(written).strip(), "\n".join(signature).strip()
