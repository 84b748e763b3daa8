"""The drill D-2014 in its short form: two nodes of a cluster, restarted and killed under load."""

from __future__ import annotations

import os
from pathlib import Path

from pigeonry.app.tls import make_self_signed
from pigeonry.drills.d2014 import SHORT, d2014
from pigeonry.drills.report import Report
from pigeonry.net.environment import SystemClock
from pigeonry.testing.dice import SeededDice
from support.cassandra import cassandra_parts
from support.process import need


async def test_nothing_is_lost_when_nodes_of_a_cluster_restart_and_die(tmp_path: Path) -> None:
    need("haproxy")
    seed = int.from_bytes(os.urandom(4))
    print(f"seed={seed}")
    clock = SystemClock()
    report = Report("d2014", clock, print)
    cert, key, both = (tmp_path / name for name in ("cert.pem", "key.pem", "both.pem"))
    make_self_signed(cert, key, names=("drill.test",), now=clock.now())
    both.write_text(cert.read_text() + key.read_text())
    parts, dice = cassandra_parts(), SeededDice(str(seed))
    await d2014(SHORT, tmp_path, parts, certificate=both, clock=clock, dice=dice, report=report)
    assert report.met, f"seed={seed}\n{report.text()}"
