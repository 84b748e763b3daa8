"""A worker process: builds its parts, waits for its turn, serves, drains.

Started by the supervisor only, with the number of an inherited socket by which the two speak (``control``). It ends
when the supervisor does: the kernel kills it then, and where the kernel can't, the broken pair says so. An orphan
could acknowledge mail while another node already owns its shards, so it does not wait to be asked.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

from pigeonry.app import exits
from pigeonry.app.control import (
    BEAT_S,
    Beat,
    Certificates,
    Channel,
    Drain,
    Go,
    LastWords,
    Prepared,
    Ready,
    Start,
)
from pigeonry.telemetry import log

if TYPE_CHECKING:
    from pigeonry.app.wiring import Node
    from pigeonry.ports.environment import Clock

__all__ = ["main"]

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
GC_YOUNG: Final = 10_000  # allocations before a young collection: per-message structs are no garbage cycles
GC_OLDER: Final = 50  # young collections before an older one, and so on


def main() -> None:
    """The process, from ``python -m pigeonry.app.worker DESCRIPTOR PARENT``."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the supervisor says what is to be done
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(_work(descriptor))
    sys.stderr.flush()
    os._exit(status)  # nothing is left to do: lanes and files were closed, and threads of libraries may linger


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, if it has not already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(exits.FAILED)


async def _work(descriptor: int) -> int:
    channel = await Channel.over(socket.socket(fileno=descriptor))
    start = await channel.from_supervisor()
    if not isinstance(start, Start):
        return exits.FAILED
    from pigeonry.app.wiring import build_node
    from pigeonry.net.environment import SystemClock

    clock = SystemClock()
    logger = log.configure(level=start.settings.log.level, form=start.settings.log.format, worker=start.slot)
    node = await build_node(
        start.settings,
        data=start.data,
        sealing_key=start.sealing_key,
        slot=start.slot,
        workers=start.workers,
        log=logger,
    )
    worker = _Worker(channel, start, node, clock)
    try:
        return await worker.run()
    except Exception:
        logger.exception("worker_failed")
        return exits.FAILED


class _Worker:
    """The conversation with the supervisor around a node."""

    def __init__(self, channel: Channel, start: Start, node: Node, clock: Clock) -> None:
        self._channel = channel
        self._start = start
        self._node = node
        self._clock = clock

    async def run(self) -> int:
        """From ``Prepared`` to the end; the exit status."""
        async with asyncio.TaskGroup() as group:
            beats = group.create_task(self._beat())
            self._channel.send(Prepared())
            told = await self._channel.from_supervisor()
            if isinstance(told, Go):
                await self._serve(told.last_words, group)
            beats.cancel()
        words = self._node.last_words()
        if words:
            self._channel.send(LastWords(words))
        await self._channel.flush()
        self._channel.close()
        return exits.FAILED if words else exits.OK

    async def _serve(self, last_words: bytes, group: asyncio.TaskGroup) -> None:
        """Own the shards and serve until drained, told to end, or broken."""
        node = self._node
        repairs = await node.open(last_words)
        for sentence in repairs:
            node.log.warning("store_repaired", what=sentence)
        sockets = [(handed.door, socket.socket(fileno=handed.fd)) for handed in self._start.listeners]
        command = socket.socket(fileno=self._start.command_fd)
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_YOUNG, GC_OLDER, GC_OLDER)
        serving = group.create_task(node.serve(sockets, command=command))
        listening = group.create_task(self._listen())
        await node.opened.wait()
        self._channel.send(Ready(pending=node.pending, repairs=tuple(repairs)))
        try:
            await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
            if listening.done() and not listening.cancelled():
                await node.drain()
        finally:
            listening.cancel()
            serving.cancel()
            await asyncio.wait((serving,))
            await node.close()

    async def _listen(self) -> None:
        """Act on what the supervisor says; returns when it is time to end."""
        while True:
            told = await self._channel.from_supervisor()
            if told is None or isinstance(told, Drain):
                return
            if isinstance(told, Certificates):
                self._node.reload_certificates()

    async def _beat(self) -> None:
        due = self._clock.monotonic()
        while True:
            self._channel.send(Beat(max(0.0, self._clock.monotonic() - due)))
            due = self._clock.monotonic() + BEAT_S
            await self._clock.sleep(BEAT_S)


if __name__ == "__main__":
    main()
