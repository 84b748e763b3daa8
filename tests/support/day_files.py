"""A store on a disk in memory, with lanes that run at once and a clock that a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from pigeonry.domain.event import EventMessage, MessageHeaders
from pigeonry.domain.message import Accept, BodyRef, IdempotencyRecord, Message, MessageKey, NewRecipient
from pigeonry.stores.sqlite.limits import Limits
from pigeonry.stores.sqlite.queue_store import SqliteStore
from simulation.faulty_disk import FaultyDisk

P = ParamSpec("P")
T = TypeVar("T")

DAY_S = 86_400.0
MONDAY = 20_000 * DAY_S  # a midnight
LIMITS = Limits(in_doubt_delay_s=60.0, free_octets_min=0, retention_s=3 * DAY_S, carry_after_s=3_600.0)


class SetClock:
    """Stands still until a test moves it; sleeping only lets others run."""

    def __init__(self, now: float = MONDAY) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class InlineLane:
    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self._gate = gate

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(0)
        if self._gate is not None:
            await asyncio.shield(asyncio.ensure_future(self._gate.wait()))
        return work(*args, **kwargs)

    def close(self) -> None:
        return


class InlineLanes:
    """``gate`` holds back the writer's lane while it is not set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()

    def lane(self, name: str) -> InlineLane:
        return InlineLane(self.gate if name == "store-write" else None)


@asynccontextmanager
async def serving(
    disk: FaultyDisk,
    clock: SetClock,
    *,
    limits: Limits = LIMITS,
    last_words: bytes = b"",
    lanes: InlineLanes | None = None,
) -> AsyncIterator[SqliteStore]:
    """Open the store and let it write groups; the janitor's rounds are the test's to call."""
    store = SqliteStore(
        "/q",
        slot=0,
        slots=1,
        disk=disk,
        lanes=lanes or InlineLanes(),
        clock=clock,
        shards=1,
        limits=limits,
        last_words=last_words,
    )
    await store.open()
    tasks = [asyncio.create_task(store._writer.write_groups()), asyncio.create_task(store._writer.watch_deadlines())]
    try:
        yield store
    finally:
        if not store.broken.is_set():
            await store.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def letter(
    store: SqliteStore, *addresses: str, body: bytes | BodyRef = b"body", due: float = MONDAY, scope: bytes = b""
) -> Accept:
    """An ``Accept`` for these recipients."""
    key = store.allocate(len(addresses))
    return accept_of(key, *addresses, body=body, due=due, scope=scope)


def accept_of(
    key: MessageKey, *addresses: str, body: bytes | BodyRef = b"body", due: float = MONDAY, scope: bytes = b""
) -> Accept:
    """The same, with a key that was given out before."""
    summary = EventMessage(headers=MessageHeaders(message_id=f"{key.serial}@x.test"), size=4)
    record = IdempotencyRecord(scope, b"f" * 32, b"{}", MONDAY + DAY_S) if scope else None
    return Accept(
        Message(key, "acct", "x.test", "a@x.test", summary, MONDAY, 1e12),
        body,
        tuple(
            NewRecipient(address, due, b'{"n":1}', "FAILURE", "rfc822;o@x.test")
            if "full" in address
            else NewRecipient(address, due)
            for address in addresses
        ),
        tuple(f'{{"accepted":"{address}"}}'.encode() for address in addresses),
        record,
    )
