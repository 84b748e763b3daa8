"""Relay, next to tuned Postfix in the same run: smtp-source -> server under test -> smtp-sink, all on loopback.

usage: relay.py [--size 4096] [--messages 10000] [--runs 3] [--sessions 50] [--reuse] [PEER ...]

PEER is a file in peers/ (default: pigeonry, postfix-tuned and both with RSA-2048 DKIM). Peers take turns, so that a
busy machine is unkind to all of them alike. Quote the ratios: absolute figures drift.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from parts import INDEX_LEVEL_S, Group, Sink, greets, index_lag, median, pigeonry_json, started, until

PEERS = Path(__file__).with_name("peers")
RUN_S = 120.0


def measure(peer: str, *, size: int, messages: int, sessions: int, reuse: bool) -> dict[str, float]:
    """One run of one peer."""
    script = str(PEERS / f"{peer}.sh")
    sink, group = Sink(), Group(peer)
    os.environ["SINK"] = str(sink.port)
    subprocess.run([script, "prep"], check=True, stdout=subprocess.DEVNULL)
    port = int(subprocess.check_output([script, "port"]))
    folder = Path(os.environ.get("BENCH_DIR", "/tmp/relaybench")) / "var"  # where the peers keep theirs too
    server = started([script, "start"], group, folder / f"{peer}.log")
    try:
        until(lambda: greets(port), f"{peer} greets")
        time.sleep(1.0)
        os.sync()
        cpu, begun = group.cpu_s(), time.monotonic()
        source = shutil.which("smtp-source", path="/usr/sbin:/usr/bin") or sys.exit("needs Debian's postfix")
        subprocess.run(
            [
                source,
                *(["-d"] if reuse else []),
                "-s",
                str(sessions),
                "-l",
                str(size),
                "-m",
                str(messages),
                "-f",
                "a@sender.test",
                "-t",
                "b@dest.test",
                f"127.0.0.1:{port}",
            ],
            check=True,
            timeout=RUN_S,
        )
        accepted = time.monotonic() - begun
        until(lambda: sink.count >= messages, f"{peer} delivers all", RUN_S)
        delivered = sink.last_at - begun
        ours = peer.startswith("pigeonry")
        if ours:
            until(lambda: index_lag(port + 1, workers=2) == 0, "the search index is level", INDEX_LEVEL_S)
        time.sleep(max(0.0, sink.last_at + 1.0 - time.monotonic()))  # what trails behind is counted for every peer
        return {
            "accept_s": messages / accepted,
            "end_to_end_s": messages / delivered,
            "cpu_ms": (group.cpu_s() - cpu) / messages * 1000,
            "rss_mib": group.rss_mib(),
            **(
                _kept(folder / f"pigeonry-{int(peer.endswith('dkim'))}-{port}" / "pigeonry.toml", messages)
                if ours
                else {}
            ),
        }
    finally:
        subprocess.run([script, "stop"], check=False, capture_output=True)
        group.end()
        server.wait()
        sink.stop()


def _kept(config: Path, messages: int) -> dict[str, float]:
    """Whether the log holds exactly one accepted and one delivered event for each message, and nothing else."""
    counts = {name: int(str(count)) for name, count in pigeonry_json(config, "events", "count").items()}
    exact = counts.pop("accepted") == counts.pop("delivered") == messages and not any(counts.values())
    return {"exact": float(exact)}


def main() -> None:
    """Measure the peers in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("peers", nargs="*")
    options = parser.parse_args()
    peers = options.peers or ["pigeonry", "postfix-tuned", "pigeonry-dkim", "postfix-tuned-dkim"]
    Path(os.environ.get("BENCH_DIR", "/tmp/relaybench"), "var").mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    for _ in range(options.runs):
        for peer in peers:
            result = measure(
                peer, size=options.size, messages=options.messages, sessions=options.sessions, reuse=options.reuse
            )
            runs[peer].append(result)
            print(json.dumps({"peer": peer, **{name: round(value, 3) for name, value in result.items()}}), flush=True)
    print(f"{'peer':20} {'accept/s':>9} {'e2e/s':>8} {'CPU ms':>7} {'RSS MiB':>8}   medians of {options.runs}")
    middle = {peer: {name: median([run[name] for run in done]) for name in done[0]} for peer, done in runs.items()}
    for peer, row in middle.items():
        print(f"{peer:20} {row['accept_s']:9.0f} {row['end_to_end_s']:8.0f} {row['cpu_ms']:7.3f} {row['rss_mib']:8.0f}")
    for ours, theirs in (("pigeonry", "postfix-tuned"), ("pigeonry-dkim", "postfix-tuned-dkim")):
        if ours in middle and theirs in middle:
            print(f"{ours} / {theirs}: {middle[ours]['end_to_end_s'] / middle[theirs]['end_to_end_s']:.2f} end to end")


if __name__ == "__main__":
    main()
