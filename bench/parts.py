"""What the benchmarks share: CPU accounting by cgroup, the sink, waiting, and the servers that are measured."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIGEONRY = ROOT / ".venv" / "bin" / "pigeonry"
SINK_SESSIONS = 1000
START_S = 25.0
INDEX_LEVEL_S = 5.0  # the bar: level within so many seconds of the last delivery


def until(condition: Callable[[], bool], what: str, seconds: float = START_S) -> None:
    """Wait until a condition holds, or end the benchmark with what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A loopback port that nobody listens on now, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def greets(port: int) -> bool:
    """Whether an SMTP server greets there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as client:
            return client.recv(64).startswith(b"220")
    except OSError:
        return False


class Group:
    """A cgroup that counts the CPU time of all processes ever in it."""

    def __init__(self, name: str) -> None:
        for root in (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")):
            if (root / "cgroup.procs").exists():
                self.folder = root / f"pigeonry-bench-{name}-{os.getpid()}"
                break
        else:
            sys.exit("no cgroup to count CPU time with: run as root")
        self.folder.mkdir(exist_ok=True)

    def join(self) -> None:
        """Put the calling process into it; for ``preexec_fn``."""
        os.setsid()
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        usage = self.folder / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        return int(re.search(r"usage_usec (\d+)", (self.folder / "cpu.stat").read_text())[1]) / 1e6  # type: ignore[index]

    def pids(self) -> list[int]:
        """Processes in it now."""
        return [int(pid) for pid in (self.folder / "cgroup.procs").read_text().split()]

    def rss_mib(self) -> float:
        """Resident memory of all of them, MiB."""
        total = 0
        for pid in self.pids():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
            except OSError:
                continue
        return total / 2**20

    def end(self) -> None:
        """End what is left in it, by pid, and remove it."""
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    continue
            deadline = time.monotonic() + 5
            while self.pids() and time.monotonic() < deadline:
                time.sleep(0.05)
        self.folder.rmdir()


class Sink:
    """Postfix's smtp-sink, counted while it runs."""

    def __init__(self) -> None:
        program = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin") or sys.exit("needs Debian's postfix (smtp-sink)")
        self.port = free_port()
        self.count = 0
        self.last_at = 0.0
        self.process = subprocess.Popen(
            [program, "-c", "-u", "nobody", f"127.0.0.1:{self.port}", str(SINK_SESSIONS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        number = re.compile(rb"mesg=\s*(\d+)")
        tail = b""
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            found = number.findall(tail + chunk)
            tail = chunk[-40:]
            if found and int(found[-1]) > self.count:
                self.count, self.last_at = int(found[-1]), time.monotonic()

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def pigeonry_json(config: Path, *command: str) -> dict[str, object]:
    """Run one of our commands with ``--json``; what it printed."""
    done = subprocess.run(
        [str(PIGEONRY), *command, "--config", str(config), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"pigeonry {' '.join(command)}: {done.stderr or done.stdout}")
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def index_lag(ops: int, *, workers: int) -> int:
    """Events that are in the log and not in the search index yet, over all workers; -1 when one did not say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ops}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    lags = [int(float(line.split()[-1])) for line in lines if line.startswith("pigeonry_index_lag_events")]
    return sum(lags) if len(lags) == workers else -1


def started(command: Sequence[str], group: Group, log: Path) -> subprocess.Popen[bytes]:
    """Start a server in a group, its output in a file."""
    with log.open("wb") as out:
        return subprocess.Popen(list(command), preexec_fn=group.join, stdin=subprocess.DEVNULL, stdout=out, stderr=out)  # noqa: PLW1509  # one thread at this point


def median(values: Sequence[float]) -> float:
    """The middle one."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
