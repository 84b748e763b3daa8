"""Where one worker's CPU goes: the relay work through a worker in this process, under cProfile.

usage: profile_worker.py [--messages 5000] [--size 4096] [--plain]

--plain runs without the profiler and prints the CPU time a message alone. Loop and lanes are separate threads: the
profiler sees the loop, which is where nearly all of it is.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import shutil
import socket
import sys
import tempfile
import time

import msgspec
import uvloop
from parts import Sink, until

from pigeonry.app.installation import prepare
from pigeonry.app.settings import DeliverySettings, NodeSettings, Settings, SmtpSettings
from pigeonry.app.wiring import Wiring
from pigeonry.telemetry import log

RUN_S = 120.0


async def relay(options: argparse.Namespace, folder: str, profiler: cProfile.Profile | None) -> None:
    """Run the work once."""
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
    source = shutil.which("smtp-source", path="/usr/sbin:/usr/bin") or sys.exit("needs Debian's postfix")
    if profiler is not None:
        profiler.enable()
    begun, cpu = time.perf_counter(), time.process_time()
    process = await asyncio.create_subprocess_exec(
        *(source, "-s", "50", "-l", str(options.size), "-m", str(options.messages)),
        *("-f", "a@sender.test", "-t", "b@dest.test", f"127.0.0.1:{listening.getsockname()[1]}"),
    )
    await process.wait()
    await asyncio.to_thread(until, lambda: sink.count >= options.messages, "all are delivered", RUN_S)
    elapsed, used = sink.last_at, time.process_time() - cpu
    if profiler is not None:
        profiler.disable()
    print(f"{used / options.messages * 1e6:.0f} us CPU a message, {time.perf_counter() - begun:.1f} s")
    assert elapsed
    await node.drain()
    await serving
    await node.close()
    sink.stop()


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
