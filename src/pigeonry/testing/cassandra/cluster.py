"""A ring of nodes in one or more locations."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pigeonry.ports.environment import Clock
from pigeonry.testing.cassandra import wire
from pigeonry.testing.cassandra.node import CommitLog, Node, NodeFailed, Ring, Seat
from pigeonry.testing.cassandra.parts import Parts

__all__ = ["Cluster"]

FORMED_S_MAX: Final = 120.0  # seconds until all nodes know all others; a few seconds are usual
PROBE_S: Final = 0.1  # seconds between two looks
PORTS: Final = range(20_000, 32_000)  # below the ephemeral ports of Linux: no outgoing connection takes one meanwhile
HEAP_MB: Final = 192  # MiB; a table takes one, so it is enough for a hundred beside Cassandra's own
TOKENS: Final = 2**64  # of the Murmur3 partitioner


class Cluster:
    """Nodes, each on a loopback address of its own.

    All speak CQL on the same port, as drivers expect of nodes that they hear of from other nodes.

    Args:
        folder: For the files of all nodes.
        locations: Nodes by location (data centre), ``{"dc1": 3, "dc2": 3, "witness": 1}``.
        commit_log: When a node says that a write is stored.
        heap_mb: Of each node, in MiB. Every table takes one.
        settings: Added to the cassandra.yaml of every node.
        jvm_options: Added to the command line of every JVM.
    """

    def __init__(
        self,
        folder: Path,
        parts: Parts,
        locations: Mapping[str, int],
        *,
        clock: Clock,
        commit_log: CommitLog = CommitLog.PERIODIC,
        heap_mb: int = HEAP_MB,
        settings: Mapping[str, object] | None = None,
        jvm_options: Sequence[str] = (),
    ) -> None:
        self._clock = clock
        folder = folder.resolve()
        seats = tuple(_seats(locations))
        cql_port, storage_port = _free_ports([seat.address for seat in seats], 2)
        firsts = {seat.location: seat.address for seat in reversed(seats)}
        ring = Ring(
            seats=seats,
            seeds=tuple(firsts[location] for location in locations if location in firsts),
            cql_port=cql_port,
            storage_port=storage_port,
            heap_mb=heap_mb,
            commit_log=commit_log,
            settings=settings or {},
            jvm_options=jvm_options,
        )
        self.nodes = tuple(Node(folder / f"node{seat.number}", parts, ring, seat, clock=clock) for seat in seats)

    def contact_points(self, location: str | None = None) -> tuple[str, ...]:
        """Where CQL is spoken, each ``host:port``; of one location, or of all."""
        return tuple(node.address for node in self.nodes if location in (None, node.seat.location))

    async def start(self) -> None:
        """Start all nodes and wait until they are one ring. Call it from a thread that lives as long as the cluster.

        Raises:
            NodeFailed: A node did not come up, or the ring did not form.
        """
        first, *others = self.nodes
        await first.start()  # alone: two seeds that both find nobody would make two rings
        for node in others:
            node.spawn()
        for node in others:
            await node.ready()
        await self.formed()

    async def formed(self) -> None:
        """Return when every node knows every other as up, and all have one schema.

        Raises:
            NodeFailed: Not in time.
        """
        give_up = self._clock.monotonic() + FORMED_S_MAX
        for node in self.nodes:
            while (missing := await self._missing(node)) is not None:
                if self._clock.monotonic() > give_up:
                    raise NodeFailed(f"node {node.seat.number}: {missing}")
                await self._clock.sleep(PROBE_S)
        await self.agreed()

    async def agreed(self) -> None:
        """Return when all running nodes have the same schema; before, a statement may meet a table that is not there.

        Raises:
            NodeFailed: Not in time.
        """
        give_up = self._clock.monotonic() + FORMED_S_MAX
        while True:
            running = [node for node in self.nodes if node.pid is not None]
            versions = {tuple(await node.rows("SELECT schema_version FROM system.local")) for node in running}
            if len(versions) <= 1:
                return
            if self._clock.monotonic() > give_up:
                raise NodeFailed(f"{len(versions)} schemas among {len(running)} nodes")
            await self._clock.sleep(PROBE_S)

    def stop(self) -> None:
        """Kill what runs, frozen or not; nothing is left when this returns."""
        for node in self.nodes:
            node.kill()

    async def _missing(self, node: Node) -> str | None:
        """What the node lacks to be part of the ring: peers, or an answer of all of them."""
        try:
            peers = await node.rows("SELECT peer FROM system.peers_v2")
            if len(peers) < len(self.nodes) - 1:
                return f"knows {len(peers)} others"
            # Roles are replicated to every node, so this is answered only when all are up for this one.
            await node.rows("SELECT role FROM system_auth.roles WHERE role = 'x'", consistency=wire.ALL)
        except (OSError, wire.Refused) as error:
            return str(error)
        return None


def _seats(locations: Mapping[str, int]) -> Iterator[Seat]:
    """Tokens are spread evenly over each location; those of the next are moved by a little, for each must be its own.

    Addresses are 127.x.y.1 and up; x and y come from this process's id, so that clusters of two processes do not meet.
    """
    network = f"127.{1 + os.getpid() // 250 % 250}.{os.getpid() % 250}"
    number = 0
    for shift, (location, count) in enumerate(locations.items()):
        for index in range(count):
            number += 1
            token = -TOKENS // 2 + TOKENS // count * index + 1000 * shift + 1
            yield Seat(number=number, location=location, address=f"{network}.{number}", token=token)


def _free_ports(addresses: Sequence[str], count: int) -> list[int]:
    """Ports that nobody listens on at any of these addresses."""
    start = os.getpid() * 97 % len(PORTS)
    found: list[int] = []
    for port in (*PORTS[start:], *PORTS[:start]):
        if all(_is_free(address, port) for address in addresses):
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no port is free")


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
