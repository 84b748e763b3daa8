"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.cassandra import cassandra
from support.queue_keyspace import queue_keyspace

__all__ = ["cassandra", "queue_keyspace", "same_umask"]


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Commands that a test runs in this process set it, and what the next test makes may be for other users to read."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
