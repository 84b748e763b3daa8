"""``pigeonry node status|drain``: asked of the supervisor of the node in the data folder, by its socket."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from typing import Annotated, Final, Self

import msgspec
from cyclopts import Parameter

from pigeonry.app import exits
from pigeonry.app.local import node_data
from pigeonry.app.node_commands import DRAIN, STATUS, NodeStatus
from pigeonry.app.output import ConfigFile, Json, print_json
from pigeonry.app.sockets import command_address
from pigeonry.domain.errors import Fault, OwnerUnreachable
from pigeonry.doors.commands.client import call

__all__ = ["drain", "status"]

ASK_S: Final = 5.0  # a supervisor does nothing that takes longer than an instant


def status(*, config: ConfigFile = None, json: Json = False) -> int:
    """Say how the running node stands; exit status 0 when it is ready, 1 when it is not, 4 when none runs."""
    found = _ask(config, STATUS)
    if json:
        print_json(found)
    else:
        sys.stdout.write(f"{found.state}, version {found.version}, process {found.pid}, {found.restarts} restarts\n")
        for slot, worker in found.workers.items():
            sys.stdout.write(f"worker {slot}: {worker['state']}, process {worker['pid']}\n")
    return exits.OK if found.state == "ready" else exits.FAILED


def drain(
    *,
    wait: Annotated[bool, Parameter(name="--wait", negative="", help="Return only when the node has ended.")] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Take the node out of service in order: balancers turn away, transactions and deliveries end, then it ends.

    Nothing is lost: what waits is delivered after the next start. systemd does not start it again by itself.
    """
    found = _ask(config, STATUS)
    with _Watched(found.pid) as process:
        _ask(config, DRAIN)
        if wait and not process.ends_within(found.leaves_within_s):
            raise Fault(f"The node did not end within {found.leaves_within_s:.0f} seconds.")
    if json:
        print_json({"state": "ended" if wait else "draining", "pid": found.pid})
    else:
        sys.stdout.write("The node has ended.\n" if wait else "The node drains, and then ends.\n")


def _ask(config: str | None, name: str) -> NodeStatus:
    _, data = node_data(config)
    try:
        with command_address(data, None) as path:
            return msgspec.convert(asyncio.run(call(path, name, timeout_s=ASK_S)), type=NodeStatus)
    except (FileNotFoundError, NotADirectoryError, OwnerUnreachable):
        raise OwnerUnreachable(
            f"The node in {data} does not answer: does `pigeonry serve` run with this configuration?"
        ) from None


class _Watched:
    """A process that is watched until it ends, and cannot be taken for a later one with the same number."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> Self:
        self._watch = os.pidfd_open(self._pid)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._watch)

    def ends_within(self, seconds: float) -> bool:
        """Whether it did."""
        return bool(select.select([self._watch], [], [], seconds)[0])
