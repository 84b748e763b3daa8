"""A node in production form, ``pigeonry serve``, and a receiver for what it delivers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import smtplib
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.process import Daemon, free_port, until

CONFIG = """
[node]
name = "{name}"
data = "{folder}/data"
hostname = "node.test"
workers = {workers}
drain_s = 5.0
drain_grace_s = {grace_s}
[http]
listen = ["{host}:{http}"]
{http_more}
[smtp]
listen = ["{host}:{smtp}"]
trusted_networks = ["127.0.0.0/8"]
{smtp_more}
[delivery]
route = "smtp://127.0.0.1:{receiver}"
retry_base_s = 1.0
retry_cap_s = 2.0
in_doubt_delay_s = 2.0
{delivery_more}
[ops]
listen = ["{host}:{ops}"]
{more}
"""


class Receiver:
    """Takes every message on a loopback port and counts them by recipient."""

    def __init__(self) -> None:
        self.port = free_port()
        self.by_recipient: Counter[str] = Counter()
        self.texts: list[bytes] = []
        self.seen: list[tuple[str, str, str]] = []
        """For each recipient: the peer's address, what it said in EHLO, the recipient."""
        self.port_of: dict[str, int] = {}
        """For each recipient: the peer's port, and so which connection it came by."""
        self.connections = self.connections_most = 0
        self.pace_s = 0.0
        """Seconds that it takes for a message."""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self._started.set()
        self._loop.run_forever()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        peer, hello = str(writer.get_extra_info("peername")[0]), ""
        port = writer.get_extra_info("peername")[1]
        self.connections += 1
        self.connections_most = max(self.connections_most, self.connections)
        writer.write(b"220 receiver\r\n")
        try:
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"EHLO":
                    hello = line.decode().split()[1]
                elif verb == b"RCPT":
                    recipients.append(line.decode().partition("<")[2].partition(">")[0])
                elif verb == b"DATA":
                    writer.write(b"354 go\r\n")
                    self.texts.append(await reader.readuntil(b"\r\n.\r\n"))
                    if self.pace_s:
                        await asyncio.sleep(self.pace_s)
                    self.by_recipient.update(recipients)
                    self.seen += [(peer, hello, recipient) for recipient in recipients]
                    self.port_of |= dict.fromkeys(recipients, port)
                    recipients = []
                elif verb == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                writer.write(b"250 ok\r\n")
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            writer.close()


class Serving:
    """A running node.

    Args:
        host: Which loopback address it listens on.
        like: Another node, on another address, with the same ports.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        receiver: int = 1,
        grace_s: float = 0.0,
        name: str = "",
        host: str = "127.0.0.1",
        like: Serving | None = None,
        **more: str,
    ) -> None:
        self.folder = folder
        self.config = folder / "pigeonry.toml"
        self.host = host
        self.http, self.smtp, self.ops = (
            (like.http, like.smtp, like.ops) if like else (free_port(), free_port(), free_port())
        )
        self._values: dict[str, Any] = {"folder": folder, "workers": workers, "receiver": receiver, "name": name}
        self._values |= {"grace_s": grace_s, "host": host}
        self._values |= {"http": self.http, "smtp": self.smtp, "ops": self.ops}
        self.configure(**more)
        self.daemon: Daemon | None = None

    def configure(self, *, smtp_more: str = "", http_more: str = "", delivery_more: str = "", more: str = "") -> None:
        """Write the configuration."""
        own = {"smtp_more": smtp_more, "http_more": http_more, "delivery_more": delivery_more, "more": more}
        self.config.write_text(CONFIG.format(**own, **self._values))

    def start(self, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "pigeonry", "serve", "--config", str(self.config)]
        daemon = self.daemon = Daemon(command, self.folder / "node.log", env)
        until(lambda: self.ready() or daemon.process.poll() is not None, "the node is ready", 60.0)
        assert daemon.process.poll() is None, daemon.tail()

    def signal(self, number: signal.Signals) -> None:
        assert self.daemon is not None
        self.daemon.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        assert self.daemon is not None
        return self.daemon.process.wait(seconds)

    def stop(self) -> int:
        assert self.daemon is not None
        return self.daemon.stop(seconds=20.0)

    def ready(self) -> bool:
        return bool(self.readiness().get("ready"))

    def readiness(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.ops}/readyz", timeout=2) as answer:
                return json.load(answer)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)  # type: ignore[no-any-return]
        except OSError:
            return {}

    def workers(self) -> list[int]:
        """Pids of the workers that serve."""
        return [worker["pid"] for worker in self.readiness()["workers"].values()]

    def log(self) -> list[dict[str, Any]]:
        """What it said."""
        lines = (self.folder / "node.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == event]

    def said(self, event: str) -> bool:
        return bool(self.lines(event))

    def send(self, recipient: str) -> None:
        """One message by SMTP; returns when it was acknowledged."""
        client = smtplib.SMTP(self.host, self.smtp, timeout=10)
        try:
            client.sendmail("a@other.test", [recipient], b"Subject: x\r\n\r\ntext\r\n")
        finally:
            client.close()  # not QUIT: a 421 in its place, after the 250, is no reason to send again

    def command(self, *words: str) -> Any:
        """What a command of the shell prints as JSON."""
        command = [sys.executable, "-m", "pigeonry", *words, "--config", str(self.config), "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)

    def key_for(self, domain: str) -> str:
        """A new domain's API key."""
        self.command("domain", "add", domain)
        return str(self.command("key", "create", "--domain", domain)["key"])

    def get(self, path: str, key: str) -> Any:
        """What the API answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}")
        request.add_header("Authorization", "Basic " + base64.b64encode(f"api:{key}".encode()).decode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def post(self, domain: str, key: str, recipient: str, **more: str) -> int:
        """One message by the API over a connection of its own; the status of the answer."""
        fields = {"from": f"a@{domain}", "to": recipient, "subject": "x", "text": "x", **more}
        request = urllib.request.Request(
            f"http://{self.host}:{self.http}/v3/{domain}/messages", urllib.parse.urlencode(fields).encode()
        )
        request.add_header("Authorization", "Basic " + base64.b64encode(f"api:{key}".encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


@contextmanager
def serving(
    folder: Path,
    *,
    workers: int = 2,
    start: bool = True,
    grace_s: float = 0.0,
    name: str = "",
    route: int | None = None,
    **more: str,
) -> Iterator[tuple[Serving, Receiver]]:
    """A node and its receiver, both ended at the end.

    Args:
        route: The port that it delivers to instead.
    """
    receiver = Receiver()
    port = receiver.port if route is None else route
    node = Serving(folder, workers=workers, receiver=port, grace_s=grace_s, name=name, **more)
    try:
        if start:
            node.start()
        yield node, receiver
    finally:
        if node.daemon is not None:
            node.stop()
        receiver.stop()


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
