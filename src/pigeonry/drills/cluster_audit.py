"""Reads the event log of a cluster out of its journal, by a few lines of its own.

As ``audit`` for one node, it shares no code with the store: what it knows of a journal is what is written down in
docs/decisions/0010. Groups are numbered without gaps in each epoch of a shard, and each says which seq its first event
has; what an epoch has from the seq on with which a later epoch begins is late, and counts for nothing.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.drills.audit import Books
from pigeonry.testing.cassandra import wire

if TYPE_CHECKING:
    from pigeonry.testing.cassandra import Node

__all__ = ["read_books", "read_events", "tally"]

_ACCEPTED, _SETTLED, _VOIDED, _NOTED = 0, 2, 3, 4
_ASK_S: Final = 60.0  # seconds for the whole journal of a drill, some ten thousand groups
Group = tuple[int, int, int, int, bytes]
"""Shard, epoch, number, seq of its first event, and its entries."""


async def read_books(node: Node, keyspace: str) -> Books:
    """Read the journal, as all its replicas have it together; asked of one node of Cassandra."""
    return tally(await _read(node, keyspace))


async def read_events(node: Node, keyspace: str) -> dict[int, list[bytes]]:
    """The events of each shard in their order, read as ``read_books`` does."""
    return {
        shard: [event for _, events in _told(_valid(groups)) for event in events if event]
        for shard, groups in _by_shard(await _read(node, keyspace)).items()
    }


async def _read(node: Node, keyspace: str) -> list[Group]:
    """Partition by partition: all of it in one answer is more than a small node of Cassandra has memory for."""
    found: list[Group] = []
    columns = "shard, epoch, number, seq, octets"
    partitions = f"SELECT DISTINCT shard, epoch, bucket FROM {keyspace}.journal"  # noqa: S608  # the drill's own
    for key in await node.rows(partitions, timeout_s=_ASK_S, consistency=wire.ALL):
        shard, epoch, bucket = map(_int, key)
        where = f"shard = {shard} AND epoch = {epoch} AND bucket = {bucket}"
        cql = f"SELECT {columns} FROM {keyspace}.journal WHERE {where}"  # noqa: S608  # the drill's own
        rows = await node.rows(cql, timeout_s=_ASK_S, consistency=wire.ALL)
        found += [(_int(row[0]), _int(row[1]), _int(row[2]), _int(row[3]), row[4] or b"") for row in rows]
    return found


def _int(octets: bytes | None) -> int:
    return int.from_bytes(octets or b"", signed=True)


def tally(groups: Iterable[Group]) -> Books:
    """The books of all shards."""
    books = Books()
    for each in _by_shard(groups).values():
        _add(books, _valid(each))
    return books


def _by_shard(groups: Iterable[Group]) -> dict[int, list[Group]]:
    shards: dict[int, list[Group]] = defaultdict(list)
    for group in sorted(groups):
        shards[group[0]].append(group)
    return shards


def _valid(groups: Sequence[Group]) -> list[Group]:
    """Without what was never acknowledged: behind a gap, or behind where the next owner began."""
    valid: list[Group] = []
    begins = 2**63
    for _, epoch in itertools.groupby(reversed(groups), key=lambda group: group[1]):
        own = list(epoch)[::-1]
        kept = [group for number, group in enumerate(own) if group[2] == number and group[3] < begins]
        valid = kept + valid
        if kept:
            begins = min(begins, kept[0][3])
    return valid


def _add(books: Books, groups: Sequence[Group]) -> None:
    following = 1
    for seq, events in _told(groups):
        books.gaps += seq != following
        following = seq + len(events)
        for event in events:
            books.add(event)


def _told(groups: Sequence[Group]) -> Iterator[tuple[int, list[bytes]]]:
    """The seq of each group's first event, and its events; those of void messages are empty."""
    read = [(seq, _entries(octets)) for _, _, _, seq, octets in groups]
    void = {entry[1] for _, entries in read for entry in entries if entry[0] == _VOIDED}
    for seq, entries in read:
        told: list[bytes] = []
        for entry in entries:
            events = _events(entry)
            told += [b""] * len(events) if entry[0] == _ACCEPTED and entry[1] in void else events
        yield seq, told


def _events(entry: Sequence[Any]) -> Sequence[bytes]:
    if entry[0] == _ACCEPTED:
        return entry[8]  # type: ignore[no-any-return]
    if entry[0] == _SETTLED:
        return [entry[8]] if entry[8] else []
    return [entry[1]] if entry[0] == _NOTED else []


def _entries(octets: bytes) -> list[list[Any]]:
    return msgspec.msgpack.decode(octets, type=list[list[Any]])
