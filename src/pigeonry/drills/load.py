"""Open-loop load: a message is due at its moment, whether or not those before it were answered.

So a server that is slow meets as much as one that is fast, and how long it takes is counted from the moment that the
message was due.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.drills.clients import ANSWER_S, NotBegun, is_taken

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from pigeonry.drills.clients import Client
    from pigeonry.drills.senders import Ledger
    from pigeonry.ports.environment import Clock

__all__ = ["CUT", "UNREACHED", "Attempt", "Door", "Load"]

UNDER_WAY_MAX: Final = 1_000  # messages; what a store that is frozen for a minute leaves open at the drill's rates
AGAIN_S: Final = 0.05  # seconds before all addresses are tried once more
SERVICE_ENDS: Final = 421  # RFC 5321 section 3.8
CUT: Final = 0
"""In place of a code: the connection ended, or said nothing for ``ANSWER_S``, in the middle of a message."""
UNREACHED: Final = -1
"""In place of a code: no connection could be had for ``ANSWER_S``, or too much was under way; nothing was begun."""


class Attempt(msgspec.Struct, frozen=True):
    """What became of one message.

    Args:
        kind: ``SMTP`` or ``HTTP``.
        due: When it was to be sent, by the clock's monotonic time.
        took_s: From then to its answer.
        code: Of that answer, or ``CUT`` or ``UNREACHED``.
    """

    kind: str
    due: float
    took_s: float
    code: int


class Door(msgspec.Struct, frozen=True):
    """Where a client may go.

    Args:
        addresses: Host and port; as DNS would give them, the next is tried when one does not let it in.
        tls: Of the connection, from its first octet.
    """

    client: Client
    addresses: Sequence[tuple[str, int]]
    tls: ssl.SSLContext | None = None


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def lasts(self) -> bool:
        return not self.writer.is_closing() and not self.reader.at_eof()


class Load:
    """Sends by all doors in turn until it is stopped; ``attempts`` has what came of it."""

    def __init__(self, ledger: Ledger, clock: Clock, doors: Sequence[Door]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._doors = doors
        self._idle: dict[int, list[_Connection]] = {number: [] for number in range(len(doors))}
        self._turns = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pacer: asyncio.Task[None] | None = None
        self.rate = 0.0
        """Messages a second; may be changed at any time."""
        self.patient = True
        """Whether a 421 between two transactions is a reason to connect anew. If not it is an answer like any other."""
        self.attempts: list[Attempt] = []

    def start(self, rate: float) -> None:
        """Send so many a second from now on."""
        self.rate = rate
        self._pacer = asyncio.ensure_future(self._pace())

    async def stop(self) -> None:
        """Begin nothing more, and return when all that was begun has ended."""
        if self._pacer is not None:
            self._pacer.cancel()
            await asyncio.wait([self._pacer])
        if self._tasks:
            await asyncio.wait(self._tasks)
        for kept in self._idle.values():
            while kept:
                kept.pop().writer.transport.abort()

    def since(self, begun: float, until: float = float("inf")) -> list[Attempt]:
        """What was due in a time."""
        return [each for each in self.attempts if begun <= each.due < until]

    async def _pace(self) -> None:
        due = self._clock.monotonic()
        for number in itertools.count():
            due += 1.0 / self.rate
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            if len(self._tasks) >= UNDER_WAY_MAX:
                self._note(number % len(self._doors), due, UNREACHED)
                continue
            task = asyncio.ensure_future(self._one(number % len(self._doors), due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one(self, door: int, due: float) -> None:
        client, path, give_up = self._doors[door].client, self._ledger.fresh(), due + ANSWER_S
        while self._clock.monotonic() < give_up:
            connection = None
            try:
                connection = await self._connection(door)
                if connection is None:
                    await self._clock.sleep(AGAIN_S)
                    continue
                async with asyncio.timeout(ANSWER_S):
                    code = await client.send(connection.reader, connection.writer, path)
            except NotBegun:
                if connection is not None:
                    connection.writer.transport.abort()
                if self.patient:
                    await self._clock.sleep(AGAIN_S)
                    continue
                code = SERVICE_ENDS
            except (OSError, EOFError, ValueError):
                if connection is not None:
                    connection.writer.transport.abort()
                self._ledger.unanswered.append(path)
                self._note(door, due, CUT)
                return
            if connection is not None:
                self._put_back(door, connection, code)
            self._ledger.answered(path, code)
            self._note(door, due, code)
            return
        self._ledger.refused.append(path)
        self._note(door, due, UNREACHED)

    def _put_back(self, door: int, connection: _Connection, code: int) -> None:
        """Keep it for the next message; one that was refused something is ended, as mail servers do."""
        if is_taken(code) and connection.lasts():
            self._idle[door].append(connection)
        else:
            connection.writer.transport.abort()

    def _note(self, door: int, due: float, code: int) -> None:
        self.attempts.append(Attempt(self._doors[door].client.kind, due, self._clock.monotonic() - due, code))

    async def _connection(self, door: int) -> _Connection | None:
        """One that is free, or a fresh one; None when no address lets us in just now.

        Raises:
            NotBegun: One answered, with 421, and none let us in.
        """
        while self._idle[door]:
            kept = self._idle[door].pop()
            if kept.lasts():
                return kept
            kept.writer.transport.abort()
        where, first, ended = self._doors[door], next(self._turns), False
        for step in range(len(where.addresses)):
            host, port = where.addresses[(first + step) % len(where.addresses)]
            writer = None
            try:
                async with asyncio.timeout(ANSWER_S):
                    reader, writer = await asyncio.open_connection(host, port, ssl=where.tls)
                    await where.client.greet(reader, writer)
            except (NotBegun, OSError, EOFError, ValueError) as error:
                ended |= isinstance(error, NotBegun)
                if writer is not None:
                    writer.transport.abort()
                continue
            return _Connection(reader, writer)
        if ended:
            raise NotBegun
        return None
