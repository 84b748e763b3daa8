"""One worker in this process, relaying to a sink: for profiles and for figures that only show from inside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
import socket
import sys
from collections.abc import AsyncIterator

import msgspec
from parts import Sink, until

from pigeonry.app.installation import prepare
from pigeonry.app.settings import DeliverySettings, NodeSettings, Settings, SmtpSettings
from pigeonry.app.wiring import Wiring
from pigeonry.telemetry import log

RUN_S = 120.0


class Relay:
    """A worker that is up, and the sink behind it."""

    def __init__(self, wiring: Wiring, sink: Sink, port: int) -> None:
        self.wiring = wiring
        self.sink = sink
        self._port = port

    async def send(self, messages: int, *, sessions: int, size: int) -> None:
        """Send so many messages through it; returns when all have arrived."""
        before = self.sink.count
        source = shutil.which("smtp-source", path="/usr/sbin:/usr/bin") or sys.exit("needs Debian's postfix")
        process = await asyncio.create_subprocess_exec(
            *(source, "-s", str(sessions), "-l", str(size), "-m", str(messages)),
            *("-f", "a@sender.test", "-t", "b@dest.test", f"127.0.0.1:{self._port}"),
        )
        await process.wait()
        await asyncio.to_thread(until, lambda: self.sink.count >= before + messages, "all are delivered", RUN_S)


@contextlib.asynccontextmanager
async def relaying(folder: str) -> AsyncIterator[Relay]:
    """A worker as it is shipped, with its files in a folder."""
    sink = Sink()
    settings = msgspec.structs.replace(
        Settings(),
        node=NodeSettings(data=f"{folder}/data", hostname="relay.bench.test"),
        smtp=SmtpSettings(trusted_networks=("127.0.0.0/8",)),
        delivery=DeliverySettings(route=f"smtp://127.0.0.1:{sink.port}"),
    )
    prepare(f"{folder}/data", f"{folder}/seal")
    logger = log.configure(level="warning", form="json")
    wiring = await Wiring.build(
        settings, data=f"{folder}/data", sealing_key=f"{folder}/seal", slot=0, workers=1, log=logger
    )
    node = wiring.node()
    await node.open(b"")
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listening.setblocking(False)  # the standard library's signature
    serving = asyncio.ensure_future(node.serve([("smtp", listening)], command=None))
    await node.opened.wait()
    gc.freeze()
    sys.setswitchinterval(0.0005)
    try:
        yield Relay(wiring, sink, listening.getsockname()[1])
        await node.drain()
        await serving
    finally:
        await node.close()
        sink.stop()
