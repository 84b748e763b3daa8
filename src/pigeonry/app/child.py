"""One worker process as its supervisor sees it: started, heard of, drained, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from pigeonry.app.control import (
    SILENCE_S_MAX,
    START_S_MAX,
    Beat,
    Bye,
    Channel,
    Drain,
    FromSupervisor,
    Go,
    Handed,
    Heard,
    LastWords,
    Prepared,
    Quiet,
    Ready,
    Start,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pigeonry.app.settings import Settings
    from pigeonry.ports.environment import Clock

__all__ = ["Child", "Plan"]

NOTED_S: Final = 3.0  # a successor whose loop stands still for longer is killed soon, and starts with the words
WORKER: Final = (sys.executable, "-m", "pigeonry.app.worker")


class Plan:
    """What the worker of a slot is started with.

    Args:
        sockets: The slot's listening sockets by door.
        command: Its listening command socket.
    """

    def __init__(
        self,
        *,
        slot: int,
        workers: int,
        settings: Settings,
        data: str,
        sealing_key: str,
        sockets: Sequence[tuple[str, socket.socket]],
        command: socket.socket,
    ) -> None:
        self.slot = slot
        self.workers = workers
        self.settings = settings
        self.data = data
        self.sealing_key = sealing_key
        self.sockets = sockets
        self.command = command

    def start(self, generation: int) -> Start:
        """The worker's first message."""
        return Start(
            slot=self.slot,
            workers=self.workers,
            generation=generation,
            settings=self.settings,
            data=self.data,
            sealing_key=self.sealing_key,
            listeners=tuple(Handed(door, made.fileno()) for door, made in self.sockets),
            command_fd=self.command.fileno(),
        )

    def descriptors(self) -> list[int]:
        """The sockets' descriptors, the same number in the child."""
        return [made.fileno() for _, made in self.sockets] + [self.command.fileno()]


class Child:
    """A running worker process. ``attend`` must run beside it."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: Channel, *, slot: int, generation: int, clock: Clock
    ) -> None:
        self._process = process
        self._channel = channel
        self._clock = clock
        self.slot = slot
        self.generation = generation
        self.started_at = self.heard_at = clock.monotonic()
        self._beats = False
        self.prepared = asyncio.Event()
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.report: Ready = Ready()
        self.last_words = b""
        self.noted = asyncio.Event()
        self.draining = False
        self.successor: Child | None = None
        self.quiet = False
        """Whether it sends nothing any more."""
        self.is_last: Callable[[], bool] = _no
        """Whether it is the last one of a node that leaves, now that it is quiet."""

    @classmethod
    async def spawn(cls, plan: Plan, *, generation: int, clock: Clock) -> Child:
        """Start the process and send it its plan.

        Raises:
            OSError: No process can be made.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            process = await asyncio.create_subprocess_exec(
                *WORKER,
                str(theirs.fileno()),
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *plan.descriptors()],
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        channel = await Channel.over(ours)
        channel.send(plan.start(generation))
        return cls(process, channel, slot=plan.slot, generation=generation, clock=clock)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def is_stuck(self, now: float) -> bool:
        """Whether it has been silent for longer than a loop that turns can be; ``now`` is monotonic seconds."""
        return now - self.heard_at > (SILENCE_S_MAX if self._beats else START_S_MAX)

    async def attend(self) -> None:
        """Hear what it says until it is gone; ``ended`` is set when this returns."""
        try:
            while (message := await self._channel.from_worker()) is not None:
                self.heard_at = self._clock.monotonic()
                if isinstance(message, Beat):
                    self._beats = True
                elif isinstance(message, Prepared):
                    self.prepared.set()
                elif isinstance(message, Ready):
                    self.report = message
                    self.ready.set()
                elif isinstance(message, LastWords):
                    self.last_words = message.octets
                    await self._pass_on()
                elif isinstance(message, Heard):
                    self.noted.set()
                elif isinstance(message, Quiet):
                    self.quiet = True
                    self._channel.send(Bye(self.is_last()))
            await self._process.wait()
        finally:
            self._channel.close()
            self.ended.set()

    async def _pass_on(self) -> None:
        """See that a successor that serves already knows the last words before the shards are given back."""
        successor = self.successor
        if successor is not None and not successor.ended.is_set():
            successor.noted.clear()
            successor.send(LastWords(self.last_words))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(successor.noted.wait(), NOTED_S)
        self._channel.send(Heard())

    def send(self, message: FromSupervisor) -> None:
        """Tell it something."""
        if isinstance(message, Drain):
            self.draining = True
        self._channel.send(message)

    def go(self, last_words: bytes) -> None:
        """Let it take its shards and open its doors; what it was told it hands on when it dies without a word."""
        self.last_words = last_words
        self._channel.send(Go(last_words))

    def kill(self) -> None:
        """End it at once. What it acknowledged is durable, so nothing is lost by it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _no() -> bool:
    return False
