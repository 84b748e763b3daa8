"""What the door says in its own name, and how an error is said after a message's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import BadRequest
from pigeonry.domain.reply import EnhancedStatus, Reply

if TYPE_CHECKING:
    from pigeonry.domain.errors import PigeonryError

__all__ = [
    "BUSY",
    "DRAINING",
    "FAULT",
    "FULL",
    "GUESSING",
    "LOGIN_FAULT",
    "OLD",
    "TIMED_OUT",
    "TOO_MANY",
    "WRONG_LOGIN",
    "after_data",
]

TIMED_OUT: Final = Reply(421, "Too long without a command", EnhancedStatus(4, 2))
OLD: Final = Reply(421, "The connection is old: connect again", EnhancedStatus(4, 2))
FULL: Final = Reply(421, "Too many connections", EnhancedStatus(3, 2))
TOO_MANY: Final = Reply(421, "Too many connections from your address", EnhancedStatus(7, 0))
DRAINING: Final = Reply(421, "The service is restarting, connect again", EnhancedStatus(3, 2))
BUSY: Final = Reply(451, "Busy: try again later", EnhancedStatus(3, 2))
FAULT: Final = Reply(451, "The message could not be taken: try again later", EnhancedStatus(3, 0))
WRONG_LOGIN: Final = Reply(535, "Authentication credentials invalid", EnhancedStatus(7, 8))
LOGIN_FAULT: Final = Reply(454, "Logins cannot be checked just now: try again later", EnhancedStatus(7, 0))
GUESSING: Final = Reply(421, "Too many failed logins from your address", EnhancedStatus(7, 0))


def after_data(error: PigeonryError) -> Reply:
    """An error as the answer to a message: a fault in its text is 554 5.6.0, not one in a command's argument."""
    if isinstance(error, BadRequest):
        return Reply(554, error.text, EnhancedStatus(6, 0))
    return error.reply()
