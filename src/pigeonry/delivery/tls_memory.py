"""Hosts whose TLS is broken, remembered for an hour: they pay for it once, and not for every connection.

Only what is opportunistic goes by it: where TLS is demanded the handshake is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from pigeonry.ports.environment import Clock

__all__ = ["TlsLevel", "TlsMemory"]

TLS_MEMORY_S: Final = 3_600.0  # seconds that a host's broken TLS or certificate is remembered
TLS_MEMORIES_MAX: Final = 10_000  # hosts remembered, some 300 octets each


class TlsLevel(IntEnum):
    """How much of TLS a host can do, best first."""

    VERIFIED = 0
    ANY_CERTIFICATE = 1
    CLEAR = 2


class TlsMemory:
    """What was learnt of hosts, by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hosts: dict[str, tuple[float, TlsLevel, str]] = {}

    def level(self, name: str) -> TlsLevel:
        """The best that a host is known to do; all of it when nothing is known."""
        found = self._hosts.get(name)
        return found[1] if found is not None and self._clock.monotonic() < found[0] else TlsLevel.VERIFIED

    def remember(self, name: str, level: TlsLevel, why: str) -> None:
        """A host cannot do better than that."""
        self._hosts.pop(name, None)
        while len(self._hosts) >= TLS_MEMORIES_MAX:
            self._hosts.pop(next(iter(self._hosts)))
        self._hosts[name] = (self._clock.monotonic() + TLS_MEMORY_S, level, why)

    def forget(self, name: str) -> None:
        """A host did better."""
        self._hosts.pop(name, None)

    def shown(self) -> Mapping[str, tuple[TlsLevel, str, float]]:
        """What is remembered now: the level, why, and for how many seconds more."""
        now = self._clock.monotonic()
        return {name: (level, why, until - now) for name, (until, level, why) in self._hosts.items() if until > now}
