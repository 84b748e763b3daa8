"""One node: its configuration, its process, and ways to hurt it."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from pigeonry.ports.environment import Clock
from pigeonry.testing.cassandra import launch, wire
from pigeonry.testing.cassandra.parts import Parts

__all__ = ["CommitLog", "Node", "NodeFailed", "Ring", "Seat"]

READY_S_MAX: Final = 180.0  # seconds; a start takes 3 on an idle machine, tens of seconds on a crowded one
END_S_MAX: Final = 60.0  # seconds for an orderly end, which flushes all tables
PROBE_S: Final = 0.05  # seconds between two questions whether it is ready
ANSWER_S_MAX: Final = 1.0  # seconds for the answer to one such question

# What Cassandra 5.0 asks of the module system of JDK 17, from its own jvm17-server.options.
EXPORTED: Final = (
    "java.base/jdk.internal.misc java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry "
    "java.rmi/sun.rmi.server java.sql/java.sql java.base/java.lang.ref jdk.unsupported/sun.misc "
    "jdk.compiler/com.sun.tools.javac.file jdk.attach/sun.tools.attach"
)
OPENED: Final = (
    "java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref "
    "java.base/jdk.internal.reflect java.base/jdk.internal.math java.base/jdk.internal.module "
    "java.base/jdk.internal.util.jar jdk.management/com.sun.management.internal java.base/sun.nio.ch java.base/java.io "
    "java.base/java.nio java.base/java.lang.reflect jdk.compiler/com.sun.tools.javac java.base/java.lang "
    "java.base/java.util java.base/java.util.concurrent java.base/java.util.concurrent.atomic"
)

LOGBACK: Final = """<configuration><appender name="file" class="ch.qos.logback.core.FileAppender"><file>{log}</file>
<encoder><pattern>%-5level [%thread] %date{{ISO8601}} %F:%L - %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="file"/></root></configuration>
"""


class CommitLog(enum.Enum):
    """When a node says that a write is stored.

    Each is what the node alone promises; with more replicas a write also stands on each of the others.
    """

    PERIODIC = "periodic"
    """Once it is in the log's buffer. Synced every 10 s: what the machine had not synced is lost with its power, and
    nothing with the process alone."""
    GROUP = "group"
    """Once it is synced, together with what came within 5 ms."""
    BATCH = "batch"
    """Once it is synced."""

    def settings(self) -> dict[str, object]:
        """As cassandra.yaml has it."""
        window = {
            CommitLog.PERIODIC: {"commitlog_sync_period": "10000ms"},
            CommitLog.GROUP: {"commitlog_sync_group_window": "5ms"},
            CommitLog.BATCH: {},
        }
        return {"commitlog_sync": self.value, **window[self]}


class NodeFailed(Exception):
    """A node did not come up or went away; the text is a sentence with the end of its log."""


class Seat(msgspec.Struct, frozen=True):
    """A node's place in the ring."""

    number: int
    location: str
    address: str
    token: int


class Ring(msgspec.Struct, frozen=True):
    """What the nodes of a cluster have in common.

    Args:
        heap_mb: Heap of each node, in MiB.
        settings: Added to cassandra.yaml, or put in place of what stands there.
        jvm_options: Added to the command line of the JVM.
    """

    seats: tuple[Seat, ...]
    seeds: tuple[str, ...]
    cql_port: int
    storage_port: int
    heap_mb: int
    commit_log: CommitLog
    settings: Mapping[str, object]
    jvm_options: Sequence[str]


