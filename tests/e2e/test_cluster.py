"""Nodes that share their queue on a real Cassandra: what one accepted another delivers when it dies."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pigeonry.testing.cassandra import Cluster
from support.process import until
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
_numbers = itertools.count(1)


@pytest.fixture
def store(cassandra: Cluster) -> str:
    points = ", ".join(f'"{point}"' for point in cassandra.contact_points())
    return STORE.format(points=points, name=f"e2e{os.getpid()}_{next(_numbers)}")


@contextmanager
def two(folder: Path, store: str, *, shut: bool = False) -> Iterator[tuple[Serving, Serving, Receiver]]:
    """Two nodes of one cluster with one receiver.

    Args:
        shut: The first one's receiver takes nothing, so that what it accepts waits.
    """
    with ExitStack() as stack:
        for name in ("one", "two"):
            (folder / name).mkdir()
        first, receiver = stack.enter_context(
            serving(folder / "one", workers=1, start=False, name="one", more=store, route=1 if shut else None)
        )
        second, _ = stack.enter_context(
            serving(folder / "two", workers=1, start=False, name="two", more=store, route=receiver.port)
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
