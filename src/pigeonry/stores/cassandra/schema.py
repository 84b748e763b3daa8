"""Keyspaces and tables by version: how ``pigeonry migrate`` makes them, and what a worker accepts.

**The rule.** A step only ever adds: a table, or a column that older code neither reads nor misses. So nodes of this
release and of the one before run side by side on the newer schema, and an upgrade is: ``pigeonry migrate`` once, then
the nodes one after another. A step that older code could not work with (it took away or gave a new meaning to what
that code reads) says in ``min_reader`` which version a reader must know at the least, and its release notes say that
all nodes stop for it.

A worker that knows version K starts on version V when V >= K and ``min_reader`` of V <= K. Below: ``SchemaUnusable``,
run ``pigeonry migrate``. Above: ``NewerFormat``.

One ``migrate`` works at a time (a lease by lightweight transaction that expires by itself); each statement can be
repeated, and a step counts once its row in ``schema_step`` says so. So it may be interrupted anywhere and run again.

The queue's keyspace is replicated in every location that holds mail; the lease keyspace also on a witness, where there
are two (docs/decisions/). Both are made with the replication of the settings and never changed: a changed replication
needs a repair, which is an operator's decision.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from uuid import NAMESPACE_OID, uuid5

import msgspec

from pigeonry.domain.errors import Conflict, StoreBusy, StoreInDoubt
from pigeonry.ports.environment import Clock, IdSource
from pigeonry.stores.cassandra.buckets import BUCKET_TABLES
from pigeonry.stores.cassandra.coordinator import COORDINATOR_TABLES
from pigeonry.stores.cassandra.counters import COUNTER_TABLES
from pigeonry.stores.cassandra.documents import DOCUMENT_TABLES
from pigeonry.stores.cassandra.locations import LOCATION_TABLES
from pigeonry.stores.cassandra.quota import QUOTA_TABLES
from pigeonry.stores.cassandra.session import Consistency, QueryRefused, Session
from pigeonry.stores.cassandra.tables import LEASE_TABLES, QUEUE_TABLES
from pigeonry.stores.formats import NewerFormat, SchemaUnusable

__all__ = [
    "STEPS",
    "Keyspaces",
    "Migration",
    "Step",
    "check",
    "migrate",
    "plan",
    "probe",
]

T = TypeVar("T")

STATEMENT_S_MAX: Final = 30.0  # seconds for one change of the schema, the agreement of all nodes included
ASK_S_MAX: Final = 10.0  # seconds for a question or a lightweight transaction
PATIENCE_S: Final = 60.0  # seconds for which what the store did not confirm is tried again
LOCK_S: Final = 120  # seconds after which the lock of who died is free again; more than one statement may take
LOCK_WAIT_S: Final = 240.0  # seconds to wait for another one's end; twice the lock's life
POLL_S: Final = 0.5  # seconds between two tries
NAME: Final = "pigeonry"  # of the one row of the lock, and of the partition of the steps


class Keyspaces(msgspec.Struct, frozen=True):
    """The two keyspaces, and on how many nodes of each location their rows stand."""

    queue: str
    lease: str
    queue_replication: Mapping[str, int]
    lease_replication: Mapping[str, int]


class Step(msgspec.Struct, frozen=True):
    """One version of the schema, made from the one before.

    Args:
        min_reader: The lowest version that code must know to work with this one.
        queue: Statements in the queue's keyspace, each of which may be repeated.
        lease: The same in the lease keyspace.
    """

    version: int
    min_reader: int
    queue: tuple[str, ...] = ()
    lease: tuple[str, ...] = ()


STEPS: Final = (
    Step(
        version=1,
        min_reader=1,
        queue=(*QUEUE_TABLES, *COUNTER_TABLES),
        lease=(*LEASE_TABLES, *COORDINATOR_TABLES, *QUOTA_TABLES, *DOCUMENT_TABLES),
    ),
    Step(version=2, min_reader=1, lease=LOCATION_TABLES),
    Step(version=3, min_reader=1, lease=BUCKET_TABLES),
)


class Migration(msgspec.Struct, frozen=True):
    """What a run found and did, or would do.

    Args:
        statements: Of the steps that were not there yet, in order.
    """

    version_before: int
    version_after: int
    statements: tuple[str, ...]


_BOOK: Final = """CREATE TABLE IF NOT EXISTS {table} (
    name text, version int, min_reader int, applied bigint, PRIMARY KEY (name, version)) WITH ID = {id}"""
_LOCK: Final = "CREATE TABLE IF NOT EXISTS {table} (name text PRIMARY KEY, holder text) WITH ID = {id}"
_TABLE: Final = re.compile(r"^(CREATE TABLE IF NOT EXISTS|ALTER TABLE)\s+(\w+)")


def probe(keyspaces: Keyspaces) -> str:
    """A statement that is answered whenever the queue's keyspace can be used; ``?`` may be anything."""
    return f"SELECT version FROM {keyspaces.queue}.schema_step WHERE name = ?"  # noqa: S608  # a name of the settings


