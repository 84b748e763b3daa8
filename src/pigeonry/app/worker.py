"""A worker process: builds its parts, waits for its turn, serves, drains.

Started by the supervisor only, with the number of an inherited socket by which the two speak (``control``). It ends
when the supervisor does: the kernel kills it then, and where the kernel can't, the broken pair says so. An orphan
could acknowledge mail while another node already owns its shards, so it does not wait to be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
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
    Bye,
    Certificates,
    Channel,
    Drain,
    Go,
    Heard,
    LastWords,
    Leaving,
    Prepared,
    Quiet,
    Ready,
    Start,
)
from pigeonry.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.app.node import Node
    from pigeonry.ports.environment import Clock

__all__ = ["main"]

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
SWITCH_S: Final = (
    0.0005  # how soon a store lane gets the interpreter back from the loop; measured 5 % less CPU than 5 ms
)
HEARD_S: Final = 5.0  # a supervisor that does not answer in this time is gone, and its successor knows nothing either
GC_YOUNG: Final = 10_000  # allocations before a young collection: per-message structs are no garbage cycles
GC_OLDER: Final = 50  # young collections before an older one, and so on


def main() -> None:
    """The process, from ``python -m pigeonry.app.worker DESCRIPTOR PARENT``."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the supervisor says what is to be done
    sys.setswitchinterval(SWITCH_S)
    gc.disable()  # imports and the opening of shards make much that stays and no garbage
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
    from pigeonry.app.wiring import Wiring
    from pigeonry.domain.errors import PigeonryError
    from pigeonry.net.environment import SystemClock
    from pigeonry.net.sealing import SealKeyError

    clock = SystemClock()
    logger = log.configure(level=start.settings.log.level, form=start.settings.log.format, worker=start.slot)
    try:
        wiring = await Wiring.build(
            start.settings,
            data=start.data,
            sealing_key=start.sealing_key,
            slot=start.slot,
            workers=start.workers,
            log=logger,
        )
        return await _Worker(channel, start, wiring.node(), clock).run()
    except (SealKeyError, PigeonryError) as error:
        logger.error("worker_failed", reason=str(error))  # noqa: TRY400  # a sentence for the operator says it all
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
        self._heard = asyncio.Event()
        self._told_to_drain = asyncio.Event()
        self._told_bye = asyncio.Event()
        self._is_last = False

    async def run(self) -> int:
        """From ``Prepared`` to the end; the exit status."""
        async with asyncio.TaskGroup() as group:
            beats = group.create_task(self._beat())
            self._channel.send(Prepared())
            while isinstance(told := await self._channel.from_supervisor(), Certificates):
                self._node.reload_certificates()
            if isinstance(told, Go):
                await self._live(told.last_words, group)
            beats.cancel()
        await self._channel.flush()
        self._channel.close()
        return exits.FAILED if self._node.broken else exits.OK

    async def _live(self, last_words: bytes, group: asyncio.TaskGroup) -> None:
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
        gc.enable()
        listening = group.create_task(self._listen())
        try:
            async with asyncio.TaskGroup() as serving:
                served = serving.create_task(node.serve(sockets, command=command))
                helpers = [serving.create_task(self._announce(repairs)), serving.create_task(self._drain())]
                await asyncio.wait((served,))
                for helper in helpers:
                    helper.cancel()
        finally:
            await self._leave()
            listening.cancel()

    async def _announce(self, repairs: Sequence[str]) -> None:
        await self._node.opened.wait()
        self._channel.send(Ready(pending=self._node.pending, repairs=tuple(repairs)))

    async def _drain(self) -> None:
        await self._told_to_drain.wait()
        self._node.leave()
        await self._node.drain()

    async def _leave(self) -> None:
        """Give the shards back, but not before those who come next know the last words."""
        words = self._node.last_words()
        if words:
            self._channel.send(LastWords(words))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), HEARD_S)
        await self._node.close()
        self._channel.send(Quiet())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told_bye.wait(), HEARD_S)
        await self._node.end(last=self._is_last)

    async def _listen(self) -> None:
        """Act on what the supervisor says."""
        while True:
            told = await self._channel.from_supervisor()
            if told is None:
                os._exit(exits.FAILED)  # the supervisor is gone: an orphan acknowledges nothing more
            if isinstance(told, Drain):
                self._told_to_drain.set()
            elif isinstance(told, Leaving):
                self._node.leave()
            elif isinstance(told, Bye):
                self._is_last = told.last
                self._told_bye.set()
            elif isinstance(told, Heard):
                self._heard.set()
            elif isinstance(told, LastWords):
                self._node.heed(told.octets)
                self._channel.send(Heard())
            elif isinstance(told, Certificates):
                self._node.reload_certificates()

    async def _beat(self) -> None:
        due = self._clock.monotonic()
        while True:
            self._channel.send(Beat(max(0.0, self._clock.monotonic() - due)))
            due = self._clock.monotonic() + BEAT_S
            await self._clock.sleep(BEAT_S)


if __name__ == "__main__":
    main()
