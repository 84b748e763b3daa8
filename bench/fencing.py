"""What each sound way to fence a stale owner costs a group, on real nodes: what ADR 0010 chose by.

usage: fencing.py [--nodes 3] [--groups 300] [--shards 4] [--rounds 3]

Groups of 1, 10 and 50 transitions, each one row of a journal as the product writes it, by as many shards at a time as
are given, one group of each under way. In three ways, turn by turn:

lease   a plain write, and the clock is looked at: what the product does
lwt     a conditional write, ``IF closed = null`` on a static column of the partition
check   a plain write, then the partition's ``closed`` is read at SERIAL, and only then is it acknowledged

Told are milliseconds for a group (median and 99th percentile), groups in a second, also as a multiple of ``lease``, and
the CPU of all nodes for a group: medians over the rounds, since machines differ, and so do the moments of one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from parts import ROOT

from pigeonry.net.environment import SystemClock
from pigeonry.stores.cassandra.session import CassandraSettings, Consistency, Session
from pigeonry.testing.cassandra import Cluster, parts

ROWS = (1, 10, 50)
TRANSITION_OCTETS = 450  # of one transition and its event, as entries have it
WARM = 100  # groups of each way before the count begins
TIMEOUT_S = 10.0
HEAP_MB = 320
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
KEYSPACE = "CREATE KEYSPACE fencing WITH replication = {{'class': 'NetworkTopologyStrategy', 'dc1': {}}}"
TABLE = (
    "CREATE TABLE fencing.journal (shard int, epoch int, bucket int, number int, seq bigint, octets blob, "
    "closed boolean static, PRIMARY KEY ((shard, epoch, bucket), number))"
)
PLAIN = "INSERT INTO fencing.journal (shard, epoch, bucket, number, seq, octets) VALUES (?, ?, ?, ?, ?, ?)"
CONDITIONAL = (
    "UPDATE fencing.journal SET seq = ?, octets = ? WHERE shard = ? AND epoch = ? AND bucket = ? AND number = ? "
    "IF closed = null"
)
CLOSED = "SELECT closed FROM fencing.journal WHERE shard = ? AND epoch = ? AND bucket = ? LIMIT 1"
Way = Callable[[int, int, int, bytes], Awaitable[None]]
BUCKET = 64  # groups of a partition, as in the product


class Ways:
    """The three of them. Each has epochs, and so partitions, of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._until = time.monotonic() + 1e6

    async def lease(self, shard: int, epoch: int, number: int, octets: bytes) -> None:
        """Write, look at the clock."""
        values = (shard, epoch, number // BUCKET, number, number, octets)
        await self._session.execute(PLAIN, values, timeout_s=TIMEOUT_S)
        assert time.monotonic() < self._until

    async def lwt(self, shard: int, epoch: int, number: int, octets: bytes) -> None:
        """Write if the partition is open."""
        values = (number, octets, shard, epoch, number // BUCKET, number)
        applied, _ = await self._session.conditional(
            CONDITIONAL, values, timeout_s=TIMEOUT_S, serial=Consistency.LOCAL_SERIAL
        )
        assert applied

    async def check(self, shard: int, epoch: int, number: int, octets: bytes) -> None:
        """Write, see that the partition is open."""
        await self.lease(shard, epoch, number, octets)
        values = (shard, epoch, number // BUCKET)
        rows = await self._session.execute(CLOSED, values, timeout_s=TIMEOUT_S, consistency=Consistency.LOCAL_SERIAL)
        assert rows[0][0] is None


async def groups(way: Way, epoch: int, count: int, shards: int, octets: bytes) -> tuple[float, list[float]]:
    """Write so many groups; the seconds that it took, and that each took."""
    took: list[float] = []

    async def shard(number: int) -> None:
        for group in range(count // shards):
            begun = time.perf_counter()
            await way(number, epoch, group, octets)
            took.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*map(shard, range(shards)))
    return time.perf_counter() - begun, took


def cpu_s(pids: list[int]) -> float:
    """CPU time of processes so far, in seconds."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum((int(each[11]) + int(each[12])) * TICK_S for each in fields)


async def measure(cluster: Cluster, options: argparse.Namespace) -> list[dict[str, float | str | int]]:
    """All of it, a line for each way and size of groups: medians over the rounds."""
    node = cluster.nodes[0]
    await node.rows(KEYSPACE.format(min(3, options.nodes)))
    await node.rows(TABLE)
    await cluster.agreed()
    settings = CassandraSettings(contact_points=cluster.contact_points(), local_datacenter="dc1")
    session = await Session.open(settings, SystemClock())
    ways = Ways(session)
    pids = [node.pid for node in cluster.nodes if node.pid is not None]
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    epoch = 0
    try:
        for turn in range(options.rounds + 1):  # the first of them warms up
            for rows in ROWS:
                octets = os.urandom(TRANSITION_OCTETS // 2 * rows) + bytes(TRANSITION_OCTETS // 2 * rows)
                for name in ("lease", "lwt", "check"):
                    epoch += 1
                    count = options.groups if turn else WARM
                    before = cpu_s(pids)
                    seconds, took = await groups(getattr(ways, name), epoch, count, options.shards, octets)
                    if turn:
                        cuts = statistics.quantiles(took, n=100)
                        found.setdefault((name, rows), []).append(
                            {
                                "p50_ms": cuts[49] * 1e3,
                                "p99_ms": cuts[98] * 1e3,
                                "groups_s": len(took) / seconds,
                                "server_ms": (cpu_s(pids) - before) / len(took) * 1e3,
                            }
                        )
    finally:
        await session.close()
    return [
        {"way": name, "rows": rows, **{key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}}
        for (name, rows), runs in sorted(found.items(), key=lambda item: item[0][1])
    ]


def main() -> None:
    """Measure and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--groups", type=int, default=300, help="of each way and size, in each round")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pigeonry-fencing-") as folder:
        made = parts(ROOT / ".parts")
        cluster = Cluster(Path(folder), made, {"dc1": options.nodes}, clock=SystemClock(), heap_mb=HEAP_MB)
        try:
            asyncio.run(cluster.start())
            lines = uvloop.run(measure(cluster, options))
        finally:
            cluster.stop()
    for line in lines:
        base = next(each for each in lines if (each["way"], each["rows"]) == ("lease", line["rows"]))
        times = float(line["groups_s"]) / float(base["groups_s"])
        print(
            f"{line['rows']:>3} rows {line['way']:<6} p50 {line['p50_ms']:>7} ms  p99 {line['p99_ms']:>7} ms  "
            f"{line['groups_s']:>8} groups/s ({times:.2f} x)  {line['server_ms']:>6} ms CPU of the nodes"
        )
    print(json.dumps({"bench": "fencing", "nodes": options.nodes, "shards": options.shards, "lines": lines}))


if __name__ == "__main__":
    main()
