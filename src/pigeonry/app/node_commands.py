"""What is asked of a running node as a whole, over the supervisor's command socket: how it stands, and to leave."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pigeonry import __version__
from pigeonry.app.sockets import bind_command_socket
from pigeonry.doors.commands.answering import by_name
from pigeonry.doors.commands.server import CommandDoor

if TYPE_CHECKING:
    from pigeonry.app.supervisor import Supervisor

__all__ = ["DRAIN", "STATUS", "NodeCommands", "NodeStatus"]

STATUS = "node.status"
DRAIN = "node.drain"


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a node stands.

    Args:
        state: ``ready``: every worker takes mail. ``starting``: not all of them do yet, or again. ``draining``: it was
            told to leave.
        pid: The supervisor's process.
        restarts: Workers started again after they ended unasked.
        workers: By slot: ``state`` and ``pid``.
        leaves_within_s: Seconds that leaving takes at most.
    """

    state: Literal["ready", "starting", "draining"]
    version: str
    pid: int
    restarts: int
    workers: dict[str, dict[str, Any]]
    leaves_within_s: float


class NodeCommands:
    """The supervisor's command socket.

    Args:
        data: The data folder, where the socket is bound.
    """

    def __init__(self, supervisor: Supervisor, *, data: str) -> None:
        self._supervisor = supervisor
        self._socket = bind_command_socket(data, None)

    async def run(self) -> None:
        """Serve until cancelled."""
        await CommandDoor(by_name({STATUS: self._status, DRAIN: self._drain})).run(self._socket)

    async def _status(self, _argument: Any) -> NodeStatus:
        ready, facts = self._supervisor.readiness()
        return NodeStatus(
            state="ready" if ready else "draining" if facts["draining"] else "starting",
            version=__version__,
            pid=os.getpid(),
            restarts=facts["restarts"],
            workers=facts["workers"],
            leaves_within_s=self._supervisor.leaves_within_s,
        )

    async def _drain(self, _argument: Any) -> NodeStatus:
        self._supervisor.leave(told_by="command")
        return await self._status(None)
