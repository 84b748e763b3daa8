"""Identity, Directory and what writes them, in memory, for tests of those who ask who may do what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pigeonry.admission.domains import DomainBook
from pigeonry.admission.registry import DomainRegistry
from pigeonry.auth.passwords import Passwords
from pigeonry.auth.register import Register
from pigeonry.domain.errors import StoreBusy
from pigeonry.protocol.sealing import Seal
from pigeonry.stores.memory.documents import MemoryDocuments


class HandClock:
    """Time that stands until it is moved; sleeping moves it and lets others run."""

    def __init__(self, at: float = 1_000_000.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds
        await asyncio.sleep(0)


class SerialIds:
    """Octets that differ each time and are the same in each run."""

    def __init__(self) -> None:
        self._given = 0

    def octets(self, count: int) -> bytes:
        self._given += 1
        return self._given.to_bytes(4).rjust(count, b"\x5a")[-count:]


class InlineLane:
    """Runs work when others had a turn, and counts it."""

    def __init__(self) -> None:
        self.runs = 0

    async def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.runs += 1
        await asyncio.sleep(0)
        return work(*args, **kwargs)

    def close(self) -> None:
        return


class FlakyDocuments(MemoryDocuments):
    """Documents that let others have a turn first, and cannot be reached while ``down``."""

    down = False
    reads = 0

    async def get(self, kind: str, id: str) -> Any:  # noqa: A002
        self.reads += 1
        self._check()
        await asyncio.sleep(0)
        return await super().get(kind, id)

    async def put(self, kind: str, id: str, value: bytes, *, expect: int | None) -> Any:  # noqa: A002
        self._check()
        await asyncio.sleep(0)
        return await super().put(kind, id, value, expect=expect)

    async def changes(self, *, after: int, limit: int = 1000) -> Any:
        self.reads += 1
        self._check()
        return await super().changes(after=after, limit=limit)

    def _check(self) -> None:
        if self.down:
            raise StoreBusy("down")


class Tenancy:
    """Both stores and their writers. Passwords are hashed with argon2's least cost."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.ids = SerialIds()
        self.identity = FlakyDocuments()
        self.directory = FlakyDocuments()
        self.seal = Seal(bytes(range(32)))
        self.lane = InlineLane()
        self.passwords = Passwords(self.lane, memory_kib=8, passes=1)
        self.register = Register(self.identity, passwords=self.passwords, clock=self.clock, ids=self.ids)
        self.registry = DomainRegistry(
            self.directory, seal=self.seal, clock=self.clock, ids=self.ids, lane=InlineLane()
        )
        self.book = DomainBook(self.directory, self.clock, self.seal)
