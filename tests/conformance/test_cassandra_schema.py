"""The schema on a real node: made once, by whoever comes, however often, wherever it was interrupted."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pigeonry.domain.errors import Conflict
from pigeonry.net.environment import SystemClock, SystemIds
from pigeonry.stores.cassandra import schema
from pigeonry.stores.cassandra.schema import Keyspaces, Step, check, migrate, plan
from pigeonry.stores.cassandra.session import CassandraSettings, Session
from pigeonry.stores.formats import NewerFormat, SchemaUnusable
from pigeonry.testing.cassandra import Cluster

ONE = Step(
    version=1,
    min_reader=1,
    queue=("CREATE TABLE IF NOT EXISTS a (k int PRIMARY KEY, v int)",),
    lease=("CREATE TABLE IF NOT EXISTS c (k int PRIMARY KEY)",),
)
TWO = Step(version=2, min_reader=1, queue=("ALTER TABLE a ADD IF NOT EXISTS w text",))
THREE = Step(version=3, min_reader=3, queue=("CREATE TABLE IF NOT EXISTS d (k int PRIMARY KEY)",))
_numbers = itertools.count(1)


@pytest.fixture
async def session(cassandra: Cluster) -> AsyncIterator[Session]:
    settings = CassandraSettings(contact_points=cassandra.contact_points(), local_datacenter="dc1", probe="")
    made = await Session.open(settings, SystemClock())
    yield made
    await made.close()


@pytest.fixture
def keyspaces() -> Keyspaces:
    name = f"schema{os.getpid()}_{next(_numbers)}"
    return Keyspaces(queue=name, lease=f"{name}_lease", queue_replication={"dc1": 1}, lease_replication={"dc1": 1})


async def _migrate(session: Session, keyspaces: Keyspaces, *steps: Step) -> schema.Migration:
    return await migrate(session, keyspaces, clock=SystemClock(), ids=SystemIds(), steps=steps)


async def _tables(session: Session, keyspaces: Keyspaces) -> set[str]:
    read = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?"
    found = [
        row
        for name in (keyspaces.queue, keyspaces.lease)
        for row in await session.execute(read, (name,), timeout_s=5.0)
    ]
    return {name for (name,) in found} - {"schema_step", "schema_lock"}


async def test_it_is_planned_made_once_and_grown(session: Session, keyspaces: Keyspaces) -> None:
    with pytest.raises(SchemaUnusable, match="run `pigeonry migrate`"):
        await check(session, keyspaces, (ONE,))
    planned = await plan(session, keyspaces, (ONE,))
    assert [cql.split("(")[0] for cql in planned.statements[2:]] == [
        f"CREATE TABLE IF NOT EXISTS {keyspaces.queue}.a ",
        f"CREATE TABLE IF NOT EXISTS {keyspaces.lease}.c ",
    ]
    assert await _tables(session, keyspaces) == set()
    assert await _migrate(session, keyspaces, ONE) == planned
    assert await _tables(session, keyspaces) == {"a", "c"}
    await check(session, keyspaces, (ONE,))
    again = await _migrate(session, keyspaces, ONE)
    assert (again.version_before, again.version_after, again.statements) == (1, 1, ())
    grown = await _migrate(session, keyspaces, ONE, TWO)
    assert grown.statements == (f"ALTER TABLE {keyspaces.queue}.a ADD IF NOT EXISTS w text",)
    await session.execute(f"INSERT INTO {keyspaces.queue}.a (k, v, w) VALUES (1, 2, 'new')", timeout_s=5.0)


async def test_a_release_works_with_what_it_knows_and_what_says_that_it_may(
    session: Session, keyspaces: Keyspaces
) -> None:
    await _migrate(session, keyspaces, ONE, TWO)
    await check(session, keyspaces, (ONE,))  # the release before, during an upgrade
    await check(session, keyspaces, (ONE, TWO))
    with pytest.raises(SchemaUnusable, match="has schema version 2, this release needs 3"):
        await check(session, keyspaces, (ONE, TWO, THREE))
    await _migrate(session, keyspaces, ONE, TWO, THREE)
    with pytest.raises(NewerFormat, match="Install the newer release"):
        await check(session, keyspaces, (ONE, TWO))
    with pytest.raises(NewerFormat):
        await _migrate(session, keyspaces, ONE, TWO)


async def test_two_at_once_make_it_once(session: Session, keyspaces: Keyspaces) -> None:
    ended = await asyncio.gather(*(_migrate(session, keyspaces, ONE, TWO) for _ in range(3)))
    assert {one.version_after for one in ended} == {2}
    assert await _tables(session, keyspaces) == {"a", "c"}
    rows = await session.execute(f"SELECT version FROM {keyspaces.queue}.schema_step", timeout_s=5.0)
    assert rows == [(1,), (2,)]


@pytest.mark.parametrize("statements", range(2))
async def test_whoever_comes_after_one_that_died_completes_it(
    session: Session, keyspaces: Keyspaces, statements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead one leaves its lock behind, which expires."""
    left = itertools.count(statements + len((keyspaces.queue, keyspaces.lease, "schema_step", "schema_lock")), -1)

    class Died(BaseException):
        pass

    async def define(cql: str, *, timeout_s: float) -> None:
        if next(left) == 0:
            raise Died
        await Session.define(session, cql, timeout_s=timeout_s)

    async def conditional(cql: str, *rest: Any, **more: Any) -> Any:
        if cql.startswith("DELETE"):
            raise Died
        return await Session.conditional(session, cql, *rest, **more)

    with monkeypatch.context() as dying:
        dying.setattr(session, "define", define)
        dying.setattr(session, "conditional", conditional)
        with pytest.raises(Died):
            await _migrate(session, keyspaces, ONE)
    with pytest.raises(SchemaUnusable):
        await check(session, keyspaces, (ONE,))
    lock = f"{keyspaces.lease}.schema_lock"
    ((left_s,),) = await session.execute(f"SELECT TTL(holder) FROM {lock}", timeout_s=5.0)
    assert 0 < left_s <= schema.LOCK_S
    await session.conditional(f"DELETE FROM {lock} WHERE name = 'pigeonry' IF EXISTS", timeout_s=5.0)  # it expires
    await _migrate(session, keyspaces, ONE)
    await check(session, keyspaces, (ONE,))
    assert await _tables(session, keyspaces) == {"a", "c"}


