"""Where one worker's CPU goes: the relay work through a worker in this process, under cProfile.

usage: profile_worker.py [--messages 5000] [--size 4096] [--plain]

--plain runs without the profiler and prints the CPU time a message alone. Loop and lanes are separate threads: the
profiler sees the loop, which is where nearly all of it is.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time

import uvloop
from inprocess import relaying

SESSIONS = 50


async def relay(options: argparse.Namespace, folder: str, profiler: cProfile.Profile | None) -> None:
    """Run the work once."""
    async with relaying(folder) as worker:
        if profiler is not None:
            profiler.enable()
        begun, cpu = time.perf_counter(), time.process_time()
        await worker.send(options.messages, sessions=SESSIONS, size=options.size)
        used = time.process_time() - cpu
        if profiler is not None:
            profiler.disable()
        print(f"{used / options.messages * 1e6:.0f} us CPU a message, {time.perf_counter() - begun:.1f} s")


def main() -> None:
    """Profile and print the dearest functions, by their own time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    profiler = None if options.plain else cProfile.Profile()
    with tempfile.TemporaryDirectory(prefix="pigeonry-profile-") as folder:
        uvloop.run(relay(options, folder, profiler))
    if profiler is not None:
        pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
