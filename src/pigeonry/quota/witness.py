"""Who of the others lives, by one's own clock alone.

A session's *beat* changes with each ``attend``. Who looks twice, and finds the same beat after longer than a session
lives without one, knows that it is over: the session's own clock began to count before the beat was written, and so
before it was first seen. No clock of another machine is asked, and no wall clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pigeonry.ports.quota import FORGOTTEN_S, MARGIN, TTL_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pigeonry.ports.environment import Clock

__all__ = ["Witness"]

_SEEN_MAX: Final = 1_000  # sessions remembered before those are dropped that nobody asked for; 100 octets each


class Witness:
    """What one process has seen of the others.

    Args:
        clock: Its monotonic time counts.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}

    def judge(self, beats: Mapping[str, int], *, began: float) -> tuple[frozenset[str], frozenset[str]]:
        """Take in beats; the sessions that are over, and those that are gone.

        Args:
            beats: Of the sessions that matter now, by name; one that the store does not know has beat 0.
            began: Monotonic time before they were read.
        """
        now = self._clock.monotonic()
        over, gone = set(), set()
        for session, beat in beats.items():
            seen = self._seen.get(session)
            if seen is None or seen[0] != beat:
                self._seen[session] = (beat, now)
                continue
            age = began - seen[1]
            if age > FORGOTTEN_S * MARGIN:
                gone.add(session)
            elif age > TTL_S * MARGIN:
                over.add(session)
        if len(self._seen) > _SEEN_MAX:
            self._seen = {session: seen for session, seen in self._seen.items() if session in beats}
        return frozenset(over), frozenset(gone)
