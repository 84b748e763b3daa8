"""Which source a recipient's mail leaves from, and when it waits."""

from __future__ import annotations

import math
from collections import Counter

import msgspec
import pytest

from pigeonry.delivery.egress import LOOK_S, NO_SOURCE, Egress
from pigeonry.domain.message import MessageKey, Pending
from pigeonry.domain.outcome import Deferred
from pigeonry.domain.route import EgressPool, EgressSource
from pigeonry.domain.tenant import SendingDomain
from support.tenancy import HandClock

A, B, C, SIX = (
    EgressSource("a", "192.0.2.1"),
    EgressSource("b", "192.0.2.2"),
    EgressSource("c", "192.0.2.3"),
    EgressSource("six", "2001:db8::1"),
)


class Place:
    """An ``Egress``, and what it stands among."""

    def __init__(self, *pools: EgressPool, default: str = "shared") -> None:
        self.clock = HandClock(1_000.0)
        self.domains: dict[str, SendingDomain] = {}
        self.egress = Egress(pools, default=default, domain=self.domains.get, clock=self.clock)
        self.serial = 0

    def own(self, *sources: EgressSource, seconds: float = math.inf) -> tuple[list[str], bool]:
        for outlet in self.egress.outlets.values():
            outlet.until = self.clock.at + seconds if outlet.source in sources else -math.inf
        closed, look = self.egress.review()
        return [outlet.source.id for outlet in closed], look

    def lend(self, *sources: EgressSource, seconds: float = math.inf) -> tuple[list[str], bool]:
        for outlet in self.egress.lent.values():
            lent = outlet.source in sources
            outlet.until, outlet.through = (self.clock.at + seconds, "other") if lent else (-math.inf, "")
        closed, look = self.egress.review()
        return [outlet.source.id for outlet in closed], look

    def domain(self, name: str, pool: str = "", *pools: str) -> None:
        self.domains[name] = SendingDomain("1", name, "acct", 0.0, pool=pool, pools=pools)

    def recipient(self, domain: str = "d.test", pool: str = "", **more: float) -> Pending:
        self.serial += 1
        made = Pending(
            MessageKey(0, 1, self.serial), self.serial, 1, "u@x.test", self.clock.at, "acct", domain, pool, 1e6
        )
        return msgspec.structs.replace(made, **more)

    def chosen(self, domain: str = "d.test", pool: str = "") -> str | None:
        outlet = self.egress.choose(self.recipient(domain, pool))
        return None if outlet is None else outlet.source.id


def test_a_domain_leaves_by_its_pool_and_any_other_by_the_default_one() -> None:
    place = Place(EgressPool("shared", ((A, 1),)), EgressPool("own", ((B, 1),)))
    place.own(A, B)
    place.domain("d.test", "own")
    place.domain("plain.test")
    assert (place.chosen("d.test"), place.chosen("plain.test"), place.chosen("unknown.test")) == ("b", "a", "a")


def test_a_message_may_name_a_pool_only_if_its_domain_may_use_it() -> None:
    place = Place(EgressPool("shared", ((A, 1),)), EgressPool("own", ((B, 1),)), EgressPool("more", ((C, 1),)))
    place.own(A, B, C)
    place.domain("d.test", "own", "more")
    assert place.chosen(pool="more") == "c"
    assert place.chosen(pool="own") == "b"
    assert place.chosen(pool="shared") == "b"
    place.domain("d.test", "own")  # what it may use was changed while a message waited
    assert place.chosen(pool="more") == "b"


def test_sources_share_by_weight_whatever_the_serials_are() -> None:
    place = Place(EgressPool("shared", ((A, 3), (B, 1))))
    place.own(A, B)
    for step in (1, 2, 4, 1000):
        counts: Counter[str | None] = Counter()
        for _ in range(4_000):
            place.serial += step - 1
            counts[place.chosen()] += 1
        assert 2_850 < counts["a"] < 3_150


def test_a_recipient_keeps_its_source_while_that_can_be_used() -> None:
    place = Place(EgressPool("shared", ((A, 1), (B, 1), (C, 1))))
    place.own(A, B, C)
    recipients = [place.recipient() for _ in range(100)]
    first = [place.egress.choose(each) for each in recipients]
    place.own(A, C)
    second = [place.egress.choose(each) for each in recipients]
    assert all(was is now for was, now in zip(first, second, strict=True) if was is not None and was.source != B)
    assert {outlet.source.id for outlet in second if outlet is not None} == {"a", "c"}
    place.own(A, B, C)
    assert [place.egress.choose(each) for each in recipients] == first


