"""What a message costs on the store of a cluster, as a multiple of what it costs on the embedded one.

usage: cluster_cost.py [--messages 10000] [--size 4096] [--runs 3] [--sessions 50] [--reuse]

The relay of relay.py with one worker, smtp-source -> pigeonry -> smtp-sink, on both engines in turn. Counted is the CPU
of pigeonry's own processes; Cassandra, one node, is not among them: what it takes is for its own machines to bear.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clustered import cassandra, store_of
from parts import (
    INDEX_LEVEL_S,
    PIGEONRY,
    Group,
    Sink,
    free_port,
    greets,
    index_lag,
    median,
    pigeonry_json,
    started,
    until,
)

BAR = 2.5
RUN_S = 180.0
WARM = 500  # messages before the count begins: statements are prepared, and the store's JVM has compiled
CONFIG = """
[node]
name = "bench"
data = "{folder}/data"
hostname = "cost.bench.test"
workers = 1
drain_grace_s = 0.0
[http]
listen = []
[smtp]
listen = ["127.0.0.1:{smtp}"]
trusted_networks = ["127.0.0.0/8"]
[delivery]
route = "smtp://127.0.0.1:{sink}"
[ops]
listen = ["127.0.0.1:{ops}"]
{store}
"""


def measure(folder: Path, store: str, options: argparse.Namespace) -> dict[str, float]:
    """One run of one engine in a fresh folder."""
    sink, group = Sink(), Group("cost")
    smtp, ops = free_port(), free_port()
    config = folder / "pigeonry.toml"
    config.write_text(CONFIG.format(folder=folder, smtp=smtp, ops=ops, sink=sink.port, store=store))
    if store:
        pigeonry_json(config, "migrate")
    server = started([str(PIGEONRY), "serve", "--config", str(config)], group, folder / "serve.log")
    try:
        until(lambda: greets(smtp), "the node greets", 60.0)
        _send(smtp, WARM, options)
        until(lambda: sink.count >= WARM, "the first messages are delivered", RUN_S)
        until(lambda: index_lag(ops, workers=1) == 0, "the search index is level", INDEX_LEVEL_S)
        cpu, begun = group.cpu_s(), time.monotonic()
        _send(smtp, options.messages, options)
        accepted = time.monotonic() - begun
        until(lambda: sink.count >= WARM + options.messages, "all is delivered", RUN_S)
        delivered = sink.last_at - begun
        until(lambda: index_lag(ops, workers=1) == 0, "the search index is level", INDEX_LEVEL_S)
        time.sleep(max(0.0, sink.last_at + 1.0 - time.monotonic()))  # what trails behind is counted for both
        return {
            "accept_s": options.messages / accepted,
            "end_to_end_s": options.messages / delivered,
            "cpu_ms": (group.cpu_s() - cpu) / options.messages * 1000,
            "rss_mib": group.rss_mib(),
        }
    finally:
        server.terminate()
        server.wait(60)
        group.end()
        sink.stop()


def _send(port: int, messages: int, options: argparse.Namespace) -> None:
    source = shutil.which("smtp-source", path="/usr/sbin:/usr/bin") or sys.exit("needs Debian's postfix")
    reuse = ["-d"] if options.reuse else []
    numbers = ["-s", str(options.sessions), "-l", str(options.size), "-m", str(messages)]
    ends = ["-f", "a@sender.test", "-t", "b@dest.test", f"127.0.0.1:{port}"]
    subprocess.run([source, *reuse, *numbers, *ends], check=True, timeout=RUN_S)


def main() -> None:
    """Measure both in turn, and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--reuse", action="store_true")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"embedded": [], "cluster": []}
    with cassandra() as cluster:
        for _ in range(options.runs):
            for name, done in runs.items():
                with tempfile.TemporaryDirectory(prefix="pigeonry-cost-") as folder:
                    done.append(measure(Path(folder), store_of(cluster) if name == "cluster" else "", options))
                figures = {figure: round(value, 3) for figure, value in done[-1].items()}
                print(json.dumps({"engine": name, **figures}), flush=True)
    middle = {name: median([run["cpu_ms"] for run in done]) for name, done in runs.items()}
    print(f"cluster / embedded: {middle['cluster'] / middle['embedded']:.2f} of the CPU a message (bar {BAR})")


if __name__ == "__main__":
    main()
