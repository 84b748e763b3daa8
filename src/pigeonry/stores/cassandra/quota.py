"""Shares of limits over all nodes: a row for each limit, changed by lightweight transactions only.

- **A pot** is read, negotiated (``quota.negotiation``) and put back if it is still what was read. Each time it has
  another version, a number nobody guesses, so that a statement that arrives late finds another one and does nothing.
- **A beat** is written by its own session alone, plainly, and its number is its timestamp: no clock is asked, and the
  highest stands.
- **A call** is a number in a row of its caller's own, for the session that is called and one of a few slots of names.
  It is overwritten in place, so that nothing is ever deleted where sessions look all the time.

Pots outlive their last change by a day, sessions and calls too; members ask anew for what they hold more often.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import msgspec
import structlog

from pigeonry.domain.errors import StoreBusy
from pigeonry.quota.negotiation import Pot, decode_pot, encode_pot, holders, negotiated
from pigeonry.quota.witness import Witness
from pigeonry.stores.cassandra.session import Consistency

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.ports.quota import Ask, Grant
    from pigeonry.stores.cassandra.session import Session

__all__ = ["QUOTA_TABLES", "CassandraQuota"]

TIMEOUT_S: Final = 2.0  # seconds for one statement; under the life of a session, which it must not use up
KEPT_S: Final = 86_400  # seconds that rows stay: a day of hindsight, and the dead do not pile up
SLOTS: Final = 16  # slots of names in which a session is called: it asks anew for a sixteenth of what it holds
TRIES: Final = 8  # when others change a pot at the same moment; each time one of them gets through

QUOTA_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS quota_pot (name text PRIMARY KEY, version bigint, holdings blob)",
    "CREATE TABLE IF NOT EXISTS quota_session (name text PRIMARY KEY, beat bigint)",
    """CREATE TABLE IF NOT EXISTS quota_call (
    session text, caller text, slot int, number bigint, PRIMARY KEY (session, caller, slot))""",
)


class CassandraQuota:
    """See ``ports.quota.Quota`` for the contract.

    Args:
        session: Connections to the nodes.
        keyspace: Of the leases.
    """

    def __init__(self, session: Session, *, keyspace: str, clock: Clock, ids: IdSource) -> None:
        self._session = session
        self._clock = clock
        self._ids = ids
        self._witness = Witness(clock)
        self._caller = ids.octets(8).hex()
        self._beats: dict[str, int] = {}
        self._names: dict[str, set[str]] = {}  # what each session here has or wants a part in
        self._heard: dict[str, dict[tuple[str, int], int]] = {}  # calls that were acted on, by session
        self._calls = 0
        pot, member, call = (f"{keyspace}.quota_{name}" for name in ("pot", "session", "call"))
        self._read = f"SELECT version, holdings FROM {pot} WHERE name = ?"  # noqa: S608
        self._insert = f"INSERT INTO {pot} (version, holdings, name) VALUES (?, ?, ?) IF NOT EXISTS USING TTL ?"  # noqa: S608
        self._update = f"UPDATE {pot} USING TTL ? SET version = ?, holdings = ? WHERE name = ? IF version = ?"  # noqa: S608
        self._beat = f"UPDATE {member} USING TTL {KEPT_S} AND TIMESTAMP ? SET beat = ? WHERE name = ?"  # noqa: S608
        self._beat_of = f"SELECT beat FROM {member} WHERE name = ?"  # noqa: S608
        self._call = (
            f"UPDATE {call} USING TTL {KEPT_S} AND TIMESTAMP ? SET number = ? "  # noqa: S608
            "WHERE session = ? AND caller = ? AND slot = ?"
        )
        self._called = f"SELECT caller, slot, number FROM {call} WHERE session = ?"  # noqa: S608

    async def join(self, session: str) -> None:
        """Begin a session."""
        await self._write_beat(session)
        self._names[session] = set()
        self._heard[session] = {}

    async def attend(self, session: str) -> Collection[str]:
        """Say that a session lives; the limits for which it should ask anew."""
        _, rows = await asyncio.gather(self._write_beat(session), self._rows(self._called, session))
        heard = self._heard.setdefault(session, {})
        slots = {slot for caller, slot, number in rows if heard.get((caller, slot)) != number}
        heard.update(((caller, slot), number) for caller, slot, number in rows)
        return [name for name in self._names.get(session, ()) if _slot(name) in slots]

    async def negotiate(self, session: str, asks: Sequence[Ask], *, former: Collection[str] = ()) -> Sequence[Grant]:
        """Ask for shares, all at once."""
        return await asyncio.gather(*(self._one(session, ask, former) for ask in asks))

    async def leave(self, session: str) -> None:
        """End a session. Its beat stops, which is how the others find what it did not give back."""
        names = self._names.pop(session, set())
        self._heard.pop(session, None)
        self._beats.pop(session, None)
        await asyncio.gather(*(self._drop(name, session) for name in names))

    # One limit

    async def _one(self, session: str, ask: Ask, former: Collection[str]) -> Grant:
        for _ in range(TRIES):
            version, pot = await self._pot(ask.name)
            over, gone = await self._judged(holders(pot) - {session, *former})
            now, grant, call = negotiated(pot, session, ask, former=former, over=over, gone=gone)
            if now == pot or await self._put(ask.name, version, now):
                names = self._names.setdefault(session, set())
                (names.add if session in holders(now) else names.discard)(ask.name)
                await asyncio.gather(*(self._ring(other, ask.name) for other in call))
                return grant
        raise StoreBusy("Too many change this limit just now.")

    async def _drop(self, name: str, session: str) -> None:
        for _ in range(TRIES):
            version, pot = await self._pot(name)
            left = tuple(holding for holding in pot if holding.session != session)
            if left == pot or await self._put(name, version, left):
                return

    async def _pot(self, name: str) -> tuple[int | None, Pot]:
        """A pot and its version; None for one that was never there.

        One that cannot be read is dealt anew, as it is when its row was lost: else nobody had any share of any limit.
        """
        rows = await self._rows(self._read, name, consistency=Consistency.SERIAL)
        if not rows:
            return None, ()
        version, octets = rows[0]
        try:
            return version, decode_pot(octets)
        except (msgspec.MsgspecError, ValueError, TypeError) as error:  # the last: it has no octets
            structlog.get_logger().error("quota_unreadable", limit=name, reason=str(error))
            return version, ()

    async def _put(self, name: str, version: int | None, pot: Pot) -> bool:
        """Put a pot back; False when it changed meanwhile."""
        fresh, octets = int.from_bytes(self._ids.octets(8), signed=True), encode_pot(pot)
        cql, values = (
            (self._insert, (fresh, octets, name, KEPT_S))
            if version is None
            else (self._update, (KEPT_S, fresh, octets, name, version))
        )
        applied, _ = await self._session.conditional(
            cql, values, timeout_s=TIMEOUT_S, consistency=Consistency.QUORUM, serial=Consistency.SERIAL
        )
        return applied

    # Sessions

    async def _judged(self, sessions: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
        if not sessions:
            return frozenset(), frozenset()
        began = self._clock.monotonic()
        return self._witness.judge(await self._beats_of(sessions), began=began)

    async def _beats_of(self, sessions: Collection[str]) -> Mapping[str, int]:
        found = await asyncio.gather(*(self._rows(self._beat_of, session) for session in sessions))
        return {session: rows[0][0] if rows else 0 for session, rows in zip(sessions, found, strict=True)}

    async def _write_beat(self, session: str) -> None:
        beat = self._beats[session] = self._beats.get(session, 0) + 1
        await self._session.execute(
            self._beat, (beat, beat, session), timeout_s=TIMEOUT_S, consistency=Consistency.QUORUM
        )

    async def _ring(self, session: str, name: str) -> None:
        self._calls += 1
        number = self._calls
        await self._session.execute(
            self._call,
            (number, number, session, self._caller, _slot(name)),
            timeout_s=TIMEOUT_S,
            consistency=Consistency.QUORUM,
        )

    async def _rows(
        self, cql: str, name: str, *, consistency: Consistency = Consistency.QUORUM
    ) -> list[tuple[Any, ...]]:
        return await self._session.execute(cql, (name,), timeout_s=TIMEOUT_S, consistency=consistency)


def _slot(name: str) -> int:
    return crc32(name.encode()) % SLOTS
