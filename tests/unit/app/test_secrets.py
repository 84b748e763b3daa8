"""Secrets that an installation makes once."""

from __future__ import annotations

import itertools

import pytest

from pigeonry.app.secrets import EVENT_PAGES, KIND, event_ids, page_secret
from pigeonry.protocol.sealing import Seal, WrongSealKey
from pigeonry.stores.memory.documents import MemoryDocuments


class Ids:
    """Other octets each time."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def octets(self, count: int) -> bytes:
        return next(self._numbers).to_bytes(count)


async def test_a_secret_is_made_once_and_lies_sealed() -> None:
    directory, seal = MemoryDocuments(), Seal(b"k" * 32)
    secret = await page_secret(directory, Ids(), seal)
    assert await page_secret(directory, Ids(), seal) == secret
    kept = await directory.get(KIND, EVENT_PAGES)
    assert kept is not None
    assert secret not in kept.value


async def test_each_secret_is_its_own() -> None:
    directory, seal, ids = MemoryDocuments(), Seal(b"k" * 32), Ids()
    made = await event_ids(directory, ids, seal)
    await page_secret(directory, ids, seal)
    again = await event_ids(directory, ids, seal)
    assert again.event_id(1, 2, 0, "accepted") == made.event_id(1, 2, 0, "accepted")


async def test_another_seal_key_is_told() -> None:
    directory = MemoryDocuments()
    await page_secret(directory, Ids(), Seal(b"k" * 32))
    with pytest.raises(WrongSealKey):
        await page_secret(directory, Ids(), Seal(b"o" * 32))
