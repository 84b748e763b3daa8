"""The durable queue: all that stands between "250" and a lost message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pigeonry.domain.message import Transition

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pigeonry.domain.message import (
        IdempotencyRecord,
        Message,
        MessageKey,
        Pending,
        RecipientView,
    )

__all__ = ["Commit", "DueMark", "Later", "QueueStore", "RecoveryReport"]


class DueMark(msgspec.Struct, frozen=True, order=True, gc=False):
    """A place in the order of due recipients: by time, then shard, then serial."""

    due: float
    shard: int = -1
    serial: int = -1


class RecoveryReport(msgspec.Struct, frozen=True):
    """What opening a shard found and mended; each line is a sentence for the operator."""

    shard: int
    pending: int
    in_doubt: int
    repairs: tuple[str, ...] = ()


class Later(msgspec.Struct, frozen=True):
    """A transition that is made when its group is gathered, by a call that nothing comes between.

    What is done for many messages in a row costs a fraction of what it costs one by one: it finds its code and its data
    in the processor's caches.

    Args:
        make: Called once, unless the commit ended before. Does no I/O. What it raises is how the commit ends.
        accepts: Whether it will be an ``Accept``, which is refused where there is no room.
        octets: Of the body that is held in memory meanwhile.
    """

    make: Callable[[], Transition]
    accepts: bool = False
    octets: int = 0


class Commit(Protocol):
    """A transition that was handed over. It is followed or awaited, once; three go with each message."""

    def then(self, told: Callable[[Exception | None], None]) -> None:
        """Call back once: with None when it is durable, else with what ``QueueStore.commit`` may raise.

        Never from within this call. The callback does no I/O, does not raise and may commit.
        """
        ...

    def withdraw(self) -> None:
        """Nobody waits any more: who follows is told so at once (``StoreInDoubt``), and an ``Accept`` is voided."""
        ...

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until it is durable. A caller that is cancelled meanwhile withdraws it."""
        ...


class QueueStore(Protocol):
    """The shards that this worker owns.

    Group commit: transitions that are handed over while a commit runs go together into the next one, so that a
    group costs one sync. A transition is durable (fsync or quorum) once its ``Commit`` ended without an error.
    Transitions of one worker become durable in the order in which ``commit`` was called.

    tests/conformance/test_queue_store.py holds every store to this text.
    """

    def owned(self) -> Sequence[int]:
        """The shards that this worker owns now, in order."""
        ...

    def allocate(self, recipients: int) -> MessageKey:
        """A key for a message with so many recipients, in the shard that now accepts. Does no I/O.

        Ids are fixed before the write. A key that is never committed leaves a gap in the serials, no harm.
        """
        ...

    def commit(self, transition: Transition | Later, *, deadline: float) -> Commit:
        """Make one transition durable, as one atomic write. It is handed over by the call, which never raises.

        Args:
            deadline: Monotonic time by which the caller must have its answer.

        Raises:
            StoreBusy: To who follows or awaits: not in time, or the disk is full. Nothing was stored or will be.
            StoreInDoubt: Likewise: not in time while the write was under way. An ``Accept`` is voided by the store
                itself before any of its recipients can be seen by ``due`` or its events by ``EventLog.tail``.
                The same holds for an ``Accept`` that was withdrawn.
            ShardMoved: Likewise: the shard is another worker's. Nothing of an ``Accept`` was stored; of all else the
                new owner knows what became of it, and trying again here is no use.
        """
        ...

    async def due(self, *, after: DueMark, until: float, limit: int) -> Sequence[Pending]:
        """Pending recipients of the owned shards with ``after`` < (due, shard, serial) and due <= ``until``.

        In that order, at most ``limit``. A recipient whose attempt was in doubt when the shard was opened comes
        with ``in_doubt`` set and due no earlier than the in-doubt delay after the opening.
        """
        ...

    async def message(self, key: MessageKey) -> Message | None:
        """The message, of any shard of the node, or of its cluster; None when there is none, or it was voided.

        Raises:
            StoreBusy: It could not be read.
        """
        ...

    async def body(self, key: MessageKey) -> bytes | None:
        """The octets of its body; None when there is no such message or the body's retention is over.

        Raises:
            StoreBusy: It could not be read (the octets do not match their checksum, the disk does not answer).
        """
        ...

    async def recipients(self, key: MessageKey) -> Sequence[RecipientView]:
        """The message's recipients in the order in which they were accepted, wherever they were carried."""
        ...

    async def recipient(self, pending: Pending) -> RecipientView | None:
        """One recipient, with its variables."""
        ...

    async def idempotent(self, scope: bytes) -> IdempotencyRecord | None:
        """The unexpired record of that scope, whichever worker of the node, or of its cluster, committed it.

        Raises:
            StoreBusy: It could not be read, or is of a request that nobody has settled yet.
        """
        ...

    def place(self) -> str:
        """A name for where ``allocate`` puts what is accepted now, for as long as its owner has it. Does no I/O.

        Empty where a place has no end that others can know of.
        """
        ...

    async def is_over(self, place: str) -> bool:
        """Whether nothing more will be accepted at a place, and ``idempotent`` finds all that ever was.

        Raises:
            StoreBusy: It cannot be found out in time.
        """
        ...

    def reason_to_shed(self) -> str | None:
        """Why doors should refuse just now, or None. Hot path: no I/O, no await."""
        ...
