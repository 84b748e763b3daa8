"""The test cluster itself: real nodes come, freeze, die, return, and leave nothing behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from pigeonry.net.environment import SystemClock
from pigeonry.testing.cassandra import Cluster, CommitLog, NodeFailed, wire
from support.cassandra import ROOT, cassandra_parts, ring
from support.process import until

T = TypeVar("T")
CREATE = (
    "CREATE KEYSPACE kit WITH replication = {'class': 'NetworkTopologyStrategy', %s}",
    "CREATE TABLE kit.pair (k int PRIMARY KEY, v text)",
)
QUORUM = 0x0004


async def _table(cluster: Cluster, replicas: str) -> None:
    for cql in CREATE:
        await cluster.nodes[0].rows(cql % replicas if "%s" in cql else cql)
    await cluster.agreed()


async def test_a_node_freezes_dies_and_returns_with_what_it_had(tmp_path: Path) -> None:
    async with ring(tmp_path, {"dc1": 1}, commit_log=CommitLog.BATCH) as cluster:
        (node,) = cluster.nodes
        await _table(cluster, "'dc1': 1")
        await node.rows("INSERT INTO kit.pair (k, v) VALUES (1, 'kept')")
        node.pause()
        with pytest.raises(OSError):
            await node.rows("SELECT v FROM kit.pair", timeout_s=0.2)
        node.resume()
        assert await node.rows("SELECT v FROM kit.pair") == [(b"kept",)]
        node.kill()
        assert node.pid is None
        await node.start()
        assert await node.rows("SELECT v, k FROM kit.pair") == [(b"kept", b"\x00\x00\x00\x01")]
        with pytest.raises(wire.Refused, match="nowhere"):
            await node.rows("SELECT v FROM kit.nowhere")
        await node.end()
        assert node.pid is None


async def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, cassandra_parts(), {"dc1": 1}, clock=SystemClock(), settings={"no_such_setting": "1"})
    with pytest.raises(NodeFailed, match="no_such_setting"):
        await cluster.start()


async def test_a_location_may_die_and_the_other_goes_on_with_the_witness(tmp_path: Path) -> None:
    async with ring(tmp_path, {"dc1": 2, "dc2": 2, "witness": 1}) as cluster:
        first = cluster.nodes[0]
        await first.rows(
            "CREATE KEYSPACE lease WITH replication = "
            "{'class': 'NetworkTopologyStrategy', 'dc1': 2, 'dc2': 2, 'witness': 1}"
        )
        await first.rows("CREATE TABLE lease.shard (k int PRIMARY KEY, owner text)")
        await cluster.agreed()
        take = "INSERT INTO lease.shard (k, owner) VALUES (%d, 'x') IF NOT EXISTS"
        here, there = ([node for node in cluster.nodes if node.seat.location == name] for name in ("dc1", "dc2"))
        assert (await here[0].rows(take % 1))[0][0] == b"\x01"
        assert (await there[0].rows(take % 1))[0][0] == b"\x00"
        for node in here:
            node.kill()
        assert (await eventually(lambda: there[0].rows(take % 2)))[0][0] in {b"\x00", b"\x01"}


async def eventually(ask: Callable[[], Awaitable[T]]) -> T:
    """The first answer: until the dead are known to be dead, the living wait for them."""
    async with asyncio.timeout(60.0):
        while True:
            try:
                return await ask()
            except (OSError, wire.Refused):
                await asyncio.sleep(0.1)


def test_no_node_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    cassandra_parts()
    program = f"""
import asyncio, os, signal
from pathlib import Path
from pigeonry.net.environment import SystemClock
from pigeonry.testing.cassandra import Cluster, parts
cluster = Cluster(Path({str(tmp_path)!r}), parts(Path({str(ROOT / ".parts")!r})), {{"dc1": 1}}, clock=SystemClock())
asyncio.run(cluster.start())
print(cluster.nodes[0].pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert b"CassandraDaemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
        parent.kill()
    until(lambda: not Path(f"/proc/{pid}/stat").exists(), "the node is gone")
