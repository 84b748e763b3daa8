"""The nodes over which the suites of the queue's ports are run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.queue_stores import NODES, Node, Store, machine


@pytest.fixture(params=NODES)
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    made = machine(request.param, tmp_path)
    yield made
    made.gate.set()
    await made.end()


@pytest.fixture
async def store(node: Node) -> Store:
    return await node.open()
