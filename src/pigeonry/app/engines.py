"""Which engine a worker has: the choice, and the one that is embedded in its node."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from pigeonry.app.engine import Documents, Engine, Who
from pigeonry.app.installation import COORDINATOR_FILE, DIRECTORY_FILE, IDENTITY_FILE, QUOTA_FILE, RATES_FILE
from pigeonry.net.disk import LocalDisk
from pigeonry.stores.even_ownership import EvenOwnership
from pigeonry.stores.sqlite.buckets import SqliteBuckets
from pigeonry.stores.sqlite.coordinator import SqliteCoordinator
from pigeonry.stores.sqlite.documents import SqliteDocuments
from pigeonry.stores.sqlite.limits import Limits as SqliteLimits
from pigeonry.stores.sqlite.queue_store import SqliteStore
from pigeonry.stores.sqlite.quota import SqliteQuota

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pigeonry.app.settings import Settings
    from pigeonry.ports.disk import Disk, Lanes
    from pigeonry.ports.environment import Clock, Dice, IdSource
    from pigeonry.ports.queue_store import RecoveryReport

__all__ = ["embedded", "node_disk", "open_documents", "open_engine"]

DAY_S: Final = 86_400.0  # seconds of a day
FORGETFUL: Final = "PIGEONRY_TESTING_DISK"  # "forgetful": a disk that forgets what was not synced, for drills


@contextlib.asynccontextmanager
async def open_documents(
    settings: Settings, *, data: str, lanes: Lanes, clock: Clock, dice: Dice, ids: IdSource
) -> AsyncIterator[Documents]:
    """Identity and Directory of the engine that the settings name, until the block ends.

    Args:
        data: The data folder; ``installation.prepare`` has seen to it.

    Raises:
        ConfigInvalid, SchemaUnusable, NewerFormat, StoreBusy: As ``open_engine``.
    """
    if settings.store.engine == "cassandra":
        from pigeonry.app.cluster_store import shared_documents

        async with shared_documents(settings, clock=clock, dice=dice, ids=ids) as (identity, directory):
            yield Documents(identity, directory)
        return
    disk = LocalDisk(data)
    files = [
        SqliteDocuments(f"{data}/{file}", disk=disk, lane=lanes.lane(file), clock=clock)
        for file in (IDENTITY_FILE, DIRECTORY_FILE)
    ]
    try:
        yield Documents(*files)
    finally:
        for each in files:
            await each.close()


async def open_engine(
    settings: Settings,
    *,
    data: str,
    who: Who,
    lanes: Lanes,
    clock: Clock,
    dice: Dice,
    ids: IdSource,
    taken: Callable[[RecoveryReport], None],
) -> Engine:
    """The engine that the settings name.

    Args:
        data: The data folder; ``installation.prepare`` has seen to it.
        taken: Told of each shard that is taken over later than at the opening.

    Raises:
        ConfigInvalid: The store of the cluster is not described.
        SchemaUnusable, NewerFormat: This release cannot work with what is there.
        StoreBusy: The store of the cluster does not answer.
    """
    if settings.store.engine == "sqlite":
        return embedded(settings, data=data, who=who, lanes=lanes, clock=clock, taken=taken)
    from pigeonry.app.cluster_store import clustered

    return await clustered(settings, who=who, clock=clock, dice=dice, ids=ids, taken=taken)


def embedded(
    settings: Settings,
    *,
    data: str,
    who: Who,
    lanes: Lanes,
    clock: Clock,
    taken: Callable[[RecoveryReport], None],
) -> Engine:
    """Files in the data folder, shared by the workers of one node.

    Args:
        data: The data folder; ``installation.prepare`` has seen to it.
        taken: Told of each shard that is taken over later than at the opening.
    """
    disk = node_disk(data)
    shared = LocalDisk(data)  # what processes share is opened by all of them
    limits = SqliteLimits(
        in_doubt_delay_s=settings.delivery.in_doubt_delay_s, retention_s=settings.retention.events_days * DAY_S
    )
    store = SqliteStore(
        data,
        slot=who.slot,
        slots=len(who.members),
        disk=disk,
        lanes=lanes,
        clock=clock,
        shards=settings.node.shards,
        limits=limits,
        taken=taken,
    )
    identity = SqliteDocuments(f"{data}/{IDENTITY_FILE}", disk=shared, lane=lanes.lane("identity"), clock=clock)
    directory = SqliteDocuments(f"{data}/{DIRECTORY_FILE}", disk=shared, lane=lanes.lane("directory"), clock=clock)
    coordinator = SqliteCoordinator(
        f"{data}/{COORDINATOR_FILE}", disk=shared, lane=lanes.lane("coordinator"), clock=clock
    )
    quota = SqliteQuota(f"{data}/{QUOTA_FILE}", disk=shared, lane=lanes.lane("quota"), clock=clock)
    buckets = SqliteBuckets(f"{data}/{RATES_FILE}", disk=shared, lane=lanes.lane("rates"), clock=clock)
    return Engine(
        store=store,
        identity=identity,
        directory=directory,
        coordinator=coordinator,
        quota=quota,
        buckets=buckets,
        workers=lambda: len(who.members),
        ownership=EvenOwnership(who.members, shards=lambda: store.shard_count),
        leave=_nobody_else,
        last=(identity.close, directory.close, coordinator.close, quota.close, buckets.close),
    )


def _nobody_else() -> None:
    """No other node can take anything over."""


def node_disk(data: str) -> Disk:
    """The disk of the data folder."""
    if os.environ.get(FORGETFUL) == "forgetful":
        from pigeonry.testing.power import ForgetfulDisk

        return ForgetfulDisk(LocalDisk(data))
    return LocalDisk(data)
