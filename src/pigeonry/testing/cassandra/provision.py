"""Makes the parts of a node, once: fetches the jars, and traces one start into the archive of classes."""

from __future__ import annotations

import asyncio
import fcntl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pigeonry.net.environment import SystemClock
from pigeonry.testing.cassandra.cluster import Cluster
from pigeonry.testing.cassandra.parts import Parts, fetch, find

__all__ = ["parts"]


def parts(folder: Path) -> Parts:
    """The parts in a folder, made when they are not there yet: half a minute, once. Safe to call from two processes.

    Raises:
        PartsMissing: No JDK 17, no Maven, or Maven could not fetch the jars.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fetch(folder)
        found = find(folder)
        if not found.archive.exists():
            with ThreadPoolExecutor(1) as thread:  # whoever calls may have a loop that runs
                thread.submit(asyncio.run, _trace(found, folder)).result()
    return found


async def _trace(found: Parts, folder: Path) -> None:
    """Start a node once and let its JVM write down, as it ends, which classes it had."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        fresh = Path(work) / "classes.jsa"
        flag = f"-XX:ArchiveClassesAtExit={fresh}"
        cluster = Cluster(Path(work), found, {"dc1": 1}, clock=SystemClock(), jvm_options=[flag])
        try:
            await cluster.start()
            await cluster.nodes[0].end()
        finally:
            cluster.stop()
        fresh.rename(found.archive)
