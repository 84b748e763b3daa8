"""Sending from addresses of our own choice: real processes, real sockets, addresses of loopback."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pigeonry.app.installation import COORDINATOR_FILE
from support.process import until
from support.serving import Receiver, Serving, serving

EGRESS = """
[egress]
default_pool = "shared"
lease_s = {lease_s}
[[egress.sources]]
id = "one"
address = "127.0.0.11"
hostname = "one.{name}.test"
[[egress.sources]]
id = "two"
address = "127.0.0.12"
[[egress.sources]]
id = "away"
address = "192.0.2.77"
[[egress.pools]]
id = "shared"
sources = {{ one = 1, two = 1 }}
on_site_loss_grace_s = 1
[[egress.pools]]
id = "dedicated"
sources = {{ one = 1 }}
on_site_loss_grace_s = 1
[[egress.pools]]
id = "lost"
sources = {{ away = 1 }}
on_site_loss_grace_s = 0
[[egress.pools]]
id = "lost-and-shared"
sources = {{ away = 1 }}
on_site_loss = "pool:dedicated"
on_site_loss_grace_s = 0
[[egress.pools]]
id = "impatient"
sources = {{ away = 1 }}
on_site_loss_grace_s = 0
on_site_loss_max_age_s = 0.001
"""


def gauges(node: Serving, name: str) -> set[str]:
    """The labels of a gauge's samples that are 1, without the worker's."""
    with urllib.request.urlopen(f"http://127.0.0.1:{node.ops}/metrics", timeout=5) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith(name + "{")]
    up = [line for line in lines if line.endswith(" 1.0")]
    return {
        ",".join(part for part in line[line.index("{") + 1 : line.index("}")].split(",") if "worker=" not in part)
        for line in up
    }


def events(node: Serving, domain: str, key: str) -> list[dict[str, Any]]:
    return node.get(f"/v3/{domain}/events?limit=300", key)["items"]  # type: ignore[no-any-return]


def test_domains_leave_by_their_pools_and_the_receiver_sees_it(tmp_path: Path) -> None:
    with serving(tmp_path, more=EGRESS.format(name="node", lease_s=5)) as (node, receiver):
        for name in ("plain.test", "own.test", "lost.test", "saved.test", "late.test"):
            node.command("domain", "add", name)
        key = node.command("key", "create")["key"]
        node.command("domain", "pool", "own.test", "dedicated", "--also", "shared")
        node.command("domain", "pool", "lost.test", "lost")
        node.command("domain", "pool", "saved.test", "lost-and-shared")
        node.command("domain", "pool", "late.test", "impatient")
        for number in range(20):
            assert node.post("plain.test", key, f"plain{number}@dest.test") == 200
            assert node.post("own.test", key, f"own{number}@dest.test") == 200
        named = {"o:sending-ip-pool": "shared"}
        for number in range(20):
            assert node.post("own.test", key, f"named{number}@dest.test", **named) == 200
        assert node.post("plain.test", key, "no@dest.test", **{"o:sending-ip-pool": "dedicated"}) == 400
        for domain in ("lost.test", "saved.test", "late.test"):
            assert node.post(domain, key, f"it@{domain}") == 200
        until(lambda: len(receiver.by_recipient) == 61, "all but those that wait are delivered")
        one, two = ("127.0.0.11", "one.node.test"), ("127.0.0.12", "node.test")
        seen: dict[str, set[tuple[str, str]]] = {}
        for peer, hello, recipient in receiver.seen:
            seen.setdefault(recipient.rstrip("0123456789").partition("@")[0].rstrip("0123456789"), set()).add(
                (peer, hello)
            )
        assert seen == {"plain": {one, two}, "own": {one}, "named": {one, two}, "it": {one}}
        until(lambda: len(events(node, "lost.test", key)) == 2, "the one that waits is told so")
        told = {event["event"]: event for event in events(node, "lost.test", key)}
        assert told["failed"]["severity"] == "temporary"
        status = told["failed"]["delivery-status"]
        assert (status["code"], status["description"]) == (603, "No address of the egress pool lost can be used here.")
        until(lambda: len(events(node, "late.test", key)) == 2, "the one that may not wait has failed")
        ended = {event["event"]: event for event in events(node, "late.test", key)}["failed"]
        assert (ended["severity"], ended["reason"]) == ("permanent", "old")
        delivered = [event for event in events(node, "own.test", key) if event["event"] == "delivered"]
        assert {(e["envelope"]["sending-ip"], e["envelope"]["sending-host"]) for e in delivered} == {one, two}
        assert gauges(node, "pigeonry_egress_source") == {
            'source="one",state="owned"',
            'source="two",state="owned"',
            'source="away",state="absent"',
        }
        assert gauges(node, "pigeonry_egress_pool_up") == {'pool="shared"', 'pool="dedicated"'}
        node.command("domain", "pool", "lost.test", "shared")
        until(lambda: receiver.by_recipient["it@lost.test"] == 1, "what waited leaves by the other pool")


@contextmanager
def two_nodes(folder: Path, *, lease_s: float) -> Iterator[tuple[Serving, Serving, Receiver]]:
    """Two nodes with one coordinator between them, as Cassandra is."""
    receiver = Receiver()
    nodes = []
    for name in ("first", "second"):
        (folder / name).mkdir()
        node = Serving(folder / name, workers=1, receiver=receiver.port, name=name)
        node.configure(more=EGRESS.format(name=name, lease_s=lease_s))
        nodes.append(node)
    try:
        one_each = {"PIGEONRY_DELIVERY__CONNECTIONS_PER_SITE_MAX": "1"}  # from each source: they take a while
        nodes[0].start(one_each)
        nodes[1].command("domain", "list")  # makes its data folder
        (folder / "second" / "data" / COORDINATOR_FILE).symlink_to(folder / "first" / "data" / COORDINATOR_FILE)
        nodes[1].start(one_each)
        yield nodes[0], nodes[1], receiver
    finally:
        for node in nodes:
            if node.daemon is not None:
                node.stop()
        receiver.stop()


def test_a_stopped_owner_sends_nothing_more_once_its_address_is_another_nodes(tmp_path: Path) -> None:
    """Two nodes have the same addresses: the first one gets them. Then it is stopped, with a queue and a connection."""
    with two_nodes(tmp_path, lease_s=3.0) as (first, second, receiver):
        until(
            lambda: len(second.lines("egress_source_elsewhere")) == 2, "the second node says that it may not use them"
        )
        assert 'source="one",state="elsewhere"' in gauges(second, "pigeonry_egress_source")
        second.send("waits@dest.test")
        receiver.pace_s = 0.1
        for number in range(100):
            first.send(f"r{number}@dest.test")
        until(lambda: len(receiver.seen) >= 5, "the first node is at work")
        assert {hello for _, hello, _ in receiver.seen} <= {"one.first.test", "node.test"}
        assert receiver.by_recipient["waits@dest.test"] == 0
        stopped = [first.daemon.process.pid, *first.workers()] if first.daemon is not None else []
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: len(second.lines("egress_source_owned")) == 2, "the second node has the addresses", 30.0)
        until(lambda: receiver.by_recipient["waits@dest.test"] == 1, "what waited for them leaves", 30.0)
        second.send("after@dest.test")
        until(lambda: receiver.by_recipient["after@dest.test"] == 1, "the second node sends")
        before = len(receiver.seen)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        until(
            lambda: len(first.lines("egress_source_elsewhere")) >= 2,
            "the first node says that they are another's",
            30.0,
        )
        second.send("last@dest.test")
        until(lambda: receiver.by_recipient["last@dest.test"] == 1, "the second node goes on")
        later = [recipient for _, _, recipient in receiver.seen[before:] if recipient.startswith("r")]
        assert len(later) <= 4, "no more than was on its way in each connection"
        assert sum(count for name, count in receiver.by_recipient.items() if name.startswith("r")) < 100
