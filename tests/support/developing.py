"""A running ``pigeonry dev``."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.process import free_port, until

DOMAIN = "sandbox.localhost"


class Developing:
    """One run; ``facts`` is what it printed."""

    def __init__(self, folder: Path, *flags: str, own_ports: bool = True) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "pigeonry", "dev", "--json", "--data", str(folder / "data")]
        if own_ports:
            command += ["--http", f"127.0.0.1:{free_port()}", "--smtp", f"127.0.0.1:{free_port()}"]
        self._log = (folder / "dev.log").open("ab")
        self.process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=self._log, cwd=folder)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (folder / "dev.log").read_text()
        self.facts: dict[str, str] = json.loads(line)
        self.http = self.facts["http"]

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        return status

    def ask(
        self, path: str, data: dict[str, str] | None = None, *, method: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and decoded body of one request, with the development key."""
        octets = None if data is None else urllib.parse.urlencode(data).encode()
        request = urllib.request.Request(f"{self.http}{path}", octets, method=method)
        key = base64.b64encode(f"api:{self.facts['api_key']}".encode()).decode()
        for name, value in {"authorization": f"Basic {key}", **headers}.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, _decoded(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error.read())

    def send(self, **fields: str) -> str:
        """Send a message by the API; its Message-ID without angle brackets."""
        fields = {"from": f"Ada <ada@{DOMAIN}>", "subject": "Hello", "text": "It works.", **fields}
        status, answer = self.ask(f"/v3/{DOMAIN}/messages", fields)
        assert status == 200, answer
        return str(answer["id"]).strip("<>")

    def captured(self) -> list[dict[str, Any]]:
        """What the inbox lists."""
        return self.ask("/inbox/api/messages")[1]["items"]  # type: ignore[no-any-return]

    def events(self, **query: str) -> list[dict[str, Any]]:
        """What the events API finds."""
        return self.ask(f"/v3/{DOMAIN}/events?{urllib.parse.urlencode(query)}")[1]["items"]  # type: ignore[no-any-return]

    def await_events(self, recipient: str, *kinds: str) -> list[dict[str, Any]]:
        """A recipient's events, the oldest first, once there are as many as named."""

        def all_there() -> bool:
            return len(self.events(recipient=recipient)) >= len(kinds)

        until(all_there, f"{kinds} of {recipient}")
        found = self.events(recipient=recipient, ascending="yes", begin="0")
        assert [event["event"] for event in found] == list(kinds)
        return found


@contextmanager
def developing(folder: Path, *flags: str) -> Iterator[Developing]:
    """A run, ended with Ctrl-C at the end."""
    run = Developing(folder, *flags)
    try:
        yield run
    finally:
        assert run.end() == 0, (folder / "dev.log").read_text()


def kill(run: Developing) -> None:
    os.kill(run.process.pid, signal.SIGKILL)
    run.end()


def _decoded(octets: bytes) -> Any:
    try:
        return json.loads(octets)
    except ValueError:
        return octets.decode()