def test_without_an_address_mail_waits_through_the_grace_and_then_as_the_pool_says() -> None:
    ways = {"queue": None, "shared": "a", "pool:more": "c"}
    for way, then in ways.items():
        place = Place(
            EgressPool("shared", ((A, 1),)),
            EgressPool("own", ((B, 1),), on_site_loss=way, on_site_loss_grace_s=60.0),
            EgressPool("more", ((C, 1),)),
        )
        place.domain("d.test", "own")
        place.own(A, B, C)
        assert place.own(A, C) == (["b"], False)
        assert place.chosen() is None
        place.clock.at += 59.0
        place.own(A, C)
        assert place.chosen() is None, way
        place.clock.at += 1.0
        place.own(A, C)
        assert place.chosen() == then, way
        place.own(A, B, C)
        assert place.chosen() == "b", way


def test_what_another_pool_says_of_its_own_loss_does_not_count() -> None:
    place = Place(
        EgressPool("shared", ((A, 1),)),
        EgressPool("own", ((B, 1),), on_site_loss="pool:more"),
        EgressPool("more", ((C, 1),), on_site_loss="shared"),
    )
    place.domain("d.test", "own")
    place.own(A)
    assert place.chosen() is None


def test_a_pool_that_is_not_configured_is_waited_for() -> None:
    place = Place(EgressPool("shared", ((A, 1),)))
    place.own(A)
    place.domain("d.test", "gone")
    assert place.chosen() is None
    verdict = place.egress.verdict(place.recipient())
    assert verdict is not None
    assert "gone" in verdict.description


def test_who_waits_is_told_so_once_after_the_grace() -> None:
    place = Place(EgressPool("shared", ((A, 1),), on_site_loss_grace_s=60.0))
    assert place.egress.verdict(place.recipient()) is None
    place.clock.at += 60.0
    assert place.own() == ([], True), "what waited through the grace is looked at again"
    verdict = place.egress.verdict(place.recipient())
    assert isinstance(verdict, Deferred)
    assert (verdict.code, verdict.over) == (NO_SOURCE, False)
    assert "shared" in verdict.description
    assert place.egress.verdict(place.recipient(attempts=1)) is None


def test_who_waited_for_as_long_as_the_pool_allows_fails() -> None:
    place = Place(EgressPool("shared", ((A, 1),), on_site_loss_max_age_s=100.0))
    early, late = place.recipient(due=900.1, attempts=1), place.recipient(due=900.0, attempts=1)
    assert place.egress.verdict(early) is None
    verdict = place.egress.verdict(late)
    assert verdict is not None
    assert verdict.over


def test_who_expires_while_waiting_is_ended() -> None:
    place = Place(EgressPool("shared", ((A, 1),)))
    assert place.egress.verdict(place.recipient(expires_at=1_000.0, attempts=3)) is not None
    assert place.egress.verdict(place.recipient(expires_at=1_000.1, attempts=3)) is None


def test_what_waits_is_looked_at_when_an_address_comes_and_now_and_then() -> None:
    place = Place(EgressPool("shared", ((A, 1),)))
    assert place.own() == ([], False)
    place.egress.verdict(place.recipient(attempts=1))
    assert list(place.egress.waiting()) == [("shared", 1)]
    assert place.own() == ([], False)
    place.clock.at += LOOK_S
    assert place.own() == ([], True)
    assert place.own() == ([], False)
    place.egress.verdict(place.recipient(attempts=1))
    assert place.own(A) == ([], True)
    assert list(place.egress.waiting()) == []
    assert list(place.egress.states()) == [("shared", True)]


def test_time_alone_ends_the_use_of_a_source() -> None:
    place = Place(EgressPool("shared", ((A, 1),)))
    place.own(A, seconds=10.0)
    assert place.chosen() == "a"
    place.clock.at += 10.0
    closed, _ = place.egress.review()
    assert [outlet.source.id for outlet in closed] == ["a"]
    assert place.chosen() is None


