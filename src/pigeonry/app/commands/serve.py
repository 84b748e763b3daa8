"""``pigeonry serve``: the supervisor of a node in production."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from pathlib import Path

from pigeonry import __version__
from pigeonry.app.config import default_data, load, sealing_key_path
from pigeonry.app.output import ConfigFile
from pigeonry.domain.errors import StoreBusy

__all__ = ["serve"]


def serve(*, config: ConfigFile = None) -> int:
    """Run this node until SIGTERM. SIGHUP reads configuration and certificates again."""
    settings = load(config, os.environ)
    import uvloop

    from pigeonry.app.installation import claim, prepare
    from pigeonry.app.node_commands import NodeCommands
    from pigeonry.app.node_ops import NodeOps
    from pigeonry.app.notify import Notifier
    from pigeonry.app.supervisor import Supervisor
    from pigeonry.net.environment import SystemClock
    from pigeonry.telemetry import log

    data = str(Path(default_data(settings, os.environ)).absolute())
    seal_key = sealing_key_path(settings, os.environ)
    prepare(data, seal_key)
    lock = claim(data)
    logger = log.configure(level=settings.log.level, form=settings.log.format)
    if settings.store.engine == "cassandra":
        from pigeonry.app.cluster_store import check_schema

        with contextlib.suppress(StoreBusy):  # workers wait for it
            asyncio.run(check_schema(settings))
        # What is left of the driver's session ends here, with its threads. In a process that is forked from this one it
        # would be collected as well, and wait for threads that are not there.
        gc.collect()
    logger.info("starting", version=__version__, config=config, data=data)
    supervisor = Supervisor(
        settings,
        read=lambda: load(config, os.environ),
        data=data,
        sealing_key=seal_key,
        clock=SystemClock(),
        notifier=Notifier(os.environ, pid=os.getpid()),
        log=logger,
    )
    ops = NodeOps(supervisor, settings, data=data)
    commands = NodeCommands(supervisor, data=data)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(supervisor.run(ops.run, commands.run))
    lock.release()
    return status
