"""A takeover: a node that owns half of a long queue is killed; how long until the other one serves all of its shards.

usage: takeover.py [--history 5000000] [--pending 100000] [--tail 19000]

The queue of a cluster of two nodes with one worker each, on one Cassandra node, is filled with the product's own
parts, group by group: ``history`` events of recipients that ended, in journals that are kept; ``pending`` recipients
for each of the two nodes; a checkpoint for each shard; and ``tail`` events behind that, which is nearly what an owner
may leave before it writes the next one. Then one node is killed with SIGKILL. Timed is from the kill until every shard
is served by the other, and how long the survivor took at most to greet an SMTP client meanwhile.

What a recipient that waits takes of memory is measured with the same parts, for a million of them in one shard.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

import uvloop
from clustered import cassandra, store_of
from parts import PIGEONRY, Group, Sink, free_port, greets, pigeonry_json, started, until

from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import Accept, Message, MessageKey, NewRecipient, Pending
from pigeonry.net.environment import SystemClock, SystemIds
from pigeonry.stores.cassandra import entries
from pigeonry.stores.cassandra.checkpoints import Checkpoints
from pigeonry.stores.cassandra.entries import Accepted, Entry, Settled
from pigeonry.stores.cassandra.journal import Journal
from pigeonry.stores.cassandra.membership import Membership
from pigeonry.stores.cassandra.messages import Messages
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.stores.cassandra.shard import Shard
from pigeonry.stores.cassandra.shares import Shares
from pigeonry.stores.cassandra.waiting import Waiting
from pigeonry.testing.cassandra import Cluster

BAR_S, BAR_MIB, BAR_SILENT_S = 15.0, 300.0, 1.0
SHARDS = 16
KEPT_S = 86_400.0
TIMEOUT_S = 30.0
PER_MESSAGE = 50  # recipients
PER_GROUP = 10  # messages
GROUPS_AT_ONCE = 4  # of a shard: in a bulk load each has its number before it is written
HEAP_MB = 1024
EVENT = b'{"event":"delivered","id":"0123456789abcdefghijkl"}'  # of the history, of which none is read
TAIL_EVENT = EVENT.ljust(450, b" ")  # as long as they are
BODY = b"From: <a@sender.test>\r\nSubject: queued\r\n\r\n" + b"a line of text that waits\r\n" * 36
CONFIG = """
[node]
name = "{name}"
data = "{folder}/data"
hostname = "{name}.bench.test"
workers = 1
shards = {shards}
drain_grace_s = 0.0
[http]
listen = []
[smtp]
listen = ["127.0.0.1:{smtp}"]
[delivery]
route = "smtp://127.0.0.1:{sink}"
[ops]
listen = []
{store}
"""


class Filler:
    """Fills one shard as its first owner would have."""

    def __init__(self, session: Session, number: int, epoch: int) -> None:
        self.shard = Shard(number, epoch=epoch)
        self._journal = Journal(session, kept_s=KEPT_S, timeout_s=TIMEOUT_S)
        self._messages = Messages(session, kept_s=KEPT_S, timeout_s=TIMEOUT_S)
        self._checkpoints = Checkpoints(session, clock=SystemClock(), kept_s=KEPT_S, timeout_s=TIMEOUT_S)
        self._writing: set[asyncio.Task[None]] = set()

    async def ended(self, events: int, event: bytes) -> None:
        """Messages that were accepted and delivered, with so many events in all."""
        for _ in range(0, events, 2 * PER_MESSAGE * PER_GROUP):
            accepted = [self._accepted(event, due=1.0) for _ in range(PER_GROUP)]
            await self._group(accepted)
            await self._group([each for entry in accepted for each in _settled(entry, event)])
        await self._level()

    async def pending(self, recipients: int, due: float) -> None:
        """Messages that wait, with their bodies."""
        summary = EventMessage(MessageHeaders("queued@sender.test", "a@sender.test", "", "queued"), len(BODY))
        for _ in range(0, recipients, PER_MESSAGE):
            entry = self._accepted(TAIL_EVENT, due=due)
            key = MessageKey(self.shard.number, entry.day, entry.serial)
            message = Message(key, "relay", "sender.test", "a@sender.test", summary, 1.0, entry.expires_at)
            to = tuple(NewRecipient(address, at) for address, at in entry.recipients)
            await self._messages.keep(Accept(message, BODY, to, entry.events))
            await self._group([entry])
        await self._level()

    async def checkpoint(self) -> None:
        """As an owner writes it."""
        head = await self._checkpoints.write_parts(self.shard, self._checkpoints.begin(self.shard))
        await self._checkpoints.write_head(self.shard.number, head)

    def _accepted(self, event: bytes, *, due: float) -> Accepted:
        key = self.shard.allocate(PER_MESSAGE, day=1)
        to = tuple((f"recipient{key.serial + index}@dest.test", due) for index in range(PER_MESSAGE))
        expires_at = time.time() + KEPT_S
        return Accepted(key.serial, key.day, "relay", "sender.test", "", expires_at, to, (event,) * PER_MESSAGE)

    async def _group(self, group: list[Entry] | list[Accepted] | list[Settled]) -> None:
        made = self.shard.begin()
        for entry in group:
            self.shard.fold(entry, made)
        self.shard.close(made)
        octets = entries.encode(list(group))
        if len(self._writing) >= GROUPS_AT_ONCE:
            done, self._writing = await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        row = self._journal.append(self.shard.number, self.shard.epoch, made.number, made.seq, octets)
        self._writing.add(asyncio.ensure_future(row))

    async def _level(self) -> None:
        await asyncio.gather(*self._writing)
        self._writing.clear()


def _settled(entry: Accepted, event: bytes) -> list[Settled]:
    return [Settled(entry.serial + index, entry.serial, 1, 1.0, 1, 1.0, False, event) for index in range(PER_MESSAGE)]


async def fill(cluster: Cluster, keyspace: str, options: argparse.Namespace) -> None:
    """As a first owner of all shards, which left in order."""
    queue, leases = [await open_session(cluster, name) for name in (keyspace, f"{keyspace}_lease")]
    clock = SystemClock()
    member = Membership(leases, worker="filler/0", location="dc1", address="", ttl_s=60.0, clock=clock, ids=SystemIds())
    shares = Shares(leases, member, timeout_s=TIMEOUT_S)
    await member.join()
    await shares.make(SHARDS)
    due = time.time() + 3_600.0

    async def one(number: int, epoch: int) -> None:
        filler = Filler(queue, number, epoch)
        await filler.ended(options.history // SHARDS, EVENT)
        await filler.pending(2 * options.pending // SHARDS, due)
        await filler.checkpoint()
        await filler.ended(options.tail, TAIL_EVENT)
        await shares.release(number, epoch=epoch)

    for row in await shares.read():
        epoch = await shares.take(row)
        assert epoch is not None
        await one(row.number, epoch)
        print(f"filled shard {row.number}", file=sys.stderr, flush=True)
    await member.leave()
    await queue.close()
    await leases.close()


async def open_session(cluster: Cluster, keyspace: str) -> Session:
    """One with a keyspace."""
    settings = CassandraSettings(contact_points=cluster.contact_points(), local_datacenter="dc1", keyspace=keyspace)
    return await Session.open(settings, SystemClock())


async def served_by(cluster: Cluster, keyspace: str, wanted: dict[str, int], seconds: float) -> float:
    """When, in monotonic time, each of these nodes served so many shards."""
    leases = await open_session(cluster, f"{keyspace}_lease")
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rows = await leases.execute("SELECT owner, serving FROM shard", timeout_s=TIMEOUT_S)
            owners = [owner.partition("/")[0] for owner, serving in rows if serving]
            if all(owners.count(name) == count for name, count in wanted.items()):
                return time.monotonic()
            await asyncio.sleep(0.05)
    finally:
        await leases.close()
    sys.exit(f"not within {seconds:.0f} s: {wanted}; but {sorted(owners)}")


class Greeted:
    """How long an SMTP door took to greet, at most, over and over until it is told to stop."""

    def __init__(self, port: int) -> None:
        self.longest_s = 0.0
        self._port = port
        self._on = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._on:
            begun = time.monotonic()
            with socket.create_connection(("127.0.0.1", self._port), timeout=60.0) as client:
                client.recv(64)
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            time.sleep(0.02)

    def stop(self) -> float:
        """The longest so far, in seconds."""
        self._on = False
        self._thread.join()
        return self.longest_s


def octets_of_waiting(count: int) -> float:
    """Octets of memory for each of so many recipients that wait in one shard."""
    tracemalloc.start()
    waiting = Waiting()
    for serial in range(1 << 40, (1 << 40) + count):
        key = MessageKey(3, 20_000, serial)
        # Strings of its own each, as they are decoded from a group.
        words = [bytes(word).decode() for word in (b"relay-account", b"sender.example.test", b"pool-of-two")]
        waiting.put(
            Pending(key, serial, 20_000, f"recipient{serial % 10**7}@dest.test", 1e9 + serial % 86_400, *words, 1e9)
        )
    taken = tracemalloc.get_traced_memory()[0] / len(waiting)
    tracemalloc.stop()
    return taken


def rss_mib(group: Group) -> float:
    """Resident memory of the largest process of a node, MiB."""
    return max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20 for pid in group.pids())


def main() -> None:
    """Fill, kill, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=int, default=5_000_000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--tail", type=int, default=19_000)
    parser.add_argument("--waiting", type=int, default=1_000_000)
    options = parser.parse_args()
    each = octets_of_waiting(options.waiting)
    print(f"a recipient that waits takes {each:.0f} octets: {each * 1e6 / 2**20:.0f} MiB a million (bar {BAR_MIB:.0f})")
    with cassandra(heap_mb=HEAP_MB) as cluster, tempfile.TemporaryDirectory(prefix="pigeonry-takeover-") as name:
        sink, store = Sink(), store_of(cluster)
        keyspace = store.partition('\nkeyspace = "')[2].partition('"')[0]
        folders, ports = [Path(name, node) for node in ("one", "two")], [free_port(), free_port()]
        for folder, port in zip(folders, ports, strict=True):
            folder.mkdir()
            (folder / "pigeonry.toml").write_text(
                CONFIG.format(name=folder.name, folder=folder, smtp=port, sink=sink.port, shards=SHARDS, store=store)
            )
        pigeonry_json(folders[0] / "pigeonry.toml", "migrate")
        pigeonry_json(folders[0] / "pigeonry.toml", "key", "list")
        (folders[1] / "data.seal-key").write_bytes((folders[0] / "data.seal-key").read_bytes())
        (folders[1] / "data.seal-key").chmod(0o600)
        begun = time.monotonic()
        uvloop.run(fill(cluster, keyspace, options))
        print(f"filled in {time.monotonic() - begun:.0f} s", flush=True)
        groups = [Group(folder.name) for folder in folders]
        servers = []
        for folder, port, group in zip(folders, ports, groups, strict=True):
            command = [str(PIGEONRY), "serve", "--config", str(folder / "pigeonry.toml")]
            servers.append(started(command, group, folder / "serve.log"))
            until(lambda port=port: greets(port), "it greets", 120.0)  # type: ignore[misc]
        try:
            asyncio.run(served_by(cluster, keyspace, {"one": SHARDS // 2, "two": SHARDS // 2}, 120.0))
            time.sleep(1.0)
            before, greeted = rss_mib(groups[1]), Greeted(ports[1])
            killed = time.monotonic()
            for pid in groups[0].pids():
                os.kill(pid, signal.SIGKILL)
            took = asyncio.run(served_by(cluster, keyspace, {"two": SHARDS}, 120.0)) - killed
            silent = greeted.stop()
            after = rss_mib(groups[1])
        finally:
            for server, group in zip(servers, groups, strict=True):
                server.terminate()
                server.wait(60)
                group.end()
            sink.stop()
    figures = {"takeover_s": took, "silent_s": silent, "rss_before_mib": before, "rss_after_mib": after}
    print(json.dumps({figure: round(value, 2) for figure, value in figures.items()}))
    print(f"all shards served {took:.1f} s after the kill (bar {BAR_S:.0f} s)")
    print(f"the survivor greeted within {silent * 1000:.0f} ms meanwhile (bar {BAR_SILENT_S * 1000:.0f} ms)")


if __name__ == "__main__":
    main()
