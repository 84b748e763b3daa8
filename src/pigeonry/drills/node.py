"""A real node for a drill: ``pigeonry serve`` as a child, with ways to hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pigeonry.ports.environment import Clock, Dice

__all__ = ["Node", "NodeDown", "free_port"]

READY_S: Final = 30.0  # a node that is not ready by then has failed the drill
PROBE_S: Final = 0.02  # seconds between two questions whether it is ready
PORTS: Final = range(20_000, 32_000)  # below the ephemeral ports of Linux
STOP_S: Final = 60.0  # seconds; twice what a drain may take by default


class NodeDown(Exception):
    """The node did not come up, or parts of it outlived it; the text is a sentence for the report."""


def free_port(dice: Dice) -> int:
    """A loopback port that nobody listens on now, and that no outgoing connection takes while the node is down."""
    while True:
        port = PORTS[int(dice.random() * len(PORTS))]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Node:
    """One node: a supervisor and its workers.

    Args:
        config: Its configuration file.
        smtp_port: The port by which it is known to be ready.
        environ: Added to the environment of its processes.
        host: The loopback address of all its doors. It is asked from there, since from others it may expect a header.
    """

    def __init__(
        self, config: Path, smtp_port: int, clock: Clock, environ: dict[str, str], *, host: str = "127.0.0.1"
    ) -> None:
        self._config = config
        self._host = host
        self._smtp_port = smtp_port
        self._clock = clock
        self._environ = {**os.environ, **environ}
        self._process: asyncio.subprocess.Process | None = None
        self._log = config.with_suffix(".log")

    async def command(self, *words: str, fine: Sequence[int] = (0,)) -> dict[str, object]:
        """Run ``pigeonry WORDS --config FILE --json``; what it printed.

        Args:
            fine: Exit statuses that it may end with.

        Raises:
            RuntimeError: It ended with another.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pigeonry", *words, "--config", str(self._config), "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environ,
        )
        out, err = await process.communicate()
        if process.returncode not in fine:
            raise RuntimeError(f"pigeonry {' '.join(words)}: {err.decode(errors='replace')}")
        answer: dict[str, object] = json.loads(out)
        return answer

    async def start(self) -> None:
        """Start it and wait until it greets."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pigeonry", "serve", "--config", str(self._config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
            )
        await self.greeted()

    async def greeted(self) -> None:
        """Wait until a worker greets."""
        give_up = self._clock.monotonic() + READY_S
        while not await self._greets():
            if self._clock.monotonic() > give_up:
                raise NodeDown(f"the node did not greet within {READY_S:.0f} s; see {self._log}")
            await self._clock.sleep(PROBE_S)

    async def _greets(self) -> bool:
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(self._host, self._smtp_port, local_addr=(self._host, 0))
                try:
                    return (await reader.readline()).startswith(b"220")
                finally:
                    writer.transport.abort()
        except OSError:
            return False

    def workers(self) -> list[int]:
        """Pids of its worker processes now."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()]
        except OSError:
            return []

    def resident_mib(self) -> float:
        """Memory of its largest worker now, in MiB."""
        sizes = [0]
        for pid in self.workers():
            with contextlib.suppress(OSError):
                sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]))
        return max(sizes) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def kill(self, pid: int) -> None:
        """End a worker with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def kill_supervisor(self) -> None:
        """End the supervisor with SIGKILL, wait until its orphans are gone, start anew."""
        assert self._process is not None
        orphans = self.workers()
        self._process.kill()
        await self._process.wait()
        give_up = self._clock.monotonic() + READY_S
        while any(map(_runs, orphans)):
            if self._clock.monotonic() > give_up:
                raise NodeDown("workers outlived their supervisor")
            await self._clock.sleep(PROBE_S)
        await self.start()

    async def kill_all(self) -> None:
        """As ``die``, and start anew."""
        await self.die()
        await self.start()

    async def die(self) -> None:
        """End supervisor and workers with SIGKILL at one instant, as a power cut does; nothing when none runs."""
        if self._process is not None and self._process.returncode is None:
            for pid in [self._process.pid, *self.workers()]:
                self.kill(pid)
            await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM, and wait until it drained; its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await self._process.wait()
            except TimeoutError:
                for pid in [*self.workers(), self._process.pid]:
                    self.kill(pid)
                await self._process.wait()
        return self._process.returncode or 0


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/exe").exists()
