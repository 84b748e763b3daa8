"""What a worker keeps things in: the parts behind the waist, whoever makes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from pigeonry.ports.body_store import BodyStore
from pigeonry.ports.buckets import Buckets
from pigeonry.ports.coordinator import Coordinator
from pigeonry.ports.documents import Directory, Identity
from pigeonry.ports.event_log import EventLog
from pigeonry.ports.ledger import StoreLedger
from pigeonry.ports.ownership import Member, Ownership
from pigeonry.ports.queue_store import QueueStore
from pigeonry.ports.quota import Quota

if TYPE_CHECKING:
    import asyncio

    from pigeonry.ports.queue_store import RecoveryReport

__all__ = ["Documents", "Engine", "Store", "Who"]


class Store(QueueStore, EventLog, StoreLedger, BodyStore, Protocol):
    """Queue, events, ledger and bodies of one worker, and its life."""

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
        workers: How many there are over all nodes, as far as is known.
        leave: Tells the others that this worker goes out of service, so that they take over what it has.
        last: Awaited in order at the end, after the store was closed.
    """

    store: Store
    identity: Identity
    directory: Directory
    coordinator: Coordinator
    quota: Quota
    buckets: Buckets
    workers: Callable[[], int]
    ownership: Ownership
    leave: Callable[[], None]
    last: Sequence[Callable[[], Awaitable[None]]]


class Documents(msgspec.Struct, frozen=True):
    """What all processes share of who may do what."""

    identity: Identity
    directory: Directory
