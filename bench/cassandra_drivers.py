"""What a driver costs this program, and what it does while nodes are frozen.

Real nodes, a row on each of up to three, LOCAL_QUORUM, on the machine that also runs the client: read the client's
processor time for an operation, not the rate. Each driver runs in a process of its own; ``session`` is
stores/cassandra/session.py over acsylla. Drivers that are not installed are left out by name (pip install
cassandra-driver scyllapy).

    python bench/cassandra_drivers.py [--seconds 5] [--nodes 3] [DRIVER...]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import uvloop

from pigeonry.net.environment import SystemClock
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.testing.cassandra import Cluster, parts

NEEDS = {"session": "acsylla", "acsylla": "acsylla", "cassandra-driver": "cassandra", "scyllapy": "scyllapy"}
UNDER_WAY = 64
LWT_UNDER_WAY = 8
BATCH_ROWS = 50
TIMEOUT_S = 1.5
LOST_S = 8.0  # whoever has waited so long for a request of TIMEOUT_S would wait for ever
SPECULATE_MS, SPECULATIONS = 400, 1
KEYSPACE = "bench"
TABLES = (
    "CREATE KEYSPACE bench WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': %d}",
    "CREATE TABLE bench.line (k int, n int, v blob, PRIMARY KEY (k, n))",
    "CREATE TABLE bench.lease (k int PRIMARY KEY, n int)",
)
INSERT = "INSERT INTO line (k, n, v) VALUES (?, ?, ?)"
LEASE = "UPDATE lease SET n = ? WHERE k = ? IF n = ?"
FIRST = "INSERT INTO lease (k, n) VALUES (?, ?)"


Values = Sequence[object]


class Driver(Protocol):
    async def open(self, hosts: Sequence[str], port: int) -> None: ...

    async def write(self, cql: str, values: Values) -> None: ...

    async def batch(self, rows: Sequence[Values]) -> None: ...

    async def swap(self, values: Values) -> None: ...

    async def close(self) -> None: ...


class SessionDriver:
    async def open(self, hosts: Sequence[str], port: int) -> None:
        settings = CassandraSettings(
            contact_points=tuple(f"{host}:{port}" for host in hosts), local_datacenter="dc1", keyspace=KEYSPACE
        )
        self.session = await Session.open(settings, SystemClock())

    async def write(self, cql: str, values: Values) -> None:
        await self.session.execute(cql, values, timeout_s=TIMEOUT_S)

    async def batch(self, rows: Sequence[Values]) -> None:
        await self.session.batch([(INSERT, row) for row in rows], timeout_s=TIMEOUT_S)

    async def swap(self, values: Values) -> None:
        applied, _ = await self.session.conditional(LEASE, values, timeout_s=TIMEOUT_S)
        assert applied

    async def close(self) -> None:
        await self.session.close()


class Acsylla:
    async def open(self, hosts: Sequence[str], port: int) -> None:
        acsylla = self.driver = importlib.import_module("acsylla")
        self.level = acsylla.Consistency.LOCAL_QUORUM
        self.cluster = acsylla.create_cluster(
            list(hosts),
            port=port,
            load_balance_dc_aware="dc1",
            connect_timeout=1.0,
            request_timeout=TIMEOUT_S,
            heartbeat_interval_sec=1,
            idle_timeout_sec=2,
            constant_reconnect_delay_ms=250,
            speculative_execution_policy=acsylla.SpeculativeExecutionPolicy(SPECULATE_MS, SPECULATIONS),
            consistency=self.level,
            serial_consistency=acsylla.Consistency.SERIAL,
            log_level="disabled",
        )
        self.session = await self.cluster.create_session(keyspace=KEYSPACE)
        self.prepared = {cql: await self.session.create_prepared(cql) for cql in (INSERT, LEASE, FIRST)}

    async def write(self, cql: str, values: Values) -> None:
        statement = self.prepared[cql].bind(values)
        statement.set_is_idempotent(True)
        await self.session.execute(statement)

    async def batch(self, rows: Sequence[Values]) -> None:
        batch = self.driver.create_batch_unlogged(timeout=TIMEOUT_S)
        batch.set_consistency(self.level)
        batch.set_is_idempotent(True)
        for row in rows:
            batch.add_statement(self.prepared[INSERT].bind(row))
        await self.session.execute_batch(batch)

    async def swap(self, values: Values) -> None:
        result = await self.session.execute(self.prepared[LEASE].bind(values))
        assert result.first().as_tuple()[0]

    async def close(self) -> None:
        await self.session.close()


class CassandraDriver:
    async def open(self, hosts: Sequence[str], port: int) -> None:
        cluster = importlib.import_module("cassandra.cluster")
        policies = importlib.import_module("cassandra.policies")
        query = importlib.import_module("cassandra.query")
        level = importlib.import_module("cassandra").ConsistencyLevel
        self.loop = asyncio.get_running_loop()
        self.new_batch = lambda: query.BatchStatement(query.BatchType.UNLOGGED, consistency_level=level.LOCAL_QUORUM)
        profile = cluster.ExecutionProfile(
            load_balancing_policy=policies.TokenAwarePolicy(policies.DCAwareRoundRobinPolicy("dc1")),
            consistency_level=level.LOCAL_QUORUM,
            serial_consistency_level=level.SERIAL,
            request_timeout=TIMEOUT_S,
            speculative_execution_policy=policies.ConstantSpeculativeExecutionPolicy(SPECULATE_MS / 1000, SPECULATIONS),
        )
        self.driver = cluster.Cluster(
            list(hosts),
            port=port,
            execution_profiles={cluster.EXEC_PROFILE_DEFAULT: profile},
            reconnection_policy=policies.ConstantReconnectionPolicy(0.25, None),
            idle_heartbeat_interval=1,
            idle_heartbeat_timeout=1,
            connect_timeout=1,
        )
        self.session = await asyncio.to_thread(self.driver.connect, KEYSPACE)
        self.prepared = {cql: self.session.prepare(cql) for cql in (INSERT, LEASE, FIRST)}
        for cql in (INSERT, FIRST):
            self.prepared[cql].is_idempotent = True

    def _run(self, statement: Any) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = self.loop.create_future()

        def settle(how: Callable[[Any], None], value: Any) -> None:
            if not done.done():
                how(value)

        self.session.execute_async(statement).add_callbacks(
            lambda rows: self.loop.call_soon_threadsafe(settle, done.set_result, rows),
            lambda error: self.loop.call_soon_threadsafe(settle, done.set_exception, error),
        )
        return done

    async def write(self, cql: str, values: Values) -> None:
        await self._run(self.prepared[cql].bind(values))

    async def batch(self, rows: Sequence[Values]) -> None:
        batch = self.new_batch()
        for row in rows:
            batch.add(self.prepared[INSERT], row)
        await self._run(batch)

    async def swap(self, values: Values) -> None:
        rows = await self._run(self.prepared[LEASE].bind(values))
        assert rows[0][0]

    async def close(self) -> None:
        await asyncio.to_thread(self.driver.shutdown)


class Scyllapy:
    async def open(self, hosts: Sequence[str], port: int) -> None:
        scyllapy = self.driver = importlib.import_module("scyllapy")
        profile = scyllapy.ExecutionProfile(
            consistency=scyllapy.Consistency.LOCAL_QUORUM,
            serial_consistency=scyllapy.SerialConsistency.SERIAL,
            request_timeout=round(TIMEOUT_S + 0.5),
            load_balancing_policy=await importlib.import_module("scyllapy.load_balancing").LoadBalancingPolicy.build(
                token_aware=True, prefer_datacenter="dc1", permit_dc_failover=False
            ),
        )
        self.scylla = scyllapy.Scylla(
            [f"{host}:{port}" for host in hosts],
            keyspace=KEYSPACE,
            default_execution_profile=profile,
            connection_timeout=2,
        )
        await self.scylla.startup()
        self.prepared = {cql: await self.scylla.prepare(cql) for cql in (INSERT, LEASE, FIRST)}

    async def write(self, cql: str, values: Values) -> None:
        await self.scylla.execute(self.prepared[cql], values)

    async def batch(self, rows: Sequence[Values]) -> None:
        batch = self.driver.Batch(self.driver.BatchType.UNLOGGED)
        for _ in rows:
            batch.add_query(INSERT)
        await self.scylla.batch(batch, rows)

    async def swap(self, values: Values) -> None:
        result = await self.scylla.execute(self.prepared[LEASE], values)
        assert result.first()["[applied]"]

    async def close(self) -> None:
        await self.scylla.shutdown()


DRIVERS: dict[str, type[Driver]] = {
    "session": SessionDriver,
    "acsylla": Acsylla,
    "cassandra-driver": CassandraDriver,
    "scyllapy": Scyllapy,
}


async def steady(under_way: int, seconds: float, operation: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """Operations a second, client microseconds of processor time for one, p50 and p99 in milliseconds."""
    taken: list[float] = []
    end = time.monotonic() + seconds
    number = iter(range(2**31))

    async def one() -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            await operation(next(number))
            taken.append(time.monotonic() - began)

    cpu, began = time.process_time(), time.monotonic()
    await asyncio.gather(*(one() for _ in range(under_way)))
    cpu, wall = time.process_time() - cpu, time.monotonic() - began
    taken.sort()
    return {
        "ops_per_s": round(len(taken) / wall),
        "client_us": round(cpu / len(taken) * 1e6, 1),
        "p50_ms": round(taken[len(taken) // 2] * 1000, 1),
        "p99_ms": round(taken[int(len(taken) * 0.99)] * 1000, 1),
    }


async def frozen(driver: Driver, pids: Sequence[int], payload: bytes) -> dict[str, Any]:
    """Fifty writes a second while nodes are frozen for 5 s: how each ended and after how long."""
    loop = asyncio.get_running_loop()
    ended: list[tuple[float, float, str]] = []
    start = loop.time()

    async def one(number: int) -> None:
        began = loop.time()
        try:
            await asyncio.wait_for(driver.write(INSERT, [10_000 + number, 0, payload]), LOST_S)
            how = "ok"
        except TimeoutError:
            how = "never answered"
        except Exception as error:  # noqa: BLE001  # which one is what is asked
            how = type(error).__name__
        ended.append((began - start, loop.time() - began, how))

    tasks = []
    stopped = resumed = False
    for number in range(600):
        now = loop.time() - start
        if now >= 2 and not stopped:
            stopped = True
            send(pids, signal.SIGSTOP)
        if now >= 7 and not resumed:
            resumed = True
            send(pids, signal.SIGCONT)
        tasks.append(asyncio.ensure_future(one(number)))
        await asyncio.sleep(max(0.0, start + (number + 1) / 50 - loop.time()))
    await asyncio.gather(*tasks)
    during = [(took, how) for at, took, how in ended if 2 <= at < 7]
    steady_state = sorted(took for at, took, _ in ended if 3.5 <= at < 7)
    failed: dict[str, int] = {}
    for _, how in during:
        failed[how] = failed.get(how, 0) + 1
    good_again = [at for at, _, how in sorted(ended) if at >= 7 and how != "ok"]
    return {
        "during": failed,
        "max_s": round(max(took for took, _ in during), 2),
        "p99_after_1.5_s": round(steady_state[int(len(steady_state) * 0.99)], 3),
        "last_failure_after_thaw_s": round(good_again[-1] - 7, 2) if good_again else 0.0,
    }


def send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


async def measure(name: str, hosts: Sequence[str], port: int, pids: Sequence[int], seconds: float) -> dict[str, Any]:
    before = resident_mb()
    driver = DRIVERS[name]()
    await driver.open(hosts, port)
    small, large = b"x" * 100, os.urandom(2048) + bytes(2048)
    turns = [0] * 64
    leases = os.getpid() * 64
    for key in range(64):
        await driver.write(FIRST, [leases + key, 0])

    async def swap(number: int) -> None:
        key = number % 64
        turn, turns[key] = turns[key], turns[key] + 1
        await driver.swap([turn + 1, leases + key, turn])

    base = os.getpid() % 1000 * 100_000
    rows: dict[str, tuple[int, Callable[[int], Awaitable[None]]]] = {
        "small": (UNDER_WAY, lambda n: driver.write(INSERT, [base + n % 5000, n, small])),
        "4 KB": (UNDER_WAY, lambda n: driver.write(INSERT, [base + n % 5000, n, large])),
        "batch of 50": (4, lambda n: driver.batch([[base + n % 500, n * BATCH_ROWS + i, small] for i in range(50)])),
        "LWT": (LWT_UNDER_WAY, swap),
    }
    found: dict[str, Any] = {"driver": name}
    for what, (count, operation) in rows.items():
        await steady(count, 1.0, operation)
        found[what] = await steady(count, seconds, operation)
    found["rss_mb_added"] = resident_mb() - before
    if len(pids) > 1:
        found["one frozen"] = await frozen(driver, pids[:1], small)
    await asyncio.sleep(3)
    found["all frozen"] = await frozen(driver, pids, small)
    with contextlib.suppress(Exception):
        await asyncio.wait_for(driver.close(), 10)
    return found


async def all_of_them(names: Sequence[str], nodes: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), parts(Path(".parts")), {"dc1": nodes}, clock=SystemClock(), heap_mb=384)
        try:
            await cluster.start()
            for cql in TABLES:
                await cluster.nodes[0].rows(cql.replace("%d", str(min(3, nodes))), timeout_s=30)
                await cluster.agreed()
            for name in names:
                if importlib.util.find_spec(NEEDS[name]) is None:
                    print(f"{name}: not installed")
                    continue
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, __file__, "--one", name, "--seconds", str(seconds)),
                    env={
                        **os.environ,
                        "BENCH_NODES": ",".join(node.address for node in cluster.nodes),
                        "BENCH_PIDS": ",".join(str(node.pid) for node in cluster.nodes),
                    },
                )
                await process.wait()
                for node in cluster.nodes:
                    node.resume()
        finally:
            cluster.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("drivers", nargs="*")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--one")
    arguments = parser.parse_args()
    if arguments.one is None:
        asyncio.run(all_of_them(arguments.drivers or list(DRIVERS), arguments.nodes, arguments.seconds))
        return
    nodes = os.environ["BENCH_NODES"].split(",")
    hosts = [node.rpartition(":")[0] for node in nodes]
    pids = [int(pid) for pid in os.environ["BENCH_PIDS"].split(",")]
    found = uvloop.run(measure(arguments.one, hosts, int(nodes[0].rpartition(":")[2]), pids, arguments.seconds))
    print(json.dumps(found, indent=1))
    sys.stdout.flush()
    os._exit(0)  # a driver's own threads may outlive it


if __name__ == "__main__":
    main()
