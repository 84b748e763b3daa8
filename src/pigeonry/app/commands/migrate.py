"""``pigeonry migrate``: make or upgrade the keyspaces and tables of the cluster's store."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from pigeonry.app.cluster_store import keyspaces_of, open_session
from pigeonry.app.config import ConfigInvalid, load
from pigeonry.app.output import ConfigFile, Json, print_json
from pigeonry.net.environment import SystemClock, SystemIds

if TYPE_CHECKING:
    from pigeonry.app.settings import CassandraSettings
    from pigeonry.stores.cassandra.schema import Migration

__all__ = ["migrate"]


def migrate(
    *,
    plan: Annotated[bool, Parameter(negative="", help="Print what would be done, and do nothing.")] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Make or upgrade the schema of the cluster's store.

    Run it once, from any node, before the first start and before the nodes of a new release. It may be interrupted and
    run again; two at once wait for each other.
    """
    section = load(config, os.environ).cassandra
    if not section.replication:
        raise ConfigInvalid(["cassandra.replication: is needed, such as {dc1 = 3}"])
    migration = asyncio.run(_migrate(section, plan=plan))
    if json:
        print_json({**msgspec.to_builtins(migration), "done": not plan})
        return
    before, after = migration.version_before, migration.version_after
    if plan:
        sys.stdout.write("".join(f"{statement};\n" for statement in migration.statements))
    elif before == after:
        sys.stdout.write(f"The schema has version {after}; there was nothing to do.\n")
    else:
        sys.stdout.write(f"The schema has version {after}; before it had {before or 'none'}.\n")


async def _migrate(section: CassandraSettings, *, plan: bool) -> Migration:
    clock = SystemClock()
    session = await open_session(section, clock)
    try:
        from pigeonry.stores.cassandra import schema

        keyspaces = keyspaces_of(section)
        if plan:
            return await schema.plan(session, keyspaces)
        return await schema.migrate(session, keyspaces, clock=clock, ids=SystemIds())
    finally:
        await session.close()
