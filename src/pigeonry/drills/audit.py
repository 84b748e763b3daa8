"""Reads a stopped node's event log and recipients from its files, by its own few lines of SQL.

The auditor shares no code with the store on purpose: what it reads is what an operator would find on the disk.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Final

import apsw

from pigeonry.domain.event import Accepted, Delivered, Failed, decode_event

__all__ = ["Books", "audit"]


class Books:
    """What the files say, counted by forward-path; in a drill each stands for one recipient."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        """Failed for good."""
        self.flagged: Counter[str] = Counter()
        self.gaps = 0
        """Sequence numbers missing or repeated within a shard."""
        self.disagreeing = 0
        """Recipients whose state is not what their events say."""

    def finals(self, path: str) -> int:
        """How many final events a forward-path has."""
        return self.delivered[path] + self.failed[path]

    def add(self, octets: bytes) -> None:
        """Count one event; a voided one has no octets."""
        if not octets:
            return
        event = decode_event(octets)
        if isinstance(event, Accepted):
            self.accepted[event.recipient] += 1
        elif isinstance(event, Delivered):
            self.delivered[event.recipient] += 1
        elif isinstance(event, Failed) and event.severity == "permanent":
            self.failed[event.recipient] += 1
        if event.flags.is_possible_duplicate is True:
            self.flagged[event.recipient] += 1

    def compare(self, path: str, state: int) -> None:
        """Hold a recipient's state (0 waits, 1 delivered, 2 failed, 3 void) against its events."""
        events = (self.accepted[path], self.delivered[path], self.failed[path])
        self.disagreeing += events != _EVENTS_OF[state]


_CARRIED: Final = 4
_EVENTS_OF: Final = {0: (1, 0, 0), 1: (1, 1, 0), 2: (1, 0, 1), 3: (0, 0, 0)}


def audit(data: Path) -> Books:
    """Read every day file of every shard of a node that is not running."""
    books = Books()
    for shard in sorted((data / "shards").iterdir()):
        days = [apsw.Connection(str(day)) for day in sorted(shard.glob("*.db"))]
        seqs: list[int] = []
        for day in days:
            for seq, octets in day.execute("SELECT seq, octets FROM event"):
                seqs.append(seq)
                books.add(octets)
        seqs.sort()
        books.gaps += sum(seq != before + 1 for before, seq in itertools.pairwise((0, *seqs)))
        for day in days:
            for path, state in day.execute("SELECT address, state FROM recipient WHERE state <> ?", (_CARRIED,)):
                books.compare(path, state)
            day.close()
    return books
