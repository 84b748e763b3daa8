"""API ingest: wrk posts to a node with two workers while it delivers to a sink, everything on as shipped.

usage: ingest.py [--seconds 20] [--connections 50] [--runs 3]

Each run reports accepted requests a second, what CPU a message costs (server only, consumers included), how long what
was left took to drain as a multiple of the window, whether the log holds exactly N accepted and N delivered events,
and how far the search index lagged five seconds after the last delivery.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from parts import PIGEONRY, Group, Sink, free_port, greets, median, pigeonry_json, started, until

DRAIN_S = 120.0
INDEX_LEVEL_S = 5.0  # the bar: level within so many seconds of the last delivery

CONFIG = """
[node]
data = "{folder}/data"
hostname = "node.bench.test"
workers = 2
[http]
listen = ["127.0.0.1:{http}"]
[smtp]
listen = ["127.0.0.1:{smtp}"]
[delivery]
route = "smtp://127.0.0.1:{sink}"
[ops]
listen = ["127.0.0.1:{ops}"]
"""


def measure(folder: Path, *, seconds: int, connections: int) -> dict[str, object]:
    """One run in a fresh folder."""
    sink, group = Sink(), Group("ingest")
    http, smtp, ops = free_port(), free_port(), free_port()
    config = folder / "pigeonry.toml"
    config.write_text(CONFIG.format(folder=folder, http=http, smtp=smtp, sink=sink.port, ops=ops))
    pigeonry_json(config, "domain", "add", "bench.test")
    key = str(pigeonry_json(config, "key", "create")["key"])
    server = started([str(PIGEONRY), "serve", "--config", str(config)], group, folder / "serve.log")
    try:
        until(lambda: greets(smtp), "the node greets")
        time.sleep(1.0)
        result = _run(sink, group, http, key, seconds=seconds, connections=connections)
        result |= pigeonry_json(config, "events", "count")
        server.terminate()
        server.wait(30)
        return result
    finally:
        group.end()
        sink.stop()


def _run(sink: Sink, group: Group, http: int, key: str, *, seconds: int, connections: int) -> dict[str, object]:
    cpu = group.cpu_s()
    begun = time.monotonic()
    wrk = subprocess.run(
        [
            shutil.which("wrk") or sys.exit("needs wrk"),
            *("-t", "2", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s"),
            *("-s", str(Path(__file__).with_name("ingest.lua")), f"http://127.0.0.1:{http}"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DOMAIN": "bench.test", "AUTH": base64.b64encode(f"api:{key}".encode()).decode()},
    )
    window = time.monotonic() - begun
    line = next(line for line in wrk.stdout.splitlines() if line.startswith("RESULT ")).split()
    requests, errors = int(line[1]), int(line[3])
    # wrk gives up what is in flight at its end: the node may have accepted up to one more for each connection
    until(lambda: sink.count >= requests - errors and time.monotonic() - sink.last_at > 1.0, "drained", DRAIN_S)
    drained = sink.last_at - begun
    time.sleep(INDEX_LEVEL_S)
    return {
        "answered": requests - errors,
        "errors": errors,
        "requests_s": float(line[4]),
        "p50_ms": float(line[5]),
        "p99_ms": float(line[6]),
        "sink": sink.count,
        "drain_ratio": round(drained / window, 2),
        "cpu_ms_per_message": round((group.cpu_s() - cpu) / max(1, sink.count) * 1000, 3),
        "rss_mib": round(group.rss_mib(), 1),
    }


def main() -> None:
    """Measure and print one JSON line a run, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="pigeonry-ingest-") as folder:
            runs.append(measure(Path(folder), seconds=options.seconds, connections=options.connections))
            print(json.dumps(runs[-1]), flush=True)
    for name in ("requests_s", "p99_ms", "cpu_ms_per_message", "drain_ratio"):
        print(f"median {name:20} {median([float(str(run[name])) for run in runs]):10.3f}")


if __name__ == "__main__":
    main()
