"""The step of a search index that lost twelve minutes: rows gone in some shards, files spoilt in others."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from typing import TYPE_CHECKING, Any, Final

import apsw
import msgspec

from pigeonry.drills.cluster_audit import read_events
from pigeonry.drills.d2014.stage import LOOK_S
from pigeonry.drills.site import KEYSPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pigeonry.drills.d2014.stage import Stage
    from pigeonry.drills.node import Node

__all__ = ["index_lost"]

WINDOW_S: Final = 720.0  # the twelve minutes of September 2014
LEFT_OUT: Final = 4  # the exit status of a command that some worker did not answer
REBUILT_S: Final = 60.0  # bar; for all of them
SPOILT_OCTETS: Final = 16_384  # of a file, from its beginning: the schema with it


class _Event(msgspec.Struct, frozen=True):
    id: str
    timestamp: float


_decode: Final = msgspec.json.Decoder(_Event).decode


async def index_lost(stage: Stage) -> None:
    """Every node loses it, in half of its shards by the row and in the others by the file; all rebuild it at once."""
    site, report, clock = stage.site, stage.report, stage.clock
    end = clock.now()
    begin = end - WINDOW_S
    owners = await site.owners()
    wanted = {
        shard: {event.id for event in map(_decode, events) if begin <= event.timestamp <= end}
        for shard, events in (await read_events(site.cluster.nodes[0], KEYSPACE)).items()
    }
    for shard, owner in owners.items():
        for file in _files(site.folder(owner), shard):
            if shard % 2:
                _spoil(file)
            else:
                _empty(file)
    gone = _missing(stage, owners, wanted)
    report.happened(f"the search indexes lost {gone} of {sum(map(len, wanted.values()))} events")
    begun = clock.monotonic()
    words = ("events", "rebuild", "--from", _text(begin), "--to", _text(end))
    done = await asyncio.gather(*[_rebuilt(node, words) for node in site.nodes.values()])
    for name, told in zip(site.nodes, done, strict=True):
        report.happened(f"{name} rebuilt: {told['looked_at']} events looked at, {told['added']} added")
    while (missing := _missing(stage, owners, wanted)) and clock.monotonic() - begun < REBUILT_S:
        await clock.sleep(LOOK_S * 10)
    report.noted("index lost: events of the last 12 minutes", str(sum(map(len, wanted.values()))))
    report.noted("index lost: of them were gone", str(gone))
    report.at_most("index lost: rebuilt, s", clock.monotonic() - begun, REBUILT_S)
    report.none_of("index rebuilt: events missing", missing)


async def _rebuilt(node: Node, words: Sequence[str]) -> Mapping[str, Any]:
    """What a node says of its own shards: here the nodes know no way to each other, so that each leaves others out."""
    return await node.command(*words, fine=(0, LEFT_OUT))


def _missing(stage: Stage, owners: Mapping[int, str], wanted: Mapping[int, set[str]]) -> int:
    """How many events the indexes of the shards' owners lack."""
    return sum(
        len(events.difference(_indexed(_files(stage.site.folder(owners[shard]), shard))))
        for shard, events in wanted.items()
    )


def _files(data: Path, shard: int) -> list[Path]:
    return sorted((data / "shards").glob(f"{shard:04d}/index/*.db"))


def _indexed(files: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for file in files:
        try:
            connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
            found.update(_decode(octets).id for (octets,) in connection.execute("SELECT octets FROM event"))
            connection.close()
        except apsw.Error:
            continue  # spoilt, or being replaced
    return found


def _empty(file: Path) -> None:
    """As an index that took nothing for a while, and never knew."""
    connection = apsw.Connection(str(file))
    connection.set_busy_timeout(5_000)
    connection.execute("DELETE FROM event")
    connection.close()


def _spoil(file: Path) -> None:
    with file.open("r+b") as spoilt:
        spoilt.write(os.urandom(SPOILT_OCTETS))


def _text(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat()
