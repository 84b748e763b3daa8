"""Whom a member takes for dead, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.stores.cassandra.membership import BEATS, MARGIN, OVER_PAUSE, Membership
from pigeonry.stores.cassandra.ownership import CassandraOwnership
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededIds
from pigeonry.testing.loop import VirtualLoop
from support.day_files import SetClock

TTL_S = 6.0
BEAT_S = TTL_S / BEATS


class Rows:
    """The row of a member, and of another one, which does not renew."""

    def __init__(self) -> None:
        self.frozen = False
        self.beat = -1

    async def execute(self, cql: str, values: object, *, timeout_s: float) -> list[tuple[Any, ...]]:
        if self.frozen:
            raise StoreBusy("It does not answer.")
        return [("other/0/x", 7, "serving", "", "")]

    async def conditional(self, cql: str, values: tuple[Any, ...], *, timeout_s: float) -> tuple[bool, dict[str, Any]]:
        """A write that meets a frozen store may get through all the same: the first one does."""
        if "INSERT" in cql:
            self.beat = 0
            return True, {}
        applied = self.beat == values[-1]
        if applied:
            self.beat = values[1]
        if self.frozen:
            raise StoreInDoubt("It does not confirm.")
        return applied, {} if applied else {"beat": self.beat}


def me(rows: Rows, clock: VirtualClock) -> Membership:
    return Membership(
        rows,  # type: ignore[arg-type]  # as much of a session as is used
        worker="me/0",
        location="",
        address="",
        ttl_s=TTL_S,
        clock=clock,
        ids=SeededIds("1"),
    )


@pytest.mark.parametrize("frozen_s", [0.0, 60.0])
def test_silence_while_nobody_could_renew_does_not_count(frozen_s: float) -> None:
    loop = VirtualLoop()

    async def story() -> None:
        clock, rows = VirtualClock(loop), Rows()
        member = me(rows, clock)
        await member.look()
        (other,) = member.members()
        await clock.sleep(BEAT_S)
        await member.look()
        rows.frozen = True
        await clock.sleep(frozen_s)
        rows.frozen = False
        await member.look()
        assert not member.expired(other)
        for _ in range(BEATS):
            await clock.sleep(BEAT_S)
            await member.look()
        await clock.sleep(TTL_S * MARGIN)
        assert member.expired(other)

    loop.play(story())


@pytest.mark.parametrize("frozen_s", [10.0, 10.5, 11.0, 11.5])
def test_a_lease_that_ran_out_while_the_store_was_silent_is_back_soon_after_it(frozen_s: float) -> None:
    """Also where a renewal of which nothing was heard counted: the beat is another one than was thought."""
    loop = VirtualLoop()

    async def story() -> None:
        clock, rows = VirtualClock(loop), Rows()
        member = me(rows, clock)
        await member.join()
        running = asyncio.ensure_future(member.run())
        rows.frozen = True
        await clock.sleep(frozen_s)
        assert not member.holds()
        rows.frozen, thawed = False, clock.monotonic()
        await member.confirmed()
        assert clock.monotonic() - thawed <= BEAT_S * OVER_PAUSE
        assert member.name
        running.cancel()

    loop.play(story())


async def test_a_row_that_no_worker_wrote_is_passed_over_and_a_torn_one_is_waited_for() -> None:
    class Torn(Rows):
        async def execute(self, cql: str, values: object, *, timeout_s: float) -> list[tuple[Any, ...]]:
            nameless: list[tuple[Any, ...]] = [(name, 7, "serving", "", "") for name in ("", "x", "x/y/z", "a/1/b/c")]
            return [*nameless, ("torn/0/x", None, None, None, None)]

    clock: Any = SetClock()
    member = Membership(
        Torn(),  # type: ignore[arg-type]  # as much of a session as is used
        worker="me/0",
        location="",
        address="",
        ttl_s=TTL_S,
        clock=clock,
        ids=SeededIds("1"),
    )
    await member.look()
    assert [each.name for each in member.alive()] == [
        "torn/0/x"
    ]  # it may acknowledge until it was silent for its lease
    shares: Any = None
    ownership = CassandraOwnership(member, shares, clock=clock, fresh_s=1.0)
    assert [each.node for each in await ownership.members()] == ["torn"]
