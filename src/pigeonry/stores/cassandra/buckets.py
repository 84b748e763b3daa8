"""Token buckets over all nodes: a row for each, changed by lightweight transactions only.

Each change has another version, a number nobody guesses, so that a statement that arrives late finds another one and
does nothing. A change of which it was not heard whether it was made is given up: what was drawn then is lost, and never
drawn twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from pigeonry.domain.errors import StoreBusy
from pigeonry.ports.buckets import Bucket
from pigeonry.stores.cassandra.session import Consistency

if TYPE_CHECKING:
    from collections.abc import Callable

    from pigeonry.ports.environment import IdSource
    from pigeonry.stores.cassandra.session import Session

__all__ = ["BUCKET_TABLES", "CassandraBuckets"]

T = TypeVar("T")

TIMEOUT_S: Final = 1.0  # seconds for one statement: a door waits for it
KEPT_S: Final = 7 * 86_400  # seconds that a row stays; it is full again after a day at the most
TRIES: Final = 8  # when others change it at the same moment; each time one of them gets through

BUCKET_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS quota_bucket (name text PRIMARY KEY, version bigint, level double, at double)",
)


class CassandraBuckets:
    """See ``ports.buckets.Buckets`` for the contract.

    Args:
        session: Connections to the nodes.
        keyspace: Of the leases.
    """

    def __init__(self, session: Session, *, keyspace: str, ids: IdSource) -> None:
        self._session = session
        self._ids = ids
        table = f"{keyspace}.quota_bucket"
        self._read = f"SELECT version, level, at FROM {table} WHERE name = ?"  # noqa: S608  # a name of the settings
        self._insert = (
            f"INSERT INTO {table} (version, level, at, name) VALUES (?, ?, ?, ?) IF NOT EXISTS USING TTL {KEPT_S}"  # noqa: S608
        )
        self._update = (
            f"UPDATE {table} USING TTL {KEPT_S} SET version = ?, level = ?, at = ? "  # noqa: S608
            "WHERE name = ? IF version = ?"
        )

    async def change(self, name: str, work: Callable[[Bucket | None], tuple[Bucket, T]]) -> T:
        """Change a bucket."""
        for _ in range(TRIES):
            rows = await self._session.execute(self._read, (name,), timeout_s=TIMEOUT_S, consistency=Consistency.SERIAL)
            version = rows[0][0] if rows else None
            bucket, said = work(Bucket(rows[0][1], rows[0][2]) if rows else None)
            if await self._put(name, version, bucket):
                return said
        raise StoreBusy("Too many draw from this rate just now.")

    async def _put(self, name: str, version: int | None, bucket: Bucket) -> bool:
        fresh = int.from_bytes(self._ids.octets(8), signed=True)
        values: tuple[object, ...] = (fresh, bucket.level, bucket.at, name)
        cql = self._insert if version is None else self._update
        applied, _ = await self._session.conditional(
            cql,
            values if version is None else (*values, version),
            timeout_s=TIMEOUT_S,
            consistency=Consistency.QUORUM,
            serial=Consistency.SERIAL,
        )
        return applied
