"""The doors of a worker on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvloop

from pigeonry.app import doors
from pigeonry.app.doors import Doors
from pigeonry.app.settings import Settings
from pigeonry.app.tls import make_self_signed, server_context


class Mail:
    """An SMTP side whose sessions say nothing."""

    def protocol_factory(self, *, tls: bool) -> Callable[..., asyncio.Protocol]:
        return lambda *_: asyncio.Protocol()

    async def drain(self, within_s: float) -> bool:
        return True

    def stop(self) -> None:
        pass


async def app(_scope: Any, _receive: Any, _send: Any) -> None:
    """Nobody gets here."""


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_who_is_silent_in_his_tls_handshake_is_cut_at_each_door(
    loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "HANDSHAKE_S", 0.02)
    make_self_signed(tmp_path / "cert", tmp_path / "key", names=("node.test",), now=time.time())
    context = server_context(str(tmp_path / "cert"), str(tmp_path / "key"))

    async def silent() -> None:
        made = Doors(http=app, smtp=Mail(), context=context, settings=Settings(), log=structlog.get_logger())
        listening = {door: socket.create_server(("127.0.0.1", 0)) for door in ("https", "smtps")}
        opened = asyncio.Event()
        running = asyncio.create_task(made.run(list(listening.items()), opened=opened.set))
        await opened.wait()
        for each in listening.values():
            reader, writer = await asyncio.open_connection(*each.getsockname())
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()
        await made.drain(1.0)
        made.ended()
        await running

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(silent())
