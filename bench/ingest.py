"""API ingest: wrk posts to a node with two workers while it delivers to a sink, everything on as shipped.

usage: ingest.py [--seconds 20] [--runs 3]

Three forms: few connections and one recipient, many connections and distinct recipients, and the latter without DKIM
(``o:dkim=no``), which shows what signing takes. Each run has a fresh node and ends when all is delivered. A run
reports requests answered with 200 a second, the server's CPU a message (consumers included), how long what was left
took to drain as a multiple of the window, what the log holds, and how long after the last delivery the search index
was level. Medians are printed one a line with their bar.
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

DOMAIN = "bench.test"
DRAIN_S = 180.0
WORKERS = 2
FORMS: dict[str, dict[str, str]] = {
    "few": {"CONNECTIONS": "10"},
    "many": {"CONNECTIONS": "50", "DISTINCT": "1"},
    "unsigned": {"CONNECTIONS": "50", "DISTINCT": "1", "MORE": "&o%3Adkim=no"},
}
BARS = {
    "requests_s": ">= 2500",
    "p99_ms": "none",
    "cpu_ms_per_message": "none",
    "drain_factor": "<= 2.5",
    "index_level_s": f"<= {INDEX_LEVEL_S:.0f}",
    "exact": "1",
}

CONFIG = """
[node]
data = "{folder}/data"
hostname = "node.bench.test"
workers = {workers}
drain_grace_s = 0.0
[http]
listen = ["127.0.0.1:{http}"]
[smtp]
listen = ["127.0.0.1:{smtp}"]
[delivery]
route = "smtp://127.0.0.1:{sink}"
[ops]
listen = ["127.0.0.1:{ops}"]
"""


def measure(folder: Path, form: dict[str, str], *, seconds: int) -> dict[str, float]:
    """One run in a fresh folder."""
    sink, group = Sink(), Group("ingest")
    http, smtp, ops = free_port(), free_port(), free_port()
    config = folder / "pigeonry.toml"
    config.write_text(CONFIG.format(folder=folder, workers=WORKERS, http=http, smtp=smtp, sink=sink.port, ops=ops))
    pigeonry_json(config, "domain", "add", DOMAIN)
    key = str(pigeonry_json(config, "key", "create")["key"])
    server = started([str(PIGEONRY), "serve", "--config", str(config)], group, folder / "serve.log")
    try:
        until(lambda: greets(smtp), "the node greets")
        time.sleep(1.0)
        cpu = group.cpu_s()
        window, result = _posted(http, key, form, seconds=seconds)
        answered = int(result["answered"])
        # wrk gives up what is in flight at its end: the node may have accepted one more for each connection.
        until(lambda: sink.count >= answered and time.monotonic() - sink.last_at > 1.0, "drained", DRAIN_S)
        result["drain_factor"] = round((sink.last_at - window[0]) / (window[1] - window[0]), 2)
        until(lambda: index_lag(ops, workers=WORKERS) == 0, "the index is level", INDEX_LEVEL_S)
        result["index_level_s"] = round(time.monotonic() - sink.last_at, 1)
        result["cpu_ms_per_message"] = round((group.cpu_s() - cpu) / max(1, sink.count) * 1000, 3)
        result["rss_mib"] = round(group.rss_mib(), 1)
        counted = {name: int(str(count)) for name, count in pigeonry_json(config, "events", "count").items()}
        result |= counted
        accepted = counted.pop("accepted")
        exact = accepted == counted.pop("delivered") == sink.count and not any(counted.values())
        result["exact"] = int(exact and answered <= accepted <= answered + int(form["CONNECTIONS"]))
        server.terminate()
        server.wait(30)
        return result
    finally:
        group.end()
        sink.stop()


def _posted(port: int, key: str, form: dict[str, str], *, seconds: int) -> tuple[tuple[float, float], dict[str, float]]:
    """Post for so long; when that began and ended, and what came of it."""
    begun = time.monotonic()
    wrk = subprocess.run(
        [
            shutil.which("wrk") or sys.exit("needs wrk"),
            *("-t", "2", "-c", form["CONNECTIONS"], "-d", f"{seconds}s", "--timeout", "10s"),
            *("-s", str(Path(__file__).with_name("ingest.lua")), f"http://127.0.0.1:{port}"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **form, "DOMAIN": DOMAIN, "AUTH": base64.b64encode(f"api:{key}".encode()).decode()},
    )
    ended = time.monotonic()
    line = next(line for line in wrk.stdout.splitlines() if line.startswith("RESULT ")).split()
    requests, errors = int(line[1]), int(line[3])
    result: dict[str, float] = {
        "answered": requests - errors,
        "errors": errors,
        "requests_s": round((requests - errors) / (ended - begun), 1),
        "p50_ms": float(line[5]),
        "p99_ms": float(line[6]),
    }
    return (begun, ended), result


def main() -> None:
    """Measure; print one JSON line a run, and after the runs of a form its medians with their bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options = parser.parse_args()
    for name in options.forms:
        runs = []
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory(prefix="pigeonry-ingest-") as folder:
                runs.append(measure(Path(folder), FORMS[name], seconds=options.seconds))
                print(json.dumps({"form": name, **runs[-1]}), flush=True)
        for figure, bar in BARS.items():
            print(f"{name:9} {figure:20} {median([run[figure] for run in runs]):10.3f}   bar {bar}", flush=True)


if __name__ == "__main__":
    main()
