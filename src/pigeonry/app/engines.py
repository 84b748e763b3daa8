"""Where a worker keeps things: the real parts behind the waist."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from pigeonry.app.installation import COORDINATOR_FILE, DIRECTORY_FILE, IDENTITY_FILE, QUOTA_FILE
from pigeonry.net.disk import LocalDisk
from pigeonry.ports.body_store import BodyStore
from pigeonry.ports.event_log import EventLog
from pigeonry.ports.ownership import Member
from pigeonry.ports.queue_store import QueueStore
from pigeonry.stores.even_ownership import EvenOwnership
from pigeonry.stores.sqlite.coordinator import SqliteCoordinator
from pigeonry.stores.sqlite.documents import SqliteDocuments
from pigeonry.stores.sqlite.limits import Limits as SqliteLimits
from pigeonry.stores.sqlite.queue_store import SqliteStore
from pigeonry.stores.sqlite.quota import SqliteQuota

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from pigeonry.app.settings import Settings
    from pigeonry.ports.coordinator import Coordinator
    from pigeonry.ports.disk import Disk, Lanes
    from pigeonry.ports.documents import Directory, Identity
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.ownership import Ownership
    from pigeonry.ports.queue_store import RecoveryReport
    from pigeonry.ports.quota import Quota

__all__ = ["Engine", "Store", "Who", "embedded", "node_disk"]

DAY_S: Final = 86_400.0  # seconds of a day
FORGETFUL: Final = "PIGEONRY_TESTING_DISK"  # "forgetful": a disk that forgets what was not synced, for drills


class Store(QueueStore, EventLog, BodyStore, Protocol):
    """Queue, events and bodies of one worker, and its life."""

    @property
    def broken(self) -> asyncio.Event:
        """Set when nothing is believed any more and the worker must end."""
        ...

    async def open(self) -> Sequence[RecoveryReport]:
        """Own shards; a report for each.

        Raises:
            Conflict: None could be had.
        """
        ...

    async def run(self) -> None:
        """Work until cancelled."""
        ...

    async def close(self) -> None:
        """Write what waits, and give the shards back."""
        ...

    def heed(self, last_words: bytes) -> None:
        """Know the last words of a predecessor whose shards are not taken over yet."""
        ...

    def last_words(self) -> bytes:
        """Messages that may be stored and were never acknowledged, for the successor to void."""
        ...


class Who(msgspec.Struct, frozen=True):
    """A worker among those of its node.

    Args:
        members: The node's workers, as the others know them.
        slot: Which of them this is.
    """

    members: Sequence[Member]
    slot: int

    @property
    def me(self) -> Member:
        """This one."""
        return self.members[self.slot]


class Engine(msgspec.Struct, frozen=True):
    """The parts.

    Args:
        last: Awaited in order at the end, after the store was closed.
    """

    store: Store
    identity: Identity
    directory: Directory
    coordinator: Coordinator
    quota: Quota
    ownership: Ownership
    last: Sequence[Callable[[], Awaitable[None]]]


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
    return Engine(
        store=store,
        identity=identity,
        directory=directory,
        coordinator=coordinator,
        quota=quota,
        ownership=EvenOwnership(who.members, shards=lambda: store.shard_count),
        last=(identity.close, directory.close, coordinator.close, quota.close),
    )


def node_disk(data: str) -> Disk:
    """The disk of the data folder."""
    if os.environ.get(FORGETFUL) == "forgetful":
        from pigeonry.testing.power import ForgetfulDisk

        return ForgetfulDisk(LocalDisk(data))
    return LocalDisk(data)
