"""Who is asked for an address, when, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest
import structlog

from pigeonry.delivery.borrowing import Borrowing, Offer
from pigeonry.delivery.egress import Outlet
from pigeonry.delivery.lending import Lending, to_exchangers, to_smarthost
from pigeonry.delivery.reach import Reach
from pigeonry.domain.errors import NotAllowed, NotOwner, StoreBusy
from pigeonry.domain.route import EgressSource
from pigeonry.ports.network import DnsFailure
from pigeonry.testing.clock import VirtualClock
from pigeonry.testing.dice import SeededDice
from pigeonry.testing.loop import VirtualLoop

ONE, TWO = "192.0.2.1", "192.0.2.2"


class Stage:
    """A node that borrows."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.lent = {
            ONE: Outlet(EgressSource("one", ONE), lent=True),
            TWO: Outlet(EgressSource("two", TWO, "two.test"), lent=True),
        }
        self.answers: Mapping[str, Mapping[str, Offer]] | None = {}
        self.wanted = True
        self.asked: list[float] = []
        self.changes = 0

    async def ask(self) -> Mapping[str, Mapping[str, Offer]]:
        self.asked.append(self.clock.monotonic())
        await asyncio.sleep(0.1)
        if self.answers is None:
            raise StoreBusy("who is there?")
        return self.answers

    def changed(self) -> None:
        self.changes += 1

    def ways(self) -> dict[str, tuple[str, bool]]:
        now = self.clock.monotonic()
        return {address: (outlet.through, outlet.until > now) for address, outlet in self.lent.items()}

    def play(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        borrowing = Borrowing(
            self.lent,
            wanted=lambda: self.wanted,
            ask=self.ask,
            clock=self.clock,
            dice=SeededDice("x"),
            changed=self.changed,
            log=structlog.get_logger(),
            every_s=7.5,
        )

        async def main() -> None:
            running = asyncio.ensure_future(borrowing.run())
            await act()
            running.cancel()

        self.loop.play(main())
        self.loop.close()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_nobody_is_asked_for_what_is_not_needed_and_all_at_once_for_what_is(stage: Stage) -> None:
    async def act() -> None:
        stage.wanted = False
        await asyncio.sleep(30.0)
        assert stage.asked == []
        stage.wanted = True
        await asyncio.sleep(1.0)
        assert len(stage.asked) == 1
        await asyncio.sleep(60.0)
        assert 8 <= len(stage.asked) <= 12

    stage.play(act)


def test_a_loan_holds_for_as_long_as_its_lender_said_and_is_renewed(stage: Stage) -> None:
    async def act() -> None:
        stage.answers = {"b": {ONE: Offer(20.0, "b.test"), "192.0.2.9": Offer(20.0)}, "c": {TWO: Offer(20.0, "c.test")}}
        await asyncio.sleep(0.5)
        assert stage.ways() == {ONE: ("b", True), TWO: ("c", True)}
        assert stage.lent[ONE].until == stage.asked[0] + 20.0
        assert [outlet.source.hostname for outlet in stage.lent.values()] == ["b.test", "two.test"]
        assert stage.changes == 1
        for _ in range(60):
            await asyncio.sleep(1.0)
            assert stage.ways() == {ONE: ("b", True), TWO: ("c", True)}
        stage.answers = {"b": {}, "c": {ONE: Offer(20.0, "c.test"), TWO: Offer(20.0)}}  # it moved
        await asyncio.sleep(8.5)
        assert stage.ways()[ONE] == ("c", True)
        assert stage.lent[ONE].source.hostname == "c.test"
        stage.answers = {"c": {TWO: Offer(20.0)}}
        await asyncio.sleep(8.5)
        assert stage.ways() == {ONE: ("", False), TWO: ("c", True)}

    stage.play(act)


@pytest.mark.parametrize("answers", [None, {}])
def test_a_lender_that_is_silent_once_still_lends_and_then_not(stage: Stage, answers: dict[str, Any] | None) -> None:
    async def act() -> None:
        stage.answers = {"b": {ONE: Offer(20.0)}}
        await asyncio.sleep(0.5)
        stage.answers = answers
        await asyncio.sleep(10.0)
        assert stage.ways()[ONE] == ("b", True)
        await asyncio.sleep(10.0)
        assert not stage.ways()[ONE][1]

    stage.play(act)


def test_one_that_refused_a_connection_is_asked_at_once(stage: Stage) -> None:
    async def act() -> None:
        stage.answers = {"b": {ONE: Offer(20.0)}}
        await asyncio.sleep(0.5)
        stage.lent[ONE].until = -math.inf  # as the dispatcher does
        await asyncio.sleep(1.5)
        assert stage.ways()[ONE] == ("b", True)
        stage.answers = {}
        stage.lent[ONE].until = -math.inf
        await asyncio.sleep(1.5)
        assert stage.ways()[ONE] == ("", False)
        assert len(stage.asked) == 3

    stage.play(act)


class Names:
    """A resolver of one host."""

    async def addresses(self, host: str) -> tuple[str, ...]:
        if host != "hub.test":
            raise DnsFailure(host)
        return ("10.0.0.1", "10.0.0.2")


def lending(clock: VirtualClock, may_reach: Any) -> Lending:
    outlets = {
        ONE: Outlet(EgressSource("one", ONE), clock.monotonic() + 10.0),
        TWO: Outlet(EgressSource("two", TWO, "two.test"), clock.monotonic()),
        "": Outlet(EgressSource("", ""), math.inf),
    }
    return Lending(outlets, hostname="me.test", may_reach=may_reach, clock=clock)


def test_what_is_lent_is_owned_and_goes_where_mail_goes() -> None:
    loop = VirtualLoop()
    clock = VirtualClock(loop)

    async def main() -> None:
        public = lending(clock, to_exchangers(Reach(["10.1.0.0/16"])))
        assert public.offers() == {ONE: Offer(10.0, "me.test")}
        for address, port in (
            ("127.0.0.1", 25),
            ("10.0.0.1", 25),
            ("8.8.8.8", 587),
            ("::ffff:127.0.0.1", 25),
            ("x", 25),
        ):
            with pytest.raises(NotAllowed):
                await public.lend(ONE, address, port)
        for source in ("", TWO, "192.0.2.9"):
            with pytest.raises(NotOwner):
                await public.lend(source, "8.8.8.8", 25)
        for address in ("8.8.8.8", "2001:4860:4860::8888", "10.1.2.3"):
            assert (await public.lend(ONE, address, 25))()
        holds = await public.lend(ONE, "8.8.8.8", 25)
        await asyncio.sleep(10.0)
        assert not holds()
        assert public.offers() == {}

        hub = lending(clock, to_smarthost("hub.test", 2525, Names()))  # type: ignore[arg-type]
        assert (await hub.lend(ONE, "10.0.0.2", 2525))()
        for address, port in (("10.0.0.3", 2525), ("10.0.0.2", 25), ("8.8.8.8", 25)):
            with pytest.raises(NotAllowed):
                await hub.lend(ONE, address, port)
        unknown = lending(clock, to_smarthost("gone.test", 25, Names()))  # type: ignore[arg-type]
        with pytest.raises(NotAllowed):
            await unknown.lend(ONE, "10.0.0.1", 25)

    loop.play(main())
    loop.close()