async def check(session: Session, keyspaces: Keyspaces, steps: Sequence[Step] = STEPS) -> None:
    """See that this release can work with the schema that is there.

    Raises:
        SchemaUnusable: There is none, or an older one.
        NewerFormat: It is too new.
        StoreBusy: The store does not answer.
    """
    version, min_reader = await _applied(session, keyspaces)
    known = steps[-1].version
    if version < known:
        raise SchemaUnusable(
            f"The keyspace {keyspaces.queue} has schema version {version}, this release needs {known}: "
            "run `pigeonry migrate`."
        )
    if min_reader > known:
        raise NewerFormat(
            f"The keyspace {keyspaces.queue} has schema version {version}, which needs a release that knows version "
            f"{min_reader}; this one knows {known}. Install the newer release."
        )


async def plan(session: Session, keyspaces: Keyspaces, steps: Sequence[Step] = STEPS) -> Migration:
    """What ``migrate`` would do now.

    Raises:
        SchemaUnusable, NewerFormat, StoreBusy: As ``migrate``.
    """
    found = await _replications(session)
    statements = []
    for keyspace, replication in _wanted(keyspaces):
        if keyspace not in found:
            statements.append(_keyspace(keyspace, replication))
        elif found[keyspace] != replication:
            raise SchemaUnusable(
                f"The keyspace {keyspace} is replicated {_said(found[keyspace])}, the settings say "
                f"{_said(replication)}. Change the settings, or ALTER KEYSPACE and repair it."
            )
    version = (await _applied(session, keyspaces))[0] if keyspaces.queue in found else 0
    known = steps[-1].version
    if version > known:
        raise NewerFormat(f"The keyspace {keyspaces.queue} has schema version {version}; this release knows {known}.")
    for step in steps[version:]:
        statements += _statements(step, keyspaces)
    return Migration(version_before=version, version_after=known, statements=tuple(statements))


async def migrate(
    session: Session, keyspaces: Keyspaces, *, clock: Clock, ids: IdSource, steps: Sequence[Step] = STEPS
) -> Migration:
    """Bring the schema to this release's version; what was done.

    Args:
        session: Needs no keyspace.

    Raises:
        SchemaUnusable: A keyspace is there with another replication; nothing was changed.
        NewerFormat: The schema is newer than this release; nothing was changed.
        Conflict: Another one migrates and does not end.
        StoreBusy, StoreInDoubt: The store did not answer for a minute. Run it again.
    """
    planned = await plan(session, keyspaces, steps)
    patient = _Patient(session, clock)
    for keyspace, replication in _wanted(keyspaces):
        await patient.define(_keyspace(keyspace, replication))
    for cql, table in ((_BOOK, f"{keyspaces.queue}.schema_step"), (_LOCK, f"{keyspaces.lease}.schema_lock")):
        # Not under the lock yet: the id follows from the name, so that two that make a table at once make the same one.
        await patient.define(cql.format(table=table, id=uuid5(NAMESPACE_OID, table)))
    async with _locked(patient, keyspaces, ids.octets(8).hex()) as lock:
        version, _ = await _applied(session, keyspaces)
        for step in steps[version:]:
            for statement in _statements(step, keyspaces):
                await lock.renew()
                await patient.define(statement)
            await _book(patient, keyspaces, step)
    return planned


async def _applied(session: Session, keyspaces: Keyspaces) -> tuple[int, int]:
    """The version that is there, and the lowest that a reader must know; zeros for none."""
    read = f"SELECT version, min_reader FROM {keyspaces.queue}.schema_step WHERE name = ?"  # noqa: S608  # our names
    try:
        rows = await session.execute(read, (NAME,), timeout_s=ASK_S_MAX)
    except QueryRefused:  # no such table
        return 0, 0
    return max(rows, default=(0, 0))


async def _book(patient: _Patient, keyspaces: Keyspaces, step: Step) -> None:
    """Write down that a step is done, in every location, since a worker reads it in its own."""
    await patient.write(
        f"INSERT INTO {keyspaces.queue}.schema_step (name, version, min_reader, applied) VALUES (?, ?, ?, ?)",  # noqa: S608
        (NAME, step.version, step.min_reader, int(patient.clock.now())),
    )