@pytest.mark.parametrize(("first", "other"), [(SIX, A), (A, SIX)])
def test_a_site_without_addresses_of_a_family_gets_the_other_one(first: EgressSource, other: EgressSource) -> None:
    place = Place(EgressPool("shared", ((first, 1), (other, 1))))
    place.own(first, other)
    recipients = [place.recipient() for _ in range(50)]
    wrong, right = place.egress.outlets[first.address], place.egress.outlets[other.address]
    assert place.egress.is_other_family(wrong, "site", recipients[0])
    assert {place.egress.fitting(wrong, each, "site") for each in recipients} == {right}
    assert place.egress.fitting(wrong, recipients[0], "elsewhere") is wrong
    place.own(first)
    assert not place.egress.is_other_family(wrong, "site", recipients[0])
    assert place.egress.fitting(wrong, recipients[0], "site") is wrong


def test_without_configuration_the_system_chooses() -> None:
    egress = Egress(domain={}.get, clock=HandClock())
    outlet = egress.choose(Place(EgressPool("shared", ((A, 1),))).recipient())
    assert outlet is not None
    assert (outlet.source.address, outlet.until) == ("", math.inf)


def test_nobody_stands_in_before_it_is_known_what_is_owned() -> None:
    clock, domain = HandClock(), SendingDomain("1", "d.test", "acct", 0.0, pool="own")
    pools = (EgressPool("shared", ((A, 1),)), EgressPool("own", ((B, 1),), on_site_loss="shared"))
    egress = Egress(pools, default="shared", domain={"d.test": domain}.get, clock=clock, learning_s=2.0)
    egress.outlets[A.address].until = math.inf
    recipient = Pending(MessageKey(0, 1, 1), 1, 1, "u@x.test", clock.at, "acct", "d.test", "", 1e6)
    for seconds, chosen in ((1.9, None), (0.1, egress.outlets[A.address])):
        clock.at += seconds
        egress.review()
        assert egress.choose(recipient) is chosen


def test_what_waits_is_looked_at_when_its_domain_gets_another_pool() -> None:
    place = Place(EgressPool("shared", ((A, 1),)), EgressPool("own", ((B, 1),)))
    place.domain("d.test", "own", "shared")
    assert place.own(A) == ([], False)
    place.egress.verdict(place.recipient(attempts=1))
    assert place.own(A) == ([], False)
    place.domain("d.test", "shared")
    assert place.own(A) == ([], True)
    assert place.own(A) == ([], False)


def test_what_another_node_lends_is_used_where_there_is_none_of_our_own_and_before_another_pool() -> None:
    place = Place(EgressPool("shared", ((A, 1), (B, 1))), EgressPool("own", ((C, 1),), on_site_loss="shared"))
    place.domain("d.test", "own")
    place.own(A, B)
    assert place.egress.borrows
    place.lend(A, C)
    outlet = place.egress.choose(place.recipient())
    assert outlet is place.egress.lent[C.address]
    assert dict(place.egress.states()) == {"shared": True, "own": True}
    assert {place.chosen("plain.test") for _ in range(20)} == {"a", "b"}
    assert place.egress.choose(place.recipient("plain.test")) in place.egress.outlets.values()
    place.own(A, B, C)
    assert place.egress.choose(place.recipient()) is place.egress.outlets[C.address]
    assert not place.egress.borrows
    place.own(A, B)
    assert place.egress.choose(place.recipient()) is place.egress.lent[C.address]
    assert place.lend() == (["a", "c"], False)
    assert place.chosen() == "b" or place.chosen() == "a"  # on_site_loss, as there is no grace


def test_what_waited_is_looked_at_when_an_address_is_lent_and_a_pool_that_stands_in_may_be_lent_too() -> None:
    place = Place(EgressPool("shared", ((A, 1),)), EgressPool("own", ((C, 1),), on_site_loss="shared"))
    place.domain("d.test", "own")
    place.own()
    assert place.chosen() is None
    assert place.egress.verdict(place.recipient()) is not None
    assert place.lend(A) == ([], True)
    assert place.egress.choose(place.recipient()) is place.egress.lent[A.address]


def test_a_pool_is_not_lost_while_it_is_lent() -> None:
    place = Place(EgressPool("shared", ((A, 1),)), EgressPool("own", ((C, 1),), "shared", on_site_loss_grace_s=60.0))
    place.domain("d.test", "own")
    place.own(A)
    place.lend(C, seconds=100.0)
    place.clock.at += 100.0
    place.own(A)
    assert place.chosen() is None  # the grace begins only now
    place.clock.at += 60.0
    place.own(A)
    assert place.chosen() == "a"