async def test_one_that_stood_still_changes_nothing_any_more(
    session: Session, keyspaces: Keyspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _migrate(session, keyspaces, ONE)
    patient = schema._Patient(session, SystemClock())
    lock = schema._Lock(patient, keyspaces, "slow")
    assert await lock.take()
    assert await lock.take()
    assert not await schema._Lock(patient, keyspaces, "other").take()
    await lock.renew()
    await lock.release()
    with pytest.raises(Conflict, match="Run it again"):
        await lock.renew()


async def test_another_replication_is_refused_and_named(session: Session, keyspaces: Keyspaces) -> None:
    await _migrate(session, keyspaces, ONE)
    other = msgspec.structs.replace(keyspaces, lease_replication={"dc1": 1, "dc2": 2})
    with pytest.raises(SchemaUnusable, match="replicated dc1 = 1, the settings say dc1 = 1, dc2 = 2"):
        await _migrate(session, other, ONE, TWO)
    await check(session, keyspaces, (ONE,))


def test_the_command(
    cassandra: Cluster, keyspaces: Keyspaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pigeonry.app.cli import main

    (tmp_path / "pigeonry.toml").write_text(f"""
[cassandra]
contact_points = ["{cassandra.nodes[0].address}"]
local_datacenter = "dc1"
keyspace = "{keyspaces.queue}"
lease_keyspace = "{keyspaces.lease}"
[cassandra.replication]
dc1 = 1
""")

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["migrate", *words, "--config", str(tmp_path / "pigeonry.toml")])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    status, planned = run("--plan")
    assert (status, planned.splitlines()[0].split(" WITH")[0]) == (
        0,
        f"CREATE KEYSPACE IF NOT EXISTS {keyspaces.queue}",
    )
    assert json.loads(run("--plan", "--json")[1])["done"] is False
    version = schema.STEPS[-1].version
    assert run() == (0, f"The schema has version {version}; before it had none.\n")
    assert run() == (0, f"The schema has version {version}; there was nothing to do.\n")
    assert json.loads(run("--json")[1]) == {
        "version_before": version,
        "version_after": version,
        "statements": [],
        "done": True,
    }
    (tmp_path / "pigeonry.toml").write_text("[cassandra]\nlocal_datacenter = 'dc1'\n")
    assert run()[0] == 3