class Node:
    """One node of the cluster. Its files are in a folder of its own and survive whatever happens to the process."""

    def __init__(self, folder: Path, parts: Parts, ring: Ring, seat: Seat, *, clock: Clock) -> None:
        self._folder = folder
        self._parts = parts
        self._ring = ring
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self.seat = seat

    @property
    def address(self) -> str:
        """Where CQL is spoken, ``host:port``."""
        return f"{self.seat.address}:{self._ring.cql_port}"

    @property
    def pid(self) -> int | None:
        """Its process; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def spawn(self) -> None:
        """Start the process. It ends with the calling thread, so start nodes from one that lives as long as they."""
        assert self.pid is None, "it runs already"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._configure()
        with (self._folder / "out.log").open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._folder,
                start_new_session=True,
            )

    async def ready(self, *, timeout_s: float = READY_S_MAX) -> None:
        """Return when it speaks CQL.

        Raises:
            NodeFailed: It ended, or took too long.
        """
        give_up = self._clock.monotonic() + timeout_s
        while not await wire.is_ready(self.seat.address, self._ring.cql_port, timeout_s=ANSWER_S_MAX):
            if self.pid is None:
                raise NodeFailed(f"node {self.seat.number} ended:\n{self._tail()}")
            if self._clock.monotonic() > give_up:
                raise NodeFailed(f"node {self.seat.number} not ready within {timeout_s:.0f} s:\n{self._tail()}")
            await self._clock.sleep(PROBE_S)

    async def start(self) -> None:
        """Start it and wait until it speaks CQL."""
        self.spawn()
        await self.ready()

    async def rows(
        self, cql: str, *, timeout_s: float = 10.0, consistency: int = wire.ONE
    ) -> list[tuple[bytes | None, ...]]:
        """Ask this node, without a driver; see ``wire.rows``."""
        return await wire.rows(
            self.seat.address, self._ring.cql_port, cql, timeout_s=timeout_s, consistency=consistency
        )

    def kill(self) -> None:
        """End it as kill -9 does; gone when this returns."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    async def end(self) -> None:
        """End it in order: what it has is flushed.

        Raises:
            NodeFailed: It took too long.
        """
        self._signal(signal.SIGTERM)
        give_up = self._clock.monotonic() + END_S_MAX
        while self.pid is not None:
            if self._clock.monotonic() > give_up:
                raise NodeFailed(f"node {self.seat.number} did not end within {END_S_MAX:.0f} s:\n{self._tail()}")
            await self._clock.sleep(PROBE_S)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _tail(self, octets: int = 3000) -> str:
        logs = (self._folder / name for name in ("out.log", "system.log"))
        return "\n".join(log.read_text(errors="replace")[-octets:] for log in logs if log.exists())

    def _configure(self) -> None:
        ring, seat, folder = self._ring, self.seat, self._folder
        settings = {
            "cluster_name": "pigeonry test",
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "num_tokens": 1,
            "initial_token": str(seat.token),
            "auto_bootstrap": False,  # there is nothing to stream, and it would wait for it
            "default_keyspace_rf": len(ring.seats),  # so that a read of the roles at ALL needs every node
            "endpoint_snitch": "GossipingPropertyFileSnitch",
            "seed_provider": [
                {
                    "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                    "parameters": [{"seeds": ",".join(f"{seed}:{ring.storage_port}" for seed in ring.seeds)}],
                }
            ],
            "listen_address": seat.address,
            "rpc_address": seat.address,
            "storage_port": ring.storage_port,
            "native_transport_port": ring.cql_port,
            "data_file_directories": [str(folder / "data")],
            "commitlog_directory": str(folder / "commitlog"),
            "saved_caches_directory": str(folder / "caches"),
            "hints_directory": str(folder / "hints"),
            "cdc_raw_directory": str(folder / "cdc"),
            **ring.commit_log.settings(),
            "commitlog_segment_size": "16MiB",
            "commitlog_total_space": "256MiB",
            "auto_snapshot": False,  # TRUNCATE and DROP of tests would fill the disk
            "authenticator": "AllowAllAuthenticator",
            "authorizer": "AllowAllAuthorizer",
            "concurrent_reads": 16,
            "concurrent_writes": 64,  # with a synced commit log each waits for the disk
            "concurrent_counter_writes": 4,
            "concurrent_compactors": 1,
            "memtable_flush_writers": 1,
            "memtable_allocation_type": "offheap_objects",
            "memtable_heap_space": "32MiB",
            "memtable_offheap_space": "32MiB",
            "memtable": {"configurations": {"default": {"class_name": "TrieMemtable"}}},
            "sstable": {"selected_format": "bti"},
            "storage_compatibility_mode": "NONE",
            "file_cache_size": "32MiB",
            "networking_cache_size": "16MiB",
            "key_cache_size": "4MiB",
            "counter_cache_size": "2MiB",
            "row_cache_size": "0MiB",
            "hints_flush_period": "1s",
            **ring.settings,
        }
        (folder / "cassandra.yaml").write_text(json.dumps(settings, indent=1))  # JSON is YAML
        (folder / "rackdc.properties").write_text(f"dc={seat.location}\nrack=r1\n")
        (folder / "logback.xml").write_text(LOGBACK.format(log=folder / "system.log"))

    def _command(self) -> list[str]:
        ring, folder = self._ring, self._folder
        modules = [f"--add-exports={name}=ALL-UNNAMED" for name in EXPORTED.split()]
        modules += [f"--add-opens={name}=ALL-UNNAMED" for name in OPENED.split()]
        archive = [f"-XX:SharedArchiveFile={self._parts.archive}"] if self._parts.archive.exists() else []
        return [
            str(self._parts.java),
            f"-Xms{min(ring.heap_mb, 128)}m",
            f"-Xmx{ring.heap_mb}m",
            "-Xss384k",
            "-XX:+UseSerialGC",  # one thread: nodes share few cores
            "-XX:TieredStopAtLevel=1",  # the second compiler would spend more on so short a life than it saves
            "-XX:MaxDirectMemorySize=128m",
            "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            *archive,
            "-Xlog:cds=off",
            "-Xlog:cds+dynamic=off",
            *modules,
            "-Djava.net.preferIPv4Stack=true",
            "-Djdk.attach.allowAttachSelf=true",
            "-Dio.netty.tryReflectionSetAccessible=true",
            "-Dio.netty.eventLoopThreads=2",
            f"-Djava.io.tmpdir={folder}",
            f"-Dcassandra.storagedir={folder}",
            f"-Dcassandra.config=file://{folder}/cassandra.yaml",
            f"-Dcassandra-rackdc.properties=file://{folder}/rackdc.properties",
            f"-Dlogback.configurationFile=file://{folder}/logback.xml",
            "-Dcassandra-foreground=yes",
            "-Dcassandra.available_processors=2",
            # What a real ring waits for in case of news from far away; here all is near.
            "-Dcassandra.ring_delay_ms=2000",
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-Dcassandra.consistent.rangemovement=false",
            "-Dcassandra.consistent.simultaneousmoves.allow=true",
            *ring.jvm_options,
            "-cp",
            ":".join(str(jar) for jar in self._parts.jars),
            "org.apache.cassandra.service.CassandraDaemon",
        ]
