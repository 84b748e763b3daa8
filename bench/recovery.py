"""Recovery: a node with a million queued recipients is started; how long until the first delivery, how much memory.

usage: recovery.py [--recipients 1000000] [--per-message 1]

The queue is filled through the store itself, two shards as two workers leave them, everything due. Then `pigeonry
serve` is started with a sink, and timed from the start of its process to the first message in the sink; memory is the
largest worker's, sampled while it goes on delivering.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

import uvloop
from parts import PIGEONRY, Group, Sink, free_port, pigeonry_json, started, until

from pigeonry.domain.event import Accepted, Envelope, EventMessage, MessageHeaders, Storage, encode_event
from pigeonry.domain.message import Accept, Message, NewRecipient
from pigeonry.net.disk import LocalDisk
from pigeonry.net.environment import SystemClock
from pigeonry.net.lanes import ThreadLanes
from pigeonry.stores.sqlite.queue_store import SqliteStore

BAR_S, BAR_MIB = 3.0, 300.0
WORKERS = 2
IN_FLIGHT = 2000
SAMPLED_S = 5.0
CONFIG = """
[node]
data = "{folder}/data"
hostname = "node.bench.test"
workers = 2
drain_grace_s = 0.0
[http]
listen = []
[smtp]
listen = ["127.0.0.1:{smtp}"]
[delivery]
route = "smtp://127.0.0.1:{sink}"
[ops]
listen = []
"""
BODY = b"From: <a@sender.test>\r\nSubject: queued\r\n\r\n" + b"a line of text that waits\r\n" * 36


def accept(store: SqliteStore, number: int, recipients: int, now: float) -> Accept:
    """One queued message."""
    key = store.allocate(recipients)
    summary = EventMessage(MessageHeaders(f"{number}@sender.test", "a@sender.test", "", "queued"), len(BODY))
    addresses = [f"r{number}x{index}@dest.test" for index in range(recipients)]
    events = tuple(
        encode_event(
            Accepted(
                id=f"{number}-{index}".ljust(22, "0"),
                timestamp=now,
                domain="sender.test",
                account="relay",
                message=summary,
                recipient=address,
                recipient_domain="dest.test",
                envelope=Envelope("smtp", "a@sender.test", address),
                storage=Storage(key.text()),
                method="smtp",
            )
        )
        for index, address in enumerate(addresses)
    )
    message = Message(key, "relay", "sender.test", "a@sender.test", summary, now, now + 86_400.0, method="smtp")
    return Accept(message, BODY, tuple(NewRecipient(address, now) for address in addresses), events)


async def fill(data: str, *, recipients: int, per_message: int) -> None:
    """Queue them, half in each worker's shard."""
    clock = SystemClock()
    for slot in range(WORKERS):
        store = SqliteStore(
            data, slot=slot, slots=WORKERS, disk=LocalDisk(data), lanes=ThreadLanes(), clock=clock, shards=32
        )
        await store.open()
        running = asyncio.ensure_future(store.run())
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def put(number: int, store: SqliteStore = store, gate: asyncio.Semaphore = gate) -> None:
            async with gate:
                work = accept(store, number, per_message, clock.now())
                await store.commit(work, deadline=clock.monotonic() + 60.0)

        share = recipients // per_message // WORKERS
        for begin in range(0, share, 20_000):
            await asyncio.gather(*(put(number) for number in range(begin, min(begin + 20_000, share))))
        await store.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def largest_mib(group: Group) -> float:
    """Resident memory of the largest process, MiB."""
    sizes = [0.0]
    for pid in group.pids():
        try:
            sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20)
        except OSError:
            continue
    return max(sizes)


def main() -> None:
    """Fill, start, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=1_000_000)
    parser.add_argument("--per-message", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pigeonry-recovery-") as name:
        folder = Path(name)
        sink, group = Sink(), Group("recovery")
        config = folder / "pigeonry.toml"
        config.write_text(CONFIG.format(folder=folder, smtp=free_port(), sink=sink.port))
        pigeonry_json(config, "domain", "list")
        begun = time.perf_counter()
        uvloop.run(fill(f"{folder}/data", recipients=options.recipients, per_message=options.per_message))
        print(f"queued {options.recipients} recipients in {time.perf_counter() - begun:.0f} s", flush=True)
        os.sync()
        begun = time.monotonic()
        server = started([str(PIGEONRY), "serve", "--config", str(config)], group, folder / "serve.log")
        until(lambda: sink.count > 0, "the first delivery", 120.0)
        first = sink.last_at - begun if sink.count < 100 else time.monotonic() - begun
        peak, end = 0.0, time.monotonic() + SAMPLED_S
        while time.monotonic() < end:
            peak = max(peak, largest_mib(group))
            time.sleep(0.1)
        print(f"first delivery after {first:.2f} s (bar {BAR_S:.0f} s)")
        print(f"largest worker {peak:.0f} MiB (bar {BAR_MIB:.0f} MiB)")
        print(f"delivered meanwhile: {sink.count}")
        server.terminate()
        server.wait(60)
        group.end()
        sink.stop()


if __name__ == "__main__":
    main()
