"""What keeps a recipient from being attempted, for those who ask."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Holding", "Whose"]

Whose = Literal["message", "operator", "receiver", "server"]


class Holding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One reason.

    Args:
        limit: What it is, for programs: ``ended``, ``attempt``, ``doubt``, ``schedule``, ``retry``, ``intervention``,
            ``pool``, ``route``, ``rest``, ``connections``, ``turn``, ``store``.
        whose: Who could change it: whoever sent the message, the operator, the receiver, or nobody but this server.
        description: One sentence.
        until: Seconds since the Unix epoch, when that is known; 0.0 otherwise.
    """

    limit: str
    whose: Whose
    description: str
    until: float = 0.0
