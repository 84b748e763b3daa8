"""Processes that a test starts: waited for by what they offer, ended by their pid."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

START_S = 20.0  # what a real part may take to come up on a busy machine


def need(*programs: str) -> None:
    """Skip, loudly, when a real part is missing; with CI=true that is a failure."""
    missing = [name for name in programs if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None]
    if missing:
        missing_part(f"{', '.join(missing)} (as root, `make test` installs it from Debian)")


def need_perl(module: str) -> None:
    """As ``need``, for a module of Perl."""
    if subprocess.run(["perl", f"-M{module}", "-e", "1"], capture_output=True, check=False).returncode:
        missing_part(f"{module} of Perl (as root, `make test` installs it from Debian)")


def need_root() -> None:
    """Skip, loudly, without root; with CI=true that is a failure."""
    if os.geteuid() != 0:
        missing_part("root, to listen on port 25 of a loopback address")


@contextmanager
def small_disk(folder: Path, octets: int) -> Iterator[None]:
    """Mount a file system of its own on a folder; skip, loudly, where that is not allowed."""
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={octets},mode=700", "pigeonry-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        missing_part("root that may mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def missing_part(what: str) -> NoReturn:
    sentence = f"MISSING REAL PART: {what}"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


_PORTS = range(20_000, 32_000)  # below the ephemeral ports of Linux: no outgoing connection takes one meanwhile
_ports = itertools.cycle((*_PORTS[os.getpid() * 97 % len(_PORTS) :], *_PORTS[: os.getpid() * 97 % len(_PORTS)]))


def free_port(address: str = "127.0.0.1", kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody listens on now, each time another one.

    Of the ports that the system gives to outgoing connections none will do: what is free now may be one's end a
    moment later, and then the program that was to listen there cannot.
    """
    for port in _ports:
        with socket.socket(socket.AF_INET, kind) as probe, suppress(OSError):
            probe.bind((address, port))
            return port
    raise AssertionError("no port is free")


def until(condition: object, what: str, seconds: float = START_S) -> None:
    """Wait until a condition holds; fail with what was waited for."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def listens(address: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address, port)) == 0


class Daemon:
    """One process in its own session, its output in a file."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )

    def stop(self, sig: signal.Signals = signal.SIGTERM, seconds: float = 10.0) -> int:
        """Ask it to end, then make it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode

    def tail(self, octets: int = 4000) -> str:
        """The end of what it wrote, for a failing test."""
        return self.log.read_text(errors="replace")[-octets:]
