"""Reads a stopped node's event log from its files, by its own few lines of SQL.

The auditor shares no code with the store on purpose: what it reads is what an operator would find on the disk.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import apsw

from pigeonry.domain.event import Accepted, Delivered, Failed, decode_event

__all__ = ["Books", "audit"]


class Books:
    """What the log says, counted by forward-path."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.final: Counter[str] = Counter()
        self.flagged: Counter[str] = Counter()
        self.gaps = 0
        """Sequence numbers missing or repeated within a shard."""

    def add(self, octets: bytes) -> None:
        """Count one event; a voided one has no octets."""
        if not octets:
            return
        event = decode_event(octets)
        if isinstance(event, Accepted):
            self.accepted[event.recipient] += 1
        elif isinstance(event, Delivered) or (isinstance(event, Failed) and event.severity == "permanent"):
            self.final[event.recipient] += 1
        if event.flags.is_possible_duplicate is True:
            self.flagged[event.recipient] += 1


def audit(data: Path) -> Books:
    """Read every day file of every shard of a node that is not running."""
    books = Books()
    for shard in sorted((data / "shards").iterdir()):
        expected = 0
        for day in sorted(shard.glob("*.db")):
            connection = apsw.Connection(str(day))
            for seq, octets in connection.execute("SELECT seq, octets FROM event ORDER BY seq"):
                if expected and seq != expected:
                    books.gaps += 1
                expected = seq + 1
                books.add(octets)
            connection.close()
    return books
