"""Token buckets in memory: for tests, and a node of one worker. Several over one dictionary are several workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.ports.buckets import Bucket

__all__ = ["MemoryBuckets"]

T = TypeVar("T")


class MemoryBuckets:
    """See ``ports.buckets.Buckets`` for the contract."""

    def __init__(self, table: dict[str, Bucket] | None = None) -> None:
        self._table = {} if table is None else table

    async def change(self, name: str, work: Callable[[Bucket | None], tuple[Bucket, T]]) -> T:
        """Change a bucket."""
        self._table[name], said = work(self._table.get(name))
        return said
