"""A queue store in memory that a test holds in its hand, with gates where things may be slow or fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import Message, MessageKey, NewRecipient, Pending, RecipientView, Transition
from pigeonry.domain.submission import Submission
from pigeonry.ports.environment import Clock
from pigeonry.ports.queue_store import DueMark
from pigeonry.stores.memory.queue_store import MemoryNode, MemoryStore
from support.commits import followed

SHARD = 3
_SHARDS = 16


class WatchedStore(MemoryStore):
    """Everything is durable at once, unless ``faults`` says otherwise. To be opened; need not run.

    ``commits`` are what was stored, in order. ``faults`` are raised by the next commits. ``page_gate``, when set,
    holds back the answer of ``due`` after its snapshot was taken; ``commit_gate`` holds back commits.
    """

    def __init__(self, clock: Clock) -> None:
        self._watched = MemoryNode(shards=_SHARDS)
        super().__init__(self._watched, clock=clock, slot=SHARD, slots=_SHARDS)
        self.commits: list[Transition] = []
        self.faults: list[BaseException] = []
        self.page_gate: asyncio.Event | None = None
        self.commit_gate: asyncio.Event | None = None
        self.pages = 0
        self.reads = 0

    @property
    def views(self) -> dict[tuple[int, int], RecipientView]:
        """Every recipient by shard and serial."""
        return {(SHARD, serial): view for serial, view in self._watched.shards[SHARD]._views.items()}

    @property
    def events(self) -> list[bytes]:
        """Every event."""
        shard = self._watched.shards[SHARD]
        return [entry.octets for entry in shard.tail(after=0, limit=shard.seq_last)]

    @followed
    async def commit(self, transition: Transition, *, deadline: float) -> None:  # type: ignore[override]
        if self.commit_gate is not None:
            await self.commit_gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        self.commits.append(transition)
        self.apply(transition)

    async def due(self, *, after: DueMark, until: float, limit: int) -> Sequence[Pending]:
        self.pages += 1
        page = await super().due(after=after, until=until, limit=limit)
        if self.page_gate is not None:
            await self.page_gate.wait()
        return page

    async def message(self, key: MessageKey) -> Message | None:
        self.reads += 1
        await asyncio.sleep(0)
        return await super().message(key)


def submission(
    *addresses: str,
    due: float = 0.0,
    body: bytes = b"Subject: x\r\n\r\nhello\r\n",
    account: str = "acct",
    **more: object,
) -> Submission:
    """A submission to these addresses."""
    return Submission(
        account=account,
        domain="send.test",
        reverse_path="bounce@send.test",
        recipients=tuple(NewRecipient(address, due) for address in addresses),
        summary=EventMessage(MessageHeaders("1@send.test", "a@send.test", ", ".join(addresses), "x"), len(body)),
        body=body,
        **more,  # type: ignore[arg-type]
    )
