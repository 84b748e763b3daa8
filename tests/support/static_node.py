"""One worker of a cluster whose members and their shards are a table: ``python static_node.py CONFIG TABLE NODE``.

TABLE is a JSON list of members, each ``[node, slot, address]``; shards are dealt to them in turn. All else is as in a
node's worker: the real parts on real sockets, SIGHUP for certificates, SIGTERM to drain.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import uvloop

from pigeonry.app.config import load
from pigeonry.app.engine import Who
from pigeonry.app.installation import prepare
from pigeonry.app.sockets import bind, bind_command_socket, listeners_of
from pigeonry.app.wiring import Wiring
from pigeonry.ports.ownership import Member
from pigeonry.telemetry import log


def main() -> None:
    config, table, node = sys.argv[1:]
    members = [Member(*member) for member in json.loads(table)]
    uvloop.run(run(config, members, node))


async def run(config: str, members: list[Member], name: str) -> None:
    settings = load(config, os.environ)
    data, seal_key = settings.node.data, settings.node.data + ".seal-key"
    prepare(data, seal_key)
    place = next(number for number, member in enumerate(members) if member.node == name)

    class StaticWiring(Wiring):
        def __init__(self, *settings: Any, **choices: Any) -> None:
            super().__init__(*settings, **choices)
            self._who = Who(members, place)

    wiring = await StaticWiring.build(
        settings,
        data=data,
        sealing_key=seal_key,
        slot=place,
        workers=len(members),
        log=log.configure(level="info", form="json"),
    )
    worker = wiring.node()
    await worker.open(b"")
    sockets = [(listener.door, bind(listener, slots=1)[0]) for listener in listeners_of(settings)]
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, worker.reload_certificates)
    loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(worker.drain()))
    await worker.serve(sockets, command=bind_command_socket(data, members[place].slot))
    await worker.close()


if __name__ == "__main__":
    main()
