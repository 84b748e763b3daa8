"""Nodes that share their queue on a real Cassandra: what one accepted another delivers when it dies."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from pigeonry.app import exits
from pigeonry.testing.cassandra import Cluster
from support.clusters import certificates
from support.process import free_port, until
from support.serving import Receiver, Serving, serving

STORE = """
[store]
engine = "cassandra"
[cassandra]
contact_points = [{points}]
local_datacenter = "dc1"
keyspace = "{name}"
lease_keyspace = "{name}_lease"
replication = {{ dc1 = 1 }}
"""
COMMANDS = """
[cluster]
listen = ["127.0.0.1:{port}"]
ca = "{certs}/ca.crt"
cert = "{certs}/{name}.crt"
key = "{certs}/{name}.key"
"""
ONE_CONNECTION = "connections_per_site_max = 1"
ONE_ADDRESS = """
[egress]
default_pool = "shared"
lease_s = 2
[[egress.sources]]
id = "the-one"
address = "127.0.0.11"
hostname = "{name}.test"
[[egress.pools]]
id = "shared"
sources = {{ the-one = 1 }}
"""
_numbers = itertools.count(1)


@pytest.fixture
def store(cassandra: Cluster) -> str:
    points = ", ".join(f'"{point}"' for point in cassandra.contact_points())
    return STORE.format(points=points, name=f"e2e{os.getpid()}_{next(_numbers)}")


@contextmanager
def two(folder: Path, store: str, *, shut: bool = False, also: str = "") -> Iterator[tuple[Serving, Serving, Receiver]]:
    """Two nodes of one cluster with one receiver, to which each has one connection from each address.

    Args:
        shut: The first one's receiver takes nothing, so that what it accepts waits.
        also: More configuration, in which the node's name may stand.
    """
    certs = certificates(folder / "certs", "one", "two")
    with ExitStack() as stack:
        for name in ("one", "two"):
            (folder / name).mkdir()
        more = {
            name: store + COMMANDS.format(port=free_port(), certs=certs, name=name) + also.format(name=name)
            for name in ("one", "two")
        }
        first, receiver = stack.enter_context(
            serving(
                folder / "one",
                workers=1,
                start=False,
                name="one",
                more=more["one"],
                route=1 if shut else None,
                delivery_more=ONE_CONNECTION,
            )
        )
        second, _ = stack.enter_context(
            serving(
                folder / "two",
                workers=1,
                start=False,
                name="two",
                more=more["two"],
                route=receiver.port,
                delivery_more=ONE_CONNECTION,
            )
        )
        first.command("migrate")
        first.command("key", "list")  # makes the installation, and with it the seal key that all nodes have
        (folder / "two" / "data.seal-key").write_bytes((folder / "one" / "data.seal-key").read_bytes())
        (folder / "two" / "data.seal-key").chmod(0o600)
        first.start()
        second.start()
        yield first, second, receiver


def test_a_node_that_is_killed_is_taken_over_and_nothing_is_lost(tmp_path: Path, store: str) -> None:
    with two(tmp_path, store, shut=True) as (first, second, receiver):
        for number in range(20):
            first.send(f"r{number}@dest.test")
        second.send("other@dest.test")
        os.killpg(first.daemon.process.pid, signal.SIGKILL)
        until(lambda: len(receiver.by_recipient) == 21, "the other node delivers them", 40.0)
        assert set(receiver.by_recipient) == {f"r{number}@dest.test" for number in range(20)} | {"other@dest.test"}
        second.send("later@dest.test")
        until(lambda: "later@dest.test" in receiver.by_recipient, "the survivor goes on")


def test_a_node_that_stops_hands_its_queue_over_and_both_know_the_same_accounts(tmp_path: Path, store: str) -> None:
    with two(tmp_path, store, shut=True) as (first, second, receiver):
        key = first.key_for("ours.test")
        until(lambda: second.post("ours.test", key, "second@dest.test") == 200, "the other node knows the key")
        assert first.post("ours.test", key, "first@dest.test") == 200
        assert first.stop() == 0
        until(lambda: set(receiver.by_recipient) == {"first@dest.test", "second@dest.test"}, "all are delivered", 40.0)


def test_a_node_does_not_start_on_a_schema_that_it_cannot_work_with(tmp_path: Path, store: str) -> None:
    with serving(tmp_path, workers=1, start=False, more=store) as (node, _):
        command = [sys.executable, "-m", "pigeonry", "serve", "--config", str(node.config)]
        absent = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (absent.returncode, "pigeonry migrate" in absent.stderr) == (3, True)


def test_a_message_is_changed_through_any_node_and_an_address_is_one_nodes_also_when_its_owner_dies_or_sleeps(
    tmp_path: Path, store: str
) -> None:
    with two(tmp_path, store, also=ONE_ADDRESS) as (first, second, receiver):
        first.command("domain", "add", "ours.test")
        key, later = str(first.command("key", "create")["key"]), {"o:deliverytime": formatdate(time.time() + 3600)}
        for number in range(4):
            recipient = f"r{number}@dest.test"
            until(lambda to=recipient: first.post("ours.test", key, to, **later) == 200, "the key is known")
        waiting = second.command("queue", "show")
        assert waiting["unreachable"] == []
        dropped, cancelled, hastened, lost = (row["key"] for row in waiting["items"])
        assert second.command("queue", "drop", dropped)["done"] == 1
        assert second.command("queue", "cancel", cancelled)["done"] == 1
        assert second.command("queue", "retry", hastened)["done"] == 1
        until(lambda: len(receiver.by_recipient) == 1, "the one that was hastened is delivered")
        members = second.command("cluster", "status")["members"]
        assert [(member["member"], member["problem"]) for member in members] == [("one/0", ""), ("two/0", "")]
        followed = [Followed(node, key) for node in (first, second)]
        until(lambda: all(each.more() == 7 for each in followed), "both nodes show all events")
        assert followed[0].seen == followed[1].seen
        rebuilt = second.command("events", "rebuild", "--from", "0", "--to", str(time.time()))
        assert (rebuilt["shards"], rebuilt["looked_at"], rebuilt["unreachable"]) == (1, 7, [])

        os.killpg(first.daemon.process.pid, signal.SIGKILL)
        assert ended(second, lost) == exits.UNREACHABLE
        until(lambda: ended(second, lost) == exits.OK, "the survivor owns it and ends it", 40.0)
        assert second.command("queue", "show")["items"] == []
        until(lambda: followed[1].more() == 8, "who follows goes on where he was", 20.0)
        assert followed[1].kinds() == Counter(accepted=4, delivered=1, failed=3)
        until(lambda: Followed(second, key).more() == 8, "who begins anew sees all of them once", 20.0)

        # The address of which both say that it is theirs: one had it, and lent it; now the survivor has it.
        assert second.said("egress_source_elsewhere")
        until(lambda: second.said("egress_source_owned"), "the survivor owns the address", 20.0)
        first.wait()
        first.start()
        until(lambda: first.said("egress_source_elsewhere"), "the node that is back may not use it")
        first.send("lent@dest.test")
        until(lambda: "lent@dest.test" in receiver.by_recipient, "but it leaves through the one that may")
        assert receiver.seen[-1] == ("127.0.0.11", "one.test", "lent@dest.test")
        receiver.pace_s = 0.1
        for number in range(60):
            second.send(f"m{number}@dest.test")
        until(lambda: "m4@dest.test" in receiver.by_recipient, "the owner is at work")
        stopped = [second.daemon.process.pid, *second.workers()] if second.daemon is not None else []
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: len(first.lines("egress_source_owned")) == 2, "the other has the address", 30.0)
        first.send("after@dest.test")
        until(lambda: "after@dest.test" in receiver.by_recipient, "and sends from it", 30.0)
        before = len(receiver.seen)
        receiver.pace_s = 0.0
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        until(lambda: len(second.lines("egress_source_elsewhere")) >= 2, "who woke says whose it is", 30.0)
        first.send("last@dest.test")
        until(lambda: "last@dest.test" in receiver.by_recipient, "the new owner goes on")
        until(lambda: len(receiver.by_recipient) == 64, "all the rest leaves")
        own = {receiver.port_of[recipient] for _, hello, recipient in receiver.seen[:before] if hello == "two.test"}
        by_who_woke = [recipient for _, _, recipient in receiver.seen[before:] if receiver.port_of[recipient] in own]
        assert len(by_who_woke) <= 2, "over connections of its own no more than was on its way"
        assert len(second.lines("egress_source_owned")) == 1, "for all others it asked whose the address is"
        assert {peer for peer, _, _ in receiver.seen} == {"127.0.0.11"}


class Followed:
    """Events that somebody has seen who follows ``next``, by what each is."""

    def __init__(self, node: Serving, key: str) -> None:
        self.node, self.key = node, key
        self.next = "/v3/ours.test/events?ascending=yes&begin=0&limit=3"
        self.seen: list[tuple[str, str]] = []

    def more(self) -> int:
        """Go on as far as there is something; how many were seen, -1 while not all can be seen or the key is not known."""
        while True:
            page, refused = {}, None
            try:
                page = self.node.get(self.next, self.key)
            except urllib.error.HTTPError as error:
                error.close()
                refused = error
            if refused is not None:
                assert refused.code == 401 or (refused.code, bool(refused.headers["retry-after"])) == (503, True)
                return -1
            self.next = urllib.parse.urlsplit(page["paging"]["next"]).path
            self.seen += [(event["id"], event["event"]) for event in page["items"]]
            if not page["items"]:
                return len(self.seen)

    def kinds(self) -> Counter[str]:
        return Counter(kind for _, kind in self.seen)


def ended(node: Serving, key: str) -> int:
    """Drop a message; the exit status, which is never that of one that is not there."""
    command = [sys.executable, "-m", "pigeonry", "queue", "drop", key, "--config", str(node.config)]
    status = subprocess.run(command, capture_output=True, timeout=60, check=False).returncode
    assert status in (exits.OK, exits.UNREACHABLE)
    return status
