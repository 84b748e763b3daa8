"""The nodes over which the suites of the queue's ports are run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.queue_stores import NODES, Machine, Node, Store, machine


@pytest.fixture(params=NODES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    keyspace = request.getfixturevalue("queue_keyspace") if request.param == "cassandra" else None
    return machine(request.param, tmp_path, keyspace)


@pytest.fixture
async def node(made: Machine) -> AsyncIterator[Node]:
    yield made
    made.gate.set()
    await made.end()


@pytest.fixture
async def store(node: Node) -> Store:
    return await node.open()
