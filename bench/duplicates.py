"""Idempotency keys over nodes that die: each key three times at once, at both nodes, until each has its answer.

usage: duplicates.py [--keys 10000] [--kills 6] [--at-once 24] [--store FILE]

Two nodes with one worker each share a queue on Cassandra, one of its own unless ``--store`` names a file with the
sections of a configuration that say where one is. Every key is posted three times at the same time, to both nodes in
turn, each again and again until it is answered with 200, while a node is killed with SIGKILL and started again. Nothing
is delivered, so that in the end the queue itself can be counted: every key has exactly one message, and all answers to
it are the same.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.parse
from collections import Counter
from pathlib import Path

from clustered import cassandra, store_of
from parts import PIGEONRY, free_port, greets, pigeonry_json, until

from pigeonry.net.environment import SystemClock
from pigeonry.stores.cassandra.checkpoints import Checkpoints
from pigeonry.stores.cassandra.journal import Journal
from pigeonry.stores.cassandra.records import Records
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.stores.cassandra.takeover import take_over

DOMAIN = "keys.test"
DUPLICATES = 3
PATIENCE_S = 240.0  # for one key: four times as long as a door that died may hold it
PAUSE_S = 0.25  # before another try; a door says 1 s, but who duplicates a request is in a hurry
REQUEST_S = 30.0
TIMEOUT_S = 10.0
CONFIG = """
[node]
name = "{name}"
data = "{folder}/data"
hostname = "{name}.keys.test"
workers = 1
drain_grace_s = 0.0
[http]
listen = ["127.0.0.1:{http}"]
[smtp]
listen = ["127.0.0.1:{smtp}"]
[delivery]
route = "smtp://127.0.0.1:1"
retry_base_s = 3600.0
[ops]
listen = []
{store}
"""


class Node:
    """One node, which may be killed and started again."""

    def __init__(self, folder: Path, store: str) -> None:
        folder.mkdir()
        self.http, self._smtp = free_port(), free_port()
        self.config = folder / "pigeonry.toml"
        self.config.write_text(
            CONFIG.format(name=folder.name, folder=folder, http=self.http, smtp=self._smtp, store=store)
        )
        self._log = (folder / "serve.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns before it serves."""
        command = [str(PIGEONRY), "serve", "--config", str(self.config)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)

    def serves(self) -> bool:
        """Whether it does."""
        return greets(self._smtp)

    def kill(self) -> None:
        """End all of its processes at once."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)
        self._log.close()


class Client:
    """Posts one duplicate of a key, and again, until it is answered with 200."""

    def __init__(self, nodes: list[Node], auth: str, statuses: Counter[int]) -> None:
        self._nodes = nodes
        self._auth = auth
        self._statuses = statuses

    async def answered(self, number: int, turn: int) -> str:
        """The id of the message."""
        fields = {"from": f"a@{DOMAIN}", "to": f"k{number}@dest.test", "subject": "x", "text": f"text {number}"}
        body = urllib.parse.urlencode(fields)
        head = (
            f"POST /v3/{DOMAIN}/messages HTTP/1.1\r\nHost: api\r\nAuthorization: Basic {self._auth}\r\n"
            f"Idempotency-Key: key-{number}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            node, turn = self._nodes[turn % len(self._nodes)], turn + 1
            status, answer = 0, b""
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                status, answer = await _posted(node.http, (head + body).encode())
            self._statuses[status] += 1
            if status == 200:
                return str(json.loads(answer)["id"])
            if status not in (0, 409, 503):
                raise SystemExit(f"key {number}: {status} {answer!r}")
            await asyncio.sleep(PAUSE_S * random.uniform(0.5, 1.5))
        raise SystemExit(f"key {number}: no answer within {PATIENCE_S:.0f} s; {dict(self._statuses)}")


async def _posted(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and body of an answer.

    Raises:
        OSError, ValueError, TimeoutError: There was none, or only a part of it.
    """
    async with asyncio.timeout(REQUEST_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
    return int(head.split()[1]) if head else 0, body


async def post_all(
    nodes: list[Node], auth: str, options: argparse.Namespace
) -> tuple[dict[int, set[str]], Counter[int]]:
    """Post all keys, and kill meanwhile; which answers each key got, and all statuses."""
    statuses: Counter[int] = Counter()
    client, places = Client(nodes, auth, statuses), asyncio.Semaphore(options.at_once)
    answers: dict[int, set[str]] = {}

    async def key(number: int) -> None:
        async with places:
            ids = await asyncio.gather(*(client.answered(number, number + each) for each in range(DUPLICATES)))
        answers[number] = set(ids)

    async def kills() -> None:
        for kill in range(options.kills):
            while len(answers) < options.keys * (kill + 1) // (options.kills + 2):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # nobody tells
            node = nodes[kill % len(nodes)]
            while not all(each.serves() for each in nodes):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            await asyncio.to_thread(node.kill)
            node.start()
            print(f"killed {node.config.parent.name} after {len(answers)} keys", file=sys.stderr, flush=True)

    await asyncio.gather(kills(), *(key(number) for number in range(options.keys)))
    return answers, statuses


async def queued(points: tuple[str, ...], keyspace: str) -> Counter[str]:
    """Recipients in the queue, read as a new owner reads them; nobody serves it any more."""
    clock = SystemClock()
    session = await _session(points, keyspace)
    leases = await _session(points, f"{keyspace}_lease")
    found: Counter[str] = Counter()
    try:
        for number, epoch in await leases.execute("SELECT number, epoch FROM shard", timeout_s=TIMEOUT_S):
            if number < 0:
                continue  # it says how many there are
            taken = await take_over(
                number,
                epoch=epoch + 1,
                journal=Journal(session, kept_s=86_400.0, timeout_s=TIMEOUT_S),
                checkpoints=Checkpoints(session, clock=clock, kept_s=86_400.0, timeout_s=TIMEOUT_S),
                records=Records(session, kept_s=86_400.0, timeout_s=TIMEOUT_S),
                voids=(),
                clock=clock,
                in_doubt_delay_s=0.0,
            )
            waiting = taken.shard.waiting
            found.update(each.address for serial in waiting.serials() if (each := waiting.get(serial)) is not None)
    finally:
        await session.close()
        await leases.close()
    return found


async def _session(points: tuple[str, ...], keyspace: str) -> Session:
    settings = CassandraSettings(contact_points=points, local_datacenter="dc1", keyspace=keyspace)
    return await Session.open(settings, SystemClock())


def run(store: str, options: argparse.Namespace) -> bool:
    """Post, kill, count; whether each key has one message."""
    section = tomllib.loads(store)["cassandra"]
    with tempfile.TemporaryDirectory(prefix="pigeonry-duplicates-") as name:
        nodes = [Node(Path(name, each), store) for each in ("one", "two")]
        first = nodes[0].config
        pigeonry_json(first, "migrate")
        pigeonry_json(first, "domain", "add", DOMAIN)
        api_key = pigeonry_json(first, "key", "create", "--domain", DOMAIN)["key"]
        seal = Path(name, "two", "data.seal-key")
        seal.write_bytes(Path(name, "one", "data.seal-key").read_bytes())
        seal.chmod(0o600)
        begun = time.monotonic()
        try:
            for node in nodes:
                node.start()
            until(lambda: all(node.serves() for node in nodes), "both nodes greet", 90.0)
            auth = base64.b64encode(f"api:{api_key}".encode()).decode()
            answers, statuses = asyncio.run(post_all(nodes, auth, options))
        finally:
            for node in nodes:
                node.stop()
        found = asyncio.run(queued(tuple(section["contact_points"]), section["keyspace"]))
    wanted = Counter({f"k{number}@dest.test": 1 for number in range(options.keys)})
    several = sum(len(ids) != 1 for ids in answers.values())
    figures = {
        "keys": options.keys,
        "answers": dict(sorted(statuses.items())),
        "kills": options.kills,
        "messages": found.total(),
        "keys_without_a_message": len(wanted - found),
        "messages_too_many": (found - wanted).total(),
        "keys_with_different_answers": several,
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps(figures), flush=True)
    return found == wanted and not several


def main() -> None:
    """Run; status 1 when a key has no message, or several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        store = options.store.read_text() if options.store else store_of(stack.enter_context(cassandra()))
        sys.exit(not run(store, options))


if __name__ == "__main__":
    main()
