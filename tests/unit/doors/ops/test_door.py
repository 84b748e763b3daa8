from __future__ import annotations

import json
from typing import Any

import pytest

from pigeonry.doors.ops.door import OpsDoor


async def ask(path: str, *, method: str = "GET", ready: bool = True) -> tuple[int, bytes]:
    said: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def metrics() -> bytes:
        return b"a 1\n"

    door = OpsDoor(readiness=lambda: (ready, {"draining": not ready}), metrics=metrics)
    await door({"type": "http", "method": method, "path": path}, None, send)  # type: ignore[arg-type]
    return said[0]["status"], said[1]["body"]


async def test_alive_is_alive_whether_ready_or_not() -> None:
    assert (await ask("/livez", ready=False))[0] == 200


async def test_ready_says_what_it_is_about() -> None:
    status, body = await ask("/readyz")
    assert (status, json.loads(body)) == (200, {"ready": True, "draining": False})
    status, body = await ask("/readyz", ready=False)
    assert (status, json.loads(body)) == (503, {"ready": False, "draining": True})


async def test_metrics_are_handed_out() -> None:
    assert await ask("/metrics") == (200, b"a 1\n")


async def test_a_head_has_no_body() -> None:
    assert await ask("/metrics", method="HEAD") == (200, b"")


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/metrics", 405), ("GET", "/x", 404)])
async def test_nothing_else_is_here(method: str, path: str, status: int) -> None:
    assert (await ask(path, method=method))[0] == status