async def _replications(session: Session) -> dict[str, dict[str, int]]:
    """Of each keyspace that is replicated by location, on how many nodes of each."""
    rows = await session.execute(
        "SELECT keyspace_name, replication FROM system_schema.keyspaces",
        timeout_s=ASK_S_MAX,
        consistency=Consistency.ONE,
    )
    return {
        name: {location: int(nodes) for location, nodes in options.items() if location != "class"}
        for name, options in rows
        if options["class"].endswith(".NetworkTopologyStrategy")
    }


def _wanted(keyspaces: Keyspaces) -> tuple[tuple[str, Mapping[str, int]], ...]:
    return (keyspaces.queue, keyspaces.queue_replication), (keyspaces.lease, keyspaces.lease_replication)


def _keyspace(name: str, replication: Mapping[str, int]) -> str:
    nodes = "".join(f", '{location}': {count}" for location, count in replication.items())
    options = f"{{'class': 'NetworkTopologyStrategy'{nodes}}}"
    return f"CREATE KEYSPACE IF NOT EXISTS {name} WITH replication = {options}"


def _said(replication: Mapping[str, int]) -> str:
    return ", ".join(f"{location} = {count}" for location, count in sorted(replication.items())) or "nowhere"


def _statements(step: Step, keyspaces: Keyspaces) -> list[str]:
    """A step's statements, with the keyspace before the name of each table."""
    return [
        _TABLE.sub(rf"\1 {keyspace}.\2", cql)
        for keyspace, statements in ((keyspaces.queue, step.queue), (keyspaces.lease, step.lease))
        for cql in statements
    ]


class _Patient:
    """Tries again what the store did not confirm: all that a migration does may be done twice."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self.clock = clock

    async def define(self, cql: str) -> None:
        """Change the schema everywhere."""
        await self._surely(lambda: self._session.define(cql, timeout_s=STATEMENT_S_MAX))

    async def write(self, cql: str, values: Sequence[object]) -> None:
        """Write a row in every location."""
        await self._surely(
            lambda: self._session.execute(cql, values, timeout_s=ASK_S_MAX, consistency=Consistency.EACH_QUORUM)
        )

    async def conditional(self, cql: str, values: Sequence[object]) -> tuple[bool, dict[str, Any]]:
        """Write a row if; whoever did it before, unheard, finds that it is not so any more."""
        return await self._surely(lambda: self._session.conditional(cql, values, timeout_s=ASK_S_MAX))

    async def _surely(self, work: Callable[[], Awaitable[T]]) -> T:
        give_up = self.clock.monotonic() + PATIENCE_S
        while True:
            try:
                return await work()
            except (StoreBusy, StoreInDoubt):
                if self.clock.monotonic() > give_up:
                    raise
                await self.clock.sleep(POLL_S)


class _Lock:
    """The right to change the schema, for ``LOCK_S`` seconds from each renewal."""

    def __init__(self, patient: _Patient, keyspaces: Keyspaces, holder: str) -> None:
        self._patient = patient
        self._table = f"{keyspaces.lease}.schema_lock"
        self._holder = holder

    async def take(self) -> bool:
        """Whether we have it now."""
        took, row = await self._patient.conditional(
            f"INSERT INTO {self._table} (name, holder) VALUES (?, ?) IF NOT EXISTS USING TTL {LOCK_S}",  # noqa: S608
            (NAME, self._holder),
        )
        return took or row["holder"] == self._holder

    async def renew(self) -> None:
        """Hold it for another while.

        Raises:
            Conflict: It has expired, and perhaps is another's.
        """
        held, _ = await self._patient.conditional(
            f"UPDATE {self._table} USING TTL {LOCK_S} SET holder = ? WHERE name = ? IF holder = ?",  # noqa: S608
            (self._holder, NAME, self._holder),
        )
        if not held:
            raise Conflict("This `pigeonry migrate` stood still for too long. Run it again.")

    async def release(self) -> None:
        """Let the next one have it."""
        await self._patient.conditional(
            f"DELETE FROM {self._table} WHERE name = ? IF holder = ?",  # noqa: S608
            (NAME, self._holder),
        )


@asynccontextmanager
async def _locked(patient: _Patient, keyspaces: Keyspaces, holder: str) -> AsyncIterator[_Lock]:
    lock = _Lock(patient, keyspaces, holder)
    give_up = patient.clock.monotonic() + LOCK_WAIT_S
    while not await lock.take():
        if patient.clock.monotonic() > give_up:
            raise Conflict("Another `pigeonry migrate` runs and does not end.")
        await patient.clock.sleep(POLL_S)
    try:
        yield lock
    finally:
        await lock.release()
