"""Whom a member takes for dead, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from pigeonry.domain.errors import StoreBusy
from pigeonry.stores.cassandra.membership import BEATS, MARGIN, Membership
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededIds
from pigeonry.testing.loop import VirtualLoop

TTL_S = 6.0
BEAT_S = TTL_S / BEATS


class Rows:
    """The rows of one other member, which does not renew."""

    def __init__(self) -> None:
        self.frozen = False

    async def execute(self, cql: str, values: object, *, timeout_s: float) -> list[tuple[Any, ...]]:
        if self.frozen:
            raise StoreBusy("It does not answer.")
        return [("other/0/x", 7, "serving", "", "")]


@pytest.mark.parametrize("frozen_s", [0.0, 60.0])
def test_silence_while_nobody_could_renew_does_not_count(frozen_s: float) -> None:
    loop = VirtualLoop()

    async def story() -> None:
        clock, rows = VirtualClock(loop), Rows()
        member = Membership(
            rows,  # type: ignore[arg-type]  # as much of a session as is used
            worker="me/0",
            location="",
            address="",
            ttl_s=TTL_S,
            clock=clock,
            ids=SeededIds("1"),
        )
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
