"""The short form of ``bench/duplicates.py``: keys sent three times at once to two nodes, one of which dies."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

from pigeonry.testing.cassandra import Cluster

ROOT = Path(__file__).parents[2]
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


def test_a_key_is_one_message_whatever_dies_meanwhile(tmp_path: Path, cassandra: Cluster) -> None:
    points = ", ".join(f'"{point}"' for point in cassandra.contact_points())
    store = tmp_path / "store.toml"
    store.write_text(STORE.format(points=points, name=f"keys{os.getpid()}_{next(_numbers)}"))
    command = [sys.executable, str(ROOT / "bench" / "duplicates.py"), "--keys", "200", "--kills", "1"]
    done = subprocess.run([*command, "--store", str(store)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
