"""Bodies at hand: what was just accepted is mostly sent at once and need not be read back from the disk.

A bounded cache of messages and their octets between ``intake`` and delivery. It holds no truth: whatever it drops
is read from the store again. A message stays until all the recipients it was put in for have released it, or until
others need its room.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pigeonry.domain.errors import NotFound

if TYPE_CHECKING:
    from pigeonry.domain.message import Message, MessageKey
    from pigeonry.ports.queue_store import QueueStore

__all__ = ["ContentCache"]

MESSAGE_OCTETS: Final = 2_048  # octets counted for a message beside its body: headers, tags, variables in memory
SHARE_MAX: Final = 8  # a body over an eighth of the cache is not kept: it would push out too many others


class _Entry:
    """One message; ``uses`` is how many recipients have yet to release it, 0 for one that was read back."""

    __slots__ = ("body", "message", "uses")

    def __init__(self, message: Message, body: bytes, uses: int) -> None:
        self.message = message
        self.body = body
        self.uses = uses


class ContentCache:
    """Messages with their bodies, the least recently used dropped first.

    Args:
        store: Where they are read when they are not here.
        octets_max: Octets of bodies and messages kept.
    """

    def __init__(self, store: QueueStore, octets_max: int) -> None:
        self._store = store
        self._octets_max = octets_max
        self._octets = 0
        self._entries: dict[int, _Entry] = {}  # in the order of their last use
        self._reading: dict[int, asyncio.Future[tuple[Message, bytes]]] = {}

    @property
    def octets(self) -> int:
        """Octets kept now."""
        return self._octets

    def put(self, message: Message, body: bytes, *, uses: int) -> None:
        """Keep a message until it was released so many times, or its room is needed."""
        self._drop(_ident(message.key))
        self._keep(_Entry(message, body, uses))

    def kept(self, key: MessageKey) -> tuple[Message, bytes] | None:
        """The message and its octets if they are in memory; never waits."""
        ident = _ident(key)
        entry = self._entries.pop(ident, None)
        if entry is None:
            return None
        self._entries[ident] = entry
        return entry.message, entry.body

    async def get(self, key: MessageKey) -> tuple[Message, bytes]:
        """The message and its octets, from memory or from the store; read once for all who wait for it.

        Raises:
            NotFound: There is no such message (any more), or its body's retention is over.
            StoreBusy: It could not be read; it may be later.
        """
        if (found := self.kept(key)) is not None:
            return found
        ident = _ident(key)
        while (reading := self._reading.get(ident)) is not None:
            await asyncio.wait((reading,))
            if not reading.cancelled():
                return reading.result()
        return await self._read(ident, key)

    def release(self, key: MessageKey, times: int = 1) -> None:
        """A recipient needs it no more for now. Nothing happens when it is not kept."""
        ident = _ident(key)
        entry = self._entries.get(ident)
        if entry is not None and entry.uses > 0:
            entry.uses -= times
            if entry.uses <= 0:
                self._drop(ident)

    async def _read(self, ident: int, key: MessageKey) -> tuple[Message, bytes]:
        reading = self._reading[ident] = asyncio.get_running_loop().create_future()
        try:
            found = await self._fetch(key)
        except asyncio.CancelledError:
            reading.cancel()
            raise
        except BaseException as error:
            reading.set_exception(error)
            reading.exception()  # it is raised here; perhaps nobody else waits for it
            raise
        finally:
            del self._reading[ident]
        self._keep(_Entry(found[0], found[1], 0))
        reading.set_result(found)
        return found

    async def _fetch(self, key: MessageKey) -> tuple[Message, bytes]:
        message = await self._store.message(key)
        body = None if message is None else await self._store.body(key)
        if message is None or body is None:
            raise NotFound("Message not found")
        return message, body

    def _keep(self, entry: _Entry) -> None:
        size = len(entry.body) + MESSAGE_OCTETS
        if size * SHARE_MAX > self._octets_max:
            return
        self._octets += size
        self._entries[_ident(entry.message.key)] = entry
        while self._octets > self._octets_max:
            self._drop(next(iter(self._entries)))

    def _drop(self, ident: int) -> None:
        entry = self._entries.pop(ident, None)
        if entry is not None:
            self._octets -= len(entry.body) + MESSAGE_OCTETS


def _ident(key: MessageKey) -> int:
    return key.serial << 16 | key.shard
