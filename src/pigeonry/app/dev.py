"""The development run: one process, one loop, every part real; only the route leads to the capture sink.

What is delivered goes over SMTP to a sink in the same process, which keeps it for the inbox page. State is kept in one
folder: killed and started again, it goes on where it was. It listens on loopback only, and answers neither to other
names nor to other sites' pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shlex
import signal
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.routing import Router

from pigeonry.app import exits, settings
from pigeonry.app.config import ConfigInvalid, split_address
from pigeonry.app.installation import claim, prepare
from pigeonry.app.loopback import LoopbackOnly, is_loopback
from pigeonry.app.output import print_json
from pigeonry.app.sockets import AddressTaken, Listener, bind
from pigeonry.app.tls import make_self_signed
from pigeonry.app.wiring import Wiring
from pigeonry.capture.box import Box
from pigeonry.capture.inbox import routes
from pigeonry.capture.sink import Sink
from pigeonry.doors.ops.door import OpsDoor
from pigeonry.net.environment import SystemClock
from pigeonry.net.lanes import ThreadLane
from pigeonry.telemetry import log

if TYPE_CHECKING:
    from pigeonry.app.node import Node

__all__ = ["DevRun", "choose_sockets"]

HOST: Final = "127.0.0.1"
HTTP_PORT: Final = 8080
SMTP_PORT: Final = 2525
PORTS_TRIED: Final = 100  # from the usual one upwards
SHARDS: Final = 4  # as many as one worker needs
PASSWORD: Final = "pigeonry"  # noqa: S105  # public, as is the key `dev`: the listeners are on loopback
RETRY_S: Final = 2.0  # a person waits for it
IN_DOUBT_S: Final = 5.0  # seconds; the same person, and no receiver that is slow to finish
REPLY_S: Final = 10.0  # timeout@ is given up after this
DRAIN_S: Final = 2.0  # seconds; longer than a conversation with the sink, shorter than a second Ctrl-C


def choose_sockets(*, http: str | None, smtp: str | None) -> Mapping[str, socket.socket]:
    """Listening sockets for both doors: where asked for, else on the usual port or the next free one.

    Raises:
        ConfigInvalid: An address is malformed or not on loopback.
        AddressTaken: What was asked for cannot be had.
    """
    chosen = {"http": _listen("http", http, HTTP_PORT)}
    try:
        chosen["smtp"] = _listen("smtp", smtp, SMTP_PORT)
    except BaseException:
        chosen["http"].close()
        raise
    return chosen


def _listen(door: Any, asked: str | None, usual: int) -> socket.socket:
    if asked is not None:
        try:
            host, port = split_address(asked)
        except ValueError as error:
            raise ConfigInvalid([f"--{door}: {error}"]) from None
        if not is_loopback(host):
            raise ConfigInvalid([f"--{door}: {host} is not loopback; a development run listens nowhere else"])
        try:
            return bind(Listener(door, host, port), slots=1, named=f"--{door}")[0]
        except AddressTaken as taken:
            raise AddressTaken(f"{taken}. Without --{door} the next free port is taken.") from None
    for port in range(usual, usual + PORTS_TRIED):
        with contextlib.suppress(AddressTaken):
            return bind(Listener(door, HOST, port), slots=1)[0]
    raise AddressTaken(f"no port from {usual} to {usual + PORTS_TRIED - 1} is free; choose one with --{door}")


class DevRun:
    """One development run.

    Args:
        sockets: Listening, by door.
        asked: The doors whose address was asked for.
        data: The folder; made when it is not there.
    """

    def __init__(
        self, sockets: Mapping[str, socket.socket], *, asked: Collection[str], data: str, api_key: str, json: bool
    ) -> None:
        self._sockets = sockets
        self._asked = asked
        self._folder = Path(data).absolute()
        self._api_key = api_key
        self._json = json
        self._log = log.configure(level="warning", form="json" if json else "human")
        self._clock = SystemClock()
        self._lane = ThreadLane("inbox")
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Serve until Ctrl-C or SIGTERM; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        store, seal_key = str(self._folder / "node"), str(self._folder) + ".seal-key"
        prepare(store, seal_key)
        lock = claim(str(self._folder))
        box = Box(str(self._folder / "inbox.db"), self._lane)
        await box.open()
        sink = Sink(box, clock=self._clock, hostname="sink.localhost", message_octets_max=settings.MESSAGE_OCTETS_MAX)
        listening = socket.create_server((HOST, 0))
        server = await loop.create_server(sink.protocol_factory, sock=listening)
        try:
            wiring = await Wiring.build(
                self._settings(listening.getsockname()[1]),
                data=store,
                sealing_key=seal_key,
                slot=0,
                workers=1,
                log=self._log,
                dev=True,
            )
            login = await wiring.accounts().ensure_dev(secret=self._api_key, password=PASSWORD)
            node = wiring.node(around=lambda api: self._site(api, wiring, box))
            for sentence in await node.open(b""):
                self._log.warning("store_repaired", what=sentence)
            await self._serve(node, login)
        finally:
            server.close()
            await sink.close()
            await box.close()
            self._lane.close()
            lock.release()
        return exits.OK

    async def _serve(self, node: Node, login: str) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                served = group.create_task(node.serve(list(self._sockets.items()), command=None))
                helpers = [group.create_task(self._announce(node, login)), group.create_task(self._end(node))]
                await asyncio.wait((served,))
                for helper in helpers:
                    helper.cancel()
        finally:
            await node.close()
            await node.end(last=True)

    async def _end(self, node: Node) -> None:
        await self._stop.wait()
        await node.drain()

    async def _announce(self, node: Node, login: str) -> None:
        """Say where everything is, once it is there."""
        await node.opened.wait()
        gc.freeze()
        gc.enable()
        for door, usual in (("http", HTTP_PORT), ("smtp", SMTP_PORT)):
            port = self._sockets[door].getsockname()[1]
            if door not in self._asked and port != usual:
                sys.stderr.write(f"Port {usual} is taken: {door.upper()} is on {port}.\n")
        facts = {
            "http": self._url(),
            "inbox": f"{self._url()}/inbox",
            "smtp": "smtp://{}:{}".format(*self._sockets["smtp"].getsockname()[:2]),
            "domain": "sandbox.localhost",
            "api_key": self._api_key,
            "smtp_login": login,
            "smtp_password": PASSWORD,
            "data": str(self._folder),
        }
        if self._json:
            print_json(facts)
            return
        _print_table(facts, try_it=self._try_it())

    def _url(self) -> str:
        host, port = self._sockets["http"].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _try_it(self) -> str:
        return (
            f"curl -s --user {shlex.quote(f'api:{self._api_key}')} {self._url()}/v3/sandbox.localhost/messages \\\n"
            "  -F from='Ada <ada@sandbox.localhost>' -F to='bob@example.com' \\\n"
            "  -F subject='Hello' -F text='It works.'"
        )

    def _settings(self, sink_port: int) -> settings.Settings:
        cert, key = self._folder / "tls-cert.pem", self._folder / "tls-key.pem"
        if not cert.exists():
            make_self_signed(cert, key, names=("localhost", "sandbox.localhost"), now=self._clock.now())
        return settings.Settings(
            node=settings.NodeSettings(
                hostname="localhost", workers=1, shards=SHARDS, drain_s=DRAIN_S, drain_grace_s=0.0
            ),
            tls=settings.TlsSettings(cert=str(cert), key=str(key)),
            delivery=settings.DeliverySettings(
                route=f"smtp://{HOST}:{sink_port}",
                retry_base_s=RETRY_S,
                retry_cap_s=RETRY_S * 16,
                reply_timeout_s=REPLY_S,
                final_reply_timeout_s=REPLY_S,
                in_doubt_delay_s=IN_DOUBT_S,
            ),
        )

    def _site(self, api: Any, wiring: Wiring, box: Box) -> LoopbackOnly:
        """The API, the inbox and the ops paths on one listener, for this machine only."""
        inbox = Router(routes(box, events_of=wiring.events_of, try_it=self._try_it()), redirect_slashes=False)
        ops = OpsDoor(readiness=lambda: (not self._stop.is_set(), {}), metrics=wiring.page)

        async def site(scope: Any, receive: Any, send: Any) -> None:
            path: str = scope["path"]
            if path in {"/livez", "/readyz", "/metrics"}:
                await ops(scope, receive, send)
            elif path == "/inbox" or path.startswith("/inbox/") or (path == "/" and _from_browser(scope)):
                await inbox(scope, receive, send)
            else:
                await api(scope, receive, send)

        return LoopbackOnly(site)


def _from_browser(scope: Any) -> bool:
    """Whether a person looks, and not a program that knows the API by its root."""
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _print_table(facts: Mapping[str, str], *, try_it: str) -> None:
    if not sys.stdout.isatty():
        lines = [f"{name}\t{value}" for name, value in facts.items()]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        return
    from rich import box as boxes
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=boxes.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for label, value in _shown(facts):
        table.add_row(label, Text(value))
    console.print("[bold]pigeonry[/] is ready. Nothing leaves this machine.")
    console.print(table)
    console.print(Text(try_it, style="cyan"), soft_wrap=True)  # to be copied
    console.print("\n[dim]Ctrl-C stops it; the next start goes on where it was.[/]")


def _shown(facts: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    return [
        ("Inbox", facts["inbox"]),
        ("HTTP API", f"{facts['http']}/v3/{facts['domain']}/messages"),
        ("API key", facts["api_key"]),
        ("SMTP", facts["smtp"]),
        ("SMTP login", f"{facts['smtp_login']} / {facts['smtp_password']}"),
        ("Data", facts["data"]),
    ]
