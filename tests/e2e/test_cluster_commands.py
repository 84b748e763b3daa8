"""Two nodes, each with a data folder, a certificate and a process of its own: commands cross between them, or are refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pigeonry.app import exits
from pigeonry.app.sockets import command_address
from pigeonry.domain.errors import NotFound, NotOwner, OwnerUnreachable
from pigeonry.domain.message import MessageKey
from pigeonry.doors.commands.client import NobodyListens, call
from pigeonry.ports.ownership import Member
from support.clusters import ask, calling, certificates, cut, raw, shown
from support.process import Daemon, free_port, until
from support.serving import Receiver, Serving, serving

ROOT = Path(__file__).parents[2]


class Cluster:
    """The nodes a and b."""

    def __init__(self, folder: Path, receiver: int, more: str) -> None:
        self.folder = folder
        self.certificates = certificates(folder / "certificates", "a", "b")
        ports = {name: free_port() for name in "ab"}
        self.table = [[name, slot, f"127.0.0.1:{ports[name]}"] for slot, name in enumerate("ab")]
        self.nodes: dict[str, Serving] = {}
        for name in "ab":
            (folder / name).mkdir()
            node = self.nodes[name] = Serving(folder / name, workers=1, receiver=receiver, name=name)
            node.configure(
                more=f'[cluster]\nlisten = ["127.0.0.1:{ports[name]}"]\nca = "{self.certificates}/ca.crt"\n'
                f'cert = "{self.certificates}/{name}.crt"\nkey = "{self.certificates}/{name}.key"\n{more}'
            )

    def start(self, name: str) -> None:
        node = self.nodes[name]
        command = [
            sys.executable,
            str(ROOT / "tests/support/static_node.py"),
            str(node.config),
            json.dumps(self.table),
            name,
        ]
        node.daemon = daemon = Daemon(command, node.folder / "node.log", {"PYTHONPATH": str(ROOT / "tests")})
        until(lambda: self.answers(name) or daemon.process.poll() is not None, f"{name} answers", 60.0)
        assert daemon.process.poll() is None, daemon.tail()

    def stop(self, name: str, sig: signal.Signals = signal.SIGTERM) -> None:
        daemon = self.nodes[name].daemon
        assert daemon is not None
        daemon.stop(sig)

    def answers(self, name: str) -> bool:
        try:
            self.ask(name, "metrics", None)
        except (OwnerUnreachable, FileNotFoundError):
            return False
        return True

    def ask(self, name: str, command: str, argument: Any) -> Any:
        """Ask a node by its Unix socket."""
        slot = next(member[1] for member in self.table if member[0] == name)
        with command_address(f"{self.nodes[name].folder}/data", slot) as path:
            return asyncio.run(call(path, command, argument, timeout_s=30.0))

    def forward(self, name: str, command: str, key: str) -> Any:
        shard = MessageKey.parse(key).shard
        return self.ask(name, "forward", {"name": command, "argument": {"key": key}, "shard": shard})

    def waiting(self, asked: str) -> dict[str, list[str]]:
        """Keys of what waits at each node, as one of them tells."""
        told = self.ask(asked, "forward.all", {"name": "queue.show"})
        return {one["node"]: [row["key"] for row in one["result"]] for one in told}

    def log(self, name: str) -> str:
        return (self.nodes[name].folder / "node.log").read_text()


@contextmanager
def cluster(folder: Path, more: str = "") -> Iterator[tuple[Cluster, Receiver]]:
    receiver = Receiver()
    made = Cluster(folder, receiver.port, more)
    try:
        for name in "ab":
            made.start(name)
        yield made, receiver
    finally:
        for name in "ab":
            made.stop(name)
        receiver.stop()


def send_later(node: Serving, count: int) -> None:
    """Have messages wait in a node."""
    key, later = node.key_for("ours.test"), {"o:deliverytime": formatdate(time.time() + 3600)}
    for number in range(count):
        recipient = f"r{number}@{node.folder.name}.dest.test"
        until(lambda to=recipient: node.post("ours.test", key, to, **later) == 200, "the key is known")


def test_a_command_reaches_the_owner_on_the_other_node_and_what_is_in_the_way_is_said(tmp_path: Path) -> None:
    with cluster(tmp_path) as (nodes, receiver):
        for name in "ab":
            send_later(nodes.nodes[name], 6)
        owned = nodes.waiting("a")
        assert nodes.waiting("b") == owned
        assert {name: len(keys) for name, keys in owned.items()} == {"a": 6, "b": 6}

        for asked, owner in (("a", "b"), ("b", "a")):
            keys = owned[owner]
            assert nodes.forward(asked, "queue.drop", keys[0])["done"] == 1
            assert nodes.forward(asked, "queue.cancel", keys[1])["done"] == 1
            assert nodes.forward(asked, "queue.retry", keys[2])["done"] == 1
            with pytest.raises(NotOwner):
                nodes.ask(asked, "queue.drop", {"key": keys[3]})
            nobodys = MessageKey(MessageKey.parse(keys[0]).shard, 20_000, 7).text()
            with pytest.raises(NotFound):
                nodes.forward(asked, "queue.drop", nobodys)
        until(lambda: len(receiver.by_recipient) == 2, "those that were hastened are delivered")

        status, members = standing(nodes.nodes["a"])
        assert (status, [member["member"] for member in members]) == (exits.OK, ["a/0", "b/1"])
        assert [(member["shards"], member["open"], member["problem"]) for member in members] == [(16, 1, "")] * 2

        # The owner's process ends, and comes back.
        nodes.stop("b", signal.SIGKILL)
        status, members = standing(nodes.nodes["a"])
        assert (status, [bool(member["problem"]) for member in members]) == (exits.UNREACHABLE, [False, True])
        with pytest.raises(OwnerUnreachable) as caught:
            nodes.forward("a", "queue.drop", owned["b"][3])
        assert caught.value.retry_after_s
        assert "node_unreachable" in nodes.log("a")
        nodes.start("b")
        assert nodes.forward("a", "queue.drop", owned["b"][3])["done"] == 1

        # A new authority: who has it trusts nobody else, until the other has it as well.
        for path in nodes.certificates.iterdir():
            path.unlink()
        certificates(nodes.certificates, "a", "b")
        nodes.nodes["a"].signal(signal.SIGHUP)
        until(lambda: not reaches(nodes, "a", owned["b"][0]), "a trusts the new authority alone")
        assert not reaches(nodes, "b", owned["a"][0])
        assert "node_refused" in nodes.log("a")
        nodes.nodes["b"].signal(signal.SIGHUP)
        until(lambda: reaches(nodes, "a", owned["b"][0]) and reaches(nodes, "b", owned["a"][0]), "both do")


EGRESS = """
[egress]
default_pool = "shared"
lease_s = 4
[[egress.sources]]
id = "here"
address = "127.0.0.11"
node = "a"
[[egress.sources]]
id = "there"
address = "127.0.0.12"
node = "b"
hostname = "there.test"
[[egress.pools]]
id = "shared"
sources = { here = 1, there = 1 }
[[egress.pools]]
id = "dedicated"
sources = { there = 1 }
"""


def test_mail_leaves_from_an_address_of_the_other_node_through_it(tmp_path: Path) -> None:
    with cluster(tmp_path, EGRESS) as (nodes, receiver):
        first = nodes.nodes["a"]
        first.command("domain", "add", "ours.test")
        first.command("domain", "pool", "ours.test", "dedicated", "--also", "shared")
        key = first.command("key", "create")["key"]

        def send(recipient: str, **more: str) -> None:
            until(lambda: first.post("ours.test", key, recipient, **more) == 200, "the key and the pool are known")

        def sent_from() -> dict[str, tuple[str, str]]:
            return {recipient: (peer, hello) for peer, hello, recipient in receiver.seen}

        there, here = ("127.0.0.12", "there.test"), ("127.0.0.11", "node.test")
        for number in range(5):
            send(f"d{number}@dest.test")
            send(f"s{number}@dest.test", **{"o:sending-ip-pool": "shared"})
        until(lambda: len(receiver.by_recipient) == 10, "all are delivered")
        assert sent_from() == {
            f"{kind}{n}@dest.test": way for kind, way in (("d", there), ("s", here)) for n in range(5)
        }

        def delivered() -> list[dict[str, Any]]:
            events = first.get("/v3/ours.test/events", key)["items"]
            return [event for event in events if event["event"] == "delivered"]

        until(lambda: len(delivered()) == 10, "their events are found")
        ways = {event["recipient"][0]: event["envelope"] for event in delivered()}
        assert {kind: (way["sending-ip"], way["sending-host"]) for kind, way in ways.items()} == {"d": there, "s": here}

        nodes.stop("b", signal.SIGKILL)
        send("while-it-is-away@dest.test")
        send("here@dest.test", **{"o:sending-ip-pool": "shared"})
        until(lambda: "here@dest.test" in receiver.by_recipient, "other mail leaves")
        assert "while-it-is-away@dest.test" not in receiver.by_recipient
        nodes.start("b")
        until(lambda: "while-it-is-away@dest.test" in receiver.by_recipient, "what waited leaves when it is back")
        assert sent_from()["while-it-is-away@dest.test"] == there
        assert set(receiver.by_recipient.values()) == {1}


def standing(node: Serving) -> tuple[int, list[dict[str, Any]]]:
    """What ``pigeonry cluster status`` says on a node."""
    command = [sys.executable, "-m", "pigeonry", "cluster", "status", "--config", str(node.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout)["members"]


def test_nodes_restart_one_after_the_other_and_none_after_one_that_stays_away(tmp_path: Path) -> None:
    asked, done = tmp_path / "asked", tmp_path / "done"
    script = f"echo $0 > {asked}.new; mv {asked}.new {asked}; while [ ! -e {done} ]; do sleep 0.05; done; rm {done}"
    with cluster(tmp_path) as (nodes, _):
        command = [sys.executable, "-m", "pigeonry", "cluster", "rolling-restart", "--json"]
        command += ["--command", shlex.join(["sh", "-c", script, "{node}"]), "--config", str(nodes.nodes["a"].config)]

        def restarted(name: str, *, again: bool) -> None:
            until(asked.exists, f"{name} is to be restarted")
            assert asked.read_text().strip() == name
            asked.unlink()
            nodes.stop(name)
            if again:
                nodes.start(name)
            done.touch()

        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rolling:
            for name in "ba":  # the node that watches goes last
                restarted(name, again=True)
            told = [json.loads(line) for line in rolling.communicate(timeout=60)[0].splitlines()]
        assert rolling.returncode == exits.OK
        assert [(step["step"], step.get("node")) for step in told] == [
            *((step, node) for node in "ba" for step in ("restarting", "back")),
            ("done", None),
        ]

        with subprocess.Popen([*command, "--within", "2"], stderr=subprocess.PIPE, text=True) as rolling:
            restarted("b", again=False)
            complaint = rolling.communicate(timeout=60)[1]
        assert rolling.returncode == exits.UNREACHABLE
        assert "b is not back within 2 seconds: " in complaint
        assert not asked.exists()


def reaches(nodes: Cluster, asked: str, key: str) -> bool:
    """Whether a node reaches the owner of a message that has ended."""
    try:
        return bool(nodes.forward(asked, "queue.drop", key)["ended"])
    except OwnerUnreachable:
        return False


def test_a_node_lets_nobody_in_who_is_no_node_and_goes_on_sending_mail(tmp_path: Path) -> None:
    good, foreign = certificates(tmp_path / "good", "a", "stranger"), certificates(tmp_path / "foreign", "a")
    past = tmp_path / "past"
    past.mkdir()
    for name in ("ca.crt", "ca.key"):
        (past / name).write_bytes((good / name).read_bytes())
    certificates(past, "a", age_days=3, days=2)
    port = free_port()
    more = (
        f'[cluster]\nlisten = ["127.0.0.1:{port}"]\nca = "{good}/ca.crt"\ncert = "{good}/a.crt"\nkey = "{good}/a.key"\n'
    )
    with serving(tmp_path, name="a", more=more) as (node, receiver):
        with contextlib.ExitStack() as silent:
            for _ in range(300):
                silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10.0))
            uvloop.run(besiege(port, good, foreign, past))
        node.send("r@dest.test")
        until(lambda: receiver.by_recipient["r@dest.test"] == 1, "mail goes on")
        with urllib.request.urlopen(f"http://127.0.0.1:{node.ops}/metrics", timeout=5) as answer:
            page = answer.read().decode()
        for reason in ("handshake", "peer"):
            counts = [
                line
                for line in page.splitlines()
                if line.startswith("pigeonry_cluster_refused_total{") and f'reason="{reason}"' in line
            ]
            assert sum(float(line.rpartition(" ")[2]) for line in counts) >= 1, reason
        assert "Traceback" not in (tmp_path / "node.log").read_text()

        before = presented(port, good)
        certificates(good, "a")
        node.signal(signal.SIGHUP)
        until(lambda: presented(port, good) != before, "the renewed certificate is shown")
        uvloop.run(expect_answers(port, good))
        assert node.stop() == 0


def presented(port: int, good: Path) -> int:
    """The number of the certificate that a node shows."""

    async def look() -> int:
        async with raw(port, shown(good, "a")) as peer:
            return int(peer.writer.get_extra_info("peercert")["serialNumber"], 16)

    return uvloop.run(look())


async def besiege(port: int, good: Path, foreign: Path, past: Path) -> None:
    """All who should not get in try, and each time a node gets in and is answered by the worker that it means."""
    await expect_answers(port, good)
    for tls in (shown(foreign, "a", ca=good), shown(past, "a", ca=good), shown(good, "stranger")):
        with pytest.raises(NobodyListens):
            await ask(calling(tls), Member("a", 0, f"127.0.0.1:{port}"), "queue.show", {})
        await expect_answers(port, good)
    with pytest.raises(NobodyListens):  # the node is not who it should be
        await ask(calling(shown(good, "a")), Member("b", 0, f"127.0.0.1:{port}"), "queue.show", {})
    for octets in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(100_000), b"\x16\x03\x01\xff\xff" + bytes(100_000)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(octets)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) < 100
        writer.close()
    await expect_answers(port, good)
    peers = calling(shown(good, "a"))
    # From here on within TLS, as a node that has gone wrong.
    for octets in (
        (1 << 31).to_bytes(4, "big"),
        (1000).to_bytes(4, "big") + b"x",
        b"\x00\x00",
        b"\x00\x00\x00\x01\xc1",
    ):
        async with raw(port, shown(good, "a")) as peer:
            await peer.hear()
            peer.say(octets)
            await peer.writer.drain()
        await expect_answers(port, good)
    for name, slot in itertools.product(("metrics", "forward", "forward.all", "nothing"), (0, 1)):
        with pytest.raises(NotFound):
            await ask(peers, Member("a", slot, f"127.0.0.1:{port}"), name, {})
    cut(peers)


async def expect_answers(port: int, good: Path) -> None:
    peers = calling(shown(good, "a"))
    for slot in (0, 1):
        assert await ask(peers, Member("a", slot, f"127.0.0.1:{port}"), "queue.show", {}) == []
    with pytest.raises(OwnerUnreachable):
        await ask(peers, Member("a", 7, f"127.0.0.1:{port}"), "queue.show", {})
    cut(peers)
