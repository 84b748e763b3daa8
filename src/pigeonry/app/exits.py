"""What the program's exit status means; the same for every command."""

from __future__ import annotations

from typing import Final

__all__ = [
    "AUTH",
    "CONFIG",
    "CONFLICT",
    "FAILED",
    "INTERRUPTED",
    "NOT_FOUND",
    "OK",
    "UNREACHABLE",
    "USAGE",
]

OK: Final = 0
FAILED: Final = 1  # a check or an operation failed
USAGE: Final = 2  # the command line is wrong
CONFIG: Final = 3  # the configuration cannot be used
UNREACHABLE: Final = 4  # a server or a store cannot be reached
NOT_FOUND: Final = 5
AUTH: Final = 6
CONFLICT: Final = 7
INTERRUPTED: Final = 130  # Ctrl-C
