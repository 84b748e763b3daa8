"""Consumers of the event log: each has a cursor of its own, and can be killed, wiped and rebuilt.

A ``Sink`` takes entries and moves its cursor with them in one transaction, so that an entry is never lost and, taken
twice, changes nothing. A sink that fails, in whatever way, makes its consumer wait and try again: it never stops the
mail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from pigeonry.domain.errors import Fault, StoreBusy

if TYPE_CHECKING:
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.event_log import EventLog

__all__ = ["Consumer", "IndexConsumer", "Sink"]

PAGE: Final = 1000  # events fed at once: some 20 ms of work, a third of it on the loop, in slices
ROUND_S: Final = 0.2  # between two looks at the log; an index may lag 1 s
BUSY_ROUND_S: Final = 0.4  # the same when there is much: larger batches cost a third less an event
BUSY: Final = 100  # events in a round that are much
FAULT_PAUSE_S: Final = 1.0  # after a sink or a log that could not
FAULT_PAUSE_S_MAX: Final = 30.0  # seconds; a sink that works again is used within half a minute


class Sink(Protocol):
    """Where a consumer's entries go. ``ports.event_index.EventIndex`` is one."""

    async def cursor(self, shard: int) -> int:
        """The seq up to which entries were taken."""
        ...

    async def feed(self, shard: int, entries: Sequence[tuple[int, bytes]]) -> None:
        """Take entries in order, and move the cursor with them."""
        ...

    async def level(self, at: Mapping[int, float]) -> None:
        """Hear that logs had nothing beyond the cursor at a time."""
        ...

    async def give_up(self, shard: int) -> None:
        """Hear that another worker consumes the shard from now on."""
        ...


class Consumer:
    """Feeds a sink with the events of the shards that this worker owns.

    Args:
        name: For the log.
    """

    def __init__(self, name: str, log: EventLog, sink: Sink, clock: Clock) -> None:
        self._name = name
        self._log = log
        self._sink = sink
        self._clock = clock
        self._cursors: dict[int, int] = {}
        self._taken = 0

    def lag(self) -> int:
        """Events in the log that the sink has not taken yet."""
        return sum(max(0, self._log.head(shard) - self._cursors.get(shard, 0)) for shard in self._log.shards())

    async def run(self) -> None:
        """Follow the log until cancelled."""
        log = structlog.get_logger()
        failures = 0
        while True:
            try:
                await self.round()
            except Fault as error:
                if not failures:
                    log.warning("consumer_waits", consumer=self._name, reason=error.text)
                failures += 1
            except Exception:  # A consumer's bug is no reason to stop the mail.
                if not failures:
                    log.exception("consumer_failed", consumer=self._name)
                failures += 1
            else:
                if failures:
                    log.info("consumer_goes_on", consumer=self._name)
                failures = 0
            pause = min(FAULT_PAUSE_S * 2.0 ** min(failures - 1, 10), FAULT_PAUSE_S_MAX) if failures else self._pause()
            await self._clock.sleep(pause)

    async def round(self) -> None:
        """Bring every shard to the end of its log.

        Raises:
            Fault: Some shard could not be followed; what was taken until then stays, the others were followed.
        """
        self._taken = 0
        shards = list(self._log.shards())
        for gone in self._cursors.keys() - set(shards):
            await self._sink.give_up(gone)
            del self._cursors[gone]
        level: dict[int, float] = {}
        fault: Fault | None = None
        for shard in shards:
            try:
                level[shard] = await self._follow(shard)
            except Fault as error:
                fault = error
        if level:
            await self._sink.level(level)
        if fault is not None:
            raise fault

    def _pause(self) -> float:
        return BUSY_ROUND_S if self._taken >= BUSY else ROUND_S

    async def _follow(self, shard: int) -> float:
        """Feed one shard; a time at which its log had nothing beyond the cursor."""
        cursor = await self._sink.cursor(shard)
        while True:
            self._cursors[shard] = cursor
            at = self._clock.now()
            if self._log.head(shard) <= cursor:
                return at
            entries = await self._log.tail(shard, after=cursor, limit=PAGE)
            if not entries:
                return at
            await self._sink.feed(shard, [(entry.seq, entry.octets) for entry in entries])
            self._taken += len(entries)
            before, cursor = cursor, await self._sink.cursor(shard)  # asked: a sink that lost something goes back
            if cursor == before:
                raise StoreBusy(f"The sink took nothing of shard {shard}.")


class IndexConsumer(Consumer):
    """The consumer that keeps the search index level."""

    def __init__(self, log: EventLog, index: Sink, clock: Clock) -> None:
        super().__init__("index", log, index, clock)
