"""The ops listener of a node: the supervisor answers for itself and gathers what its workers count."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pigeonry.app.asgi import HttpServer
from pigeonry.app.config import split_address
from pigeonry.app.sockets import Listener, bind, command_address
from pigeonry.domain.errors import PigeonryError
from pigeonry.doors.commands.client import call
from pigeonry.doors.ops.door import OpsDoor
from pigeonry.telemetry.exposition import merge

if TYPE_CHECKING:
    from pigeonry.app.settings import Settings
    from pigeonry.app.supervisor import Supervisor

__all__ = ["NodeOps"]

CONNECTIONS_MAX: Final = 64  # probes and scrapers; over it they are answered 503
GATHER_S: Final = 2.0  # a worker that takes longer is left out of this scrape; its absence is counted


class NodeOps:
    """Serves ``/livez``, ``/readyz`` and ``/metrics`` of a node.

    Args:
        data: Where the workers' command sockets are.
    """

    def __init__(self, supervisor: Supervisor, settings: Settings, *, data: str) -> None:
        self._supervisor = supervisor
        self._data = data
        self._sockets = [bind(Listener("ops", *split_address(text)), slots=1)[0] for text in settings.ops.listen]

    async def run(self) -> None:
        """Serve until cancelled."""
        if not self._sockets:
            return
        door = OpsDoor(readiness=self._supervisor.readiness, metrics=self._metrics)
        await HttpServer(door, self._sockets, connections_max=CONNECTIONS_MAX, drain_s=1.0).run()

    async def _metrics(self) -> bytes:
        _, facts = self._supervisor.readiness()
        slots = [int(slot) for slot in facts["workers"]]
        pages = await asyncio.gather(*(self._page(slot) for slot in slots))
        found = {str(slot): page for slot, page in zip(slots, pages, strict=True) if page is not None}
        return self._own(facts["restarts"], {slot: str(slot) in found for slot in slots}) + merge(found, label="worker")

    async def _page(self, slot: int) -> bytes | None:
        try:
            with command_address(self._data, slot) as address:
                page = await call(address, "metrics", timeout_s=GATHER_S)
        except (PigeonryError, OSError):
            return None
        return bytes(page)

    def _own(self, restarts: int, up: dict[int, bool]) -> bytes:
        lines = [
            "# HELP pigeonry_worker_restarts_total Workers started again after they ended unasked.",
            "# TYPE pigeonry_worker_restarts_total counter",
            f"pigeonry_worker_restarts_total {restarts}",
            "# HELP pigeonry_worker_up Whether the worker of a slot answers.",
            "# TYPE pigeonry_worker_up gauge",
            *(f'pigeonry_worker_up{{worker="{slot}"}} {int(answers)}' for slot, answers in up.items()),
        ]
        return ("\n".join(lines) + "\n").encode()
