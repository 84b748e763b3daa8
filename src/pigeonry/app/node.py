"""One worker's parts at work: taken over, served, drained, given back.

The order is what matters here. A node first owns its shards and knows keys, logins and domains; only then do its
doors open. When it leaves it hands over what it can while its doors are open. When it drains the doors close first,
then deliveries end, then what waits for the disk is written, and last the shards are given back. A store whose sync
failed is believed no more: the node ends at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.doors.commands.answering import by_name
from pigeonry.doors.commands.server import CommandDoor

if TYPE_CHECKING:
    import socket

    from pigeonry.app.commanding import Commanding
    from pigeonry.app.doors import Doors
    from pigeonry.app.engine import Store
    from pigeonry.delivery.dispatcher import Dispatcher
    from pigeonry.ports.environment import Clock
    from pigeonry.telemetry.log import Logger
    from pigeonry.telemetry.metrics import Metrics

__all__ = ["Node", "Parts", "StoreBroken"]

NOTHING_TO_SAY: Final = msgspec.msgpack.encode([])
LATE_S: Final = 0.25  # how often the loop's lateness is measured


class StoreBroken(Exception):
    """A sync failed: the worker must end and the files be opened anew."""


class Parts(msgspec.Struct):
    """What a node is made of.

    Args:
        first: Awaited in order once the shards are owned: opens files, learns keys and domains.
        running: Components with work of their own; each runs until cancelled.
        leaving: Called when the node goes out of service, while its doors are still open; twice comes to once.
        idle: Awaited once nothing is sent any more, while the store is closed.
        of_node: Awaited in order by the last worker of a node that leaves: gives back what all its workers shared.
        last: Awaited in order at the end, after the store was closed.
        reload_certificates: Each loads the files of one certificate again.
    """

    clock: Clock
    store: Store
    dispatcher: Dispatcher
    doors: Doors
    metrics: Metrics
    commanding: Commanding
    first: Sequence[Callable[[], Awaitable[Any]]]
    running: Sequence[Callable[[], Coroutine[Any, Any, None]]]
    leaving: Sequence[Callable[[], None]]
    idle: Sequence[Callable[[], Awaitable[Any]]]
    of_node: Sequence[Callable[[], Awaitable[Any]]]
    last: Sequence[Callable[[], Awaitable[Any]]]
    reload_certificates: Sequence[Callable[[], None]]


class Node:
    """A worker's life around its parts.

    Args:
        drain_s: Seconds for transactions, and as many again for deliveries, before they are cut.
    """

    def __init__(self, parts: Parts, *, drain_s: float, log: Logger) -> None:
        self._parts = parts
        self._drain_s = drain_s
        self.log = log
        self.opened = asyncio.Event()
        self.pending = 0

    async def open(self, last_words: bytes) -> Sequence[str]:
        """Take the shards and learn what the doors must know; sentences on what was mended.

        Raises:
            Conflict: No shard of this slot is free to accept into.
        """
        parts = self._parts
        parts.store.heed(last_words)
        reports = await parts.store.open()
        self.pending = sum(report.pending for report in reports)
        for step in parts.first:
            await step()
        return [f"shard {report.shard}: {repair}" for report in reports for repair in report.repairs]

    async def serve(self, sockets: Sequence[tuple[str, socket.socket]], *, command: socket.socket | None) -> None:
        """Serve until drained or cancelled.

        Raises:
            ExceptionGroup: A part failed, or the store broke (``StoreBroken``).
        """
        parts = self._parts
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(run()) for run in (parts.store.run, *parts.running, parts.dispatcher.run)]
            beside.append(group.create_task(self._watch_store()))
            beside.append(group.create_task(self._measure_lateness()))
            if command is not None:
                handlers = {"metrics": self._metrics, **parts.commanding.handlers}
                beside.append(group.create_task(CommandDoor(by_name(handlers)).run(command)))
            for_nodes = [listening for door, listening in sockets if door == "cluster"]
            if for_nodes and parts.commanding.door is not None:
                beside.append(group.create_task(parts.commanding.door.run(for_nodes)))
            await parts.doors.run(sockets, opened=self.opened.set)
            try:
                async with asyncio.timeout(self._drain_s):
                    await asyncio.gather(parts.dispatcher.drain(), parts.commanding.relays.drain())
            except TimeoutError:
                self._cut_short("deliveries")
            for task in reversed(beside):
                task.cancel()

    def leave(self) -> None:
        """Hand over to others what can be had elsewhere already, from now on."""
        for step in self._parts.leaving:
            step()

    async def drain(self) -> None:
        """Close the doors, finish what is under way; ``serve`` returns when it is done."""
        if not await self._parts.doors.drain(self._drain_s):
            self._cut_short("transactions")
        self._parts.doors.ended()

    def heed(self, last_words: bytes) -> None:
        """Know a predecessor's last words before its shards are taken over."""
        self._parts.store.heed(last_words)

    def last_words(self) -> bytes:
        """Messages that the successor must void before it serves their shards; empty when there are none."""
        words = self._parts.store.last_words()
        return b"" if words == NOTHING_TO_SAY else words

    @property
    def broken(self) -> bool:
        """Whether the store broke."""
        return self._parts.store.broken.is_set()

    def reload_certificates(self) -> None:
        """Present the certificates that are in the files now; an old one stays when they don't fit."""
        for reload in self._parts.reload_certificates:
            try:
                reload()
            except OSError as error:
                self.log.warning("certificates_refused", reason=str(error))

    async def close(self) -> None:
        """Write what waits, give the shards back, and all that this worker alone held. It sends nothing any more."""
        await asyncio.gather(*(step() for step in self._parts.idle), self._parts.store.close())

    async def end(self, *, last: bool) -> None:
        """Close every file; it is closed already.

        Args:
            last: No other worker of the node uses anything any more.
        """
        for step in (*(self._parts.of_node if last else ()), *self._parts.last):
            await step()

    async def page(self) -> bytes:
        """The metrics' exposition."""
        return self._parts.metrics.page()

    async def _metrics(self, _argument: Any) -> bytes:
        return await self.page()

    def _cut_short(self, what: str) -> None:
        self.log.warning("drain_cut_short", what=what, after_s=self._drain_s)

    async def _watch_store(self) -> None:
        await self._parts.store.broken.wait()
        self.log.error("store_broken", meaning="a sync failed; this worker ends and its files are opened anew")
        raise StoreBroken

    async def _measure_lateness(self) -> None:
        clock = self._parts.clock
        while True:
            due = clock.monotonic() + LATE_S
            await clock.sleep(LATE_S)
            self._parts.metrics.loop_late(max(0.0, clock.monotonic() - due))
