"""The audit of the ledger: silent while all is well, and loud about whatever is lost or counted twice."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from pigeonry.domain.event import (
    Accepted,
    Delivered,
    DeliveryStatus,
    EventMessage,
    Failed,
    MessageHeaders,
    encode_event,
)
from pigeonry.domain.message import Accept, Message, NewRecipient, Note, Pending, RecipientState, Settle, Void
from pigeonry.events.ledger import LedgerAudit
from pigeonry.ports.event_log import LogEntry
from pigeonry.ports.ledger import AUDITED_S, KEPT_S
from pigeonry.ports.queue_store import DueMark
from pigeonry.stores.memory.queue_store import MemoryNode, MemoryStore
from support.day_files import SetClock

SUMMARY = EventMessage(headers=MessageHeaders(message_id="m@x.test"))
CLOSED_S = 130.0  # after so long every minute before is over


class Leaky(MemoryStore):
    """A store whose log does not show everything."""

    without: Sequence[int] = ()

    async def tail(self, shard: int, *, after: int, limit: int) -> Sequence[LogEntry]:
        return [each for each in await super().tail(shard, after=after, limit=limit) if each.seq not in self.without]


class World:
    """A store with mail in it, and who audits it."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.node = MemoryNode(shards=1)
        self.store = Leaky(self.node, clock=self.clock)
        self.audit = LedgerAudit(self.store, self.clock)

    def accept(self, *addresses: str, domain: str = "x.test") -> list[Pending]:
        now = self.clock.now()
        key = self.store.allocate(len(addresses))
        events = tuple(encode_event(Accepted("i", now, domain, "acct", SUMMARY, recipient=each)) for each in addresses)
        message = Message(key, "acct", domain, "a@x.test", SUMMARY, now, now + 9e5)
        self.store.apply(Accept(message, b"body", tuple(NewRecipient(each, now) for each in addresses), events))
        return [pending for _, pending in self.node.shards[0].due(after=START, until=1e12) if pending.message == key]

    def end(self, pending: Pending, state: RecipientState = RecipientState.DELIVERED) -> None:
        self.store.apply(Settle(pending, state, self.final(pending, state), attempts=1))

    def final(self, pending: Pending, state: RecipientState = RecipientState.DELIVERED) -> bytes:
        status, now, minute = DeliveryStatus(250), self.clock.now(), pending.accepted_minute
        if state is RecipientState.DELIVERED:
            return encode_event(
                Delivered("i", now, pending.domain, "acct", SUMMARY, delivery_status=status, accepted_minute=minute)
            )
        severity = "permanent" if state is RecipientState.FAILED else "temporary"
        return encode_event(
            Failed(
                "i", now, pending.domain, "acct", SUMMARY, delivery_status=status, severity=severity,  # type: ignore[arg-type]
                accepted_minute=minute if severity == "permanent" else msgspec.UNSET,
            )
        )  # fmt: skip

    async def audited(self, *, after_s: float = CLOSED_S) -> tuple[int, int]:
        """Difference and gaps once the minute is over and two rounds have gone by."""
        self.clock.time += after_s
        for _ in range(2):
            await self.audit.round()
            self.clock.time += 15.0
        return self.audit.difference, self.audit.gaps


START = DueMark(float("-inf"))


@pytest.fixture
async def world() -> World:
    world = World()
    await world.store.open()
    return world


async def test_what_balances_is_no_difference_at_any_time(world: World) -> None:
    one, two, three = world.accept("a@y.test", "b@y.test", "c@y.test")
    world.end(one)
    assert await world.audited() == (0, 0)
    world.store.apply(Settle(two, RecipientState.PENDING, world.final(two, RecipientState.PENDING), attempts=1))
    (void,) = world.accept("d@y.test", domain="z.test")
    world.store.apply(Void(void.message, 1))
    world.store.apply(Note(b'{"event":"rejected","domain":"x.test","timestamp":1}'))
    assert await world.audited() == (0, 0)
    world.end(three, RecipientState.FAILED)
    (_,) = world.accept("e@y.test")
    assert await world.audited() == (0, 0)
    world.clock.time += KEPT_S
    assert await world.audited() == (0, 0)
    world.clock.time += AUDITED_S
    assert await world.audited() == (0, 0)


async def test_mail_that_never_stops_is_no_difference(world: World) -> None:
    waiting: list[Pending] = []
    for second in range(300):
        world.clock.time += 1.0
        waiting += world.accept("a@y.test", "b@y.test", domain=f"{second % 3}.test")
        world.end(waiting.pop(second % len(waiting)))
        if second % 15 == 0:
            await world.audit.round()
            assert (world.audit.difference, world.audit.gaps) == (0, 0)


@pytest.mark.parametrize("which", [0, 1], ids=["accepted", "delivered"])
async def test_an_event_that_lost_what_it_said_is_a_difference(world: World, which: int) -> None:
    (pending,) = world.accept("a@y.test")
    world.end(pending)
    events = world.node.shards[0]._events
    events[which] = events[which][0], b""
    assert await world.audited() == (1, 0)


async def test_a_second_final_event_is_a_difference_also_when_it_comes_later(world: World) -> None:
    (pending,) = world.accept("a@y.test")
    world.end(pending)
    assert await world.audited() == (0, 0)
    world.store.apply(Note(world.final(pending, RecipientState.FAILED)))
    assert await world.audited() == (1, 0)


async def test_a_state_that_changed_without_being_counted_is_a_difference(world: World) -> None:
    (pending,) = world.accept("a@y.test")
    world.node.shards[0]._waiting.discard(pending.serial)
    assert await world.audited() == (1, 0)


async def test_an_event_that_is_not_there_is_a_gap(world: World) -> None:
    one, two = world.accept("a@y.test", "b@y.test")
    world.end(one)
    world.end(two)
    world.store.without = (3,)
    assert await world.audited() == (1, 1)


async def test_the_end_of_a_log_that_does_not_come_is_a_gap(world: World) -> None:
    one, two = world.accept("a@y.test", "b@y.test")
    world.end(one)
    world.end(two)
    world.store.without = (3, 4)
    assert (await world.audited())[1] == 2


async def test_who_begins_later_holds_what_is_young_against_the_log_and_the_rest_from_then_on(world: World) -> None:
    old, older = world.accept("a@y.test", "b@y.test")
    world.end(old)
    world.clock.time += KEPT_S + 300.0
    (young,) = world.accept("c@y.test")
    world.end(young)
    events = world.node.shards[0]._events
    events[-1] = events[-1][0], b""  # lost when the worker before this one died
    assert await world.audited() == (1, 0)
    assert await world.audited() == (1, 0)
    world.store.apply(Note(world.final(older)))
    assert await world.audited() == (2, 0)
