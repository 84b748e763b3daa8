"""Tenants share a path by turns; a path without anything costs nothing."""

from __future__ import annotations

from pigeonry.domain.message import MessageKey, Pending
from pigeonry.domain.route import EgressPath
from pigeonry.queue.ready import ReadyQueues

PATH = EgressPath("", "site")
OTHER = EgressPath("", "other")


def pending(serial: int, tenant: str = "a") -> Pending:
    return Pending(MessageKey(1, 1, serial), serial, 1, f"r{serial}@x.test", 0.0, tenant, "d.test", "", 1e12)


def drain(ready: ReadyQueues, path: EgressPath = PATH) -> list[int]:
    out = []
    while (found := ready.pop(path)) is not None:
        out.append(found.serial)
    return out


def test_one_tenant_is_served_in_order() -> None:
    ready = ReadyQueues()
    for n in range(5):
        ready.push(PATH, pending(n))
    assert ready.backlog(PATH) == ready.total() == 5
    assert drain(ready) == [0, 1, 2, 3, 4]


def test_a_tenant_with_few_waits_one_turn_behind_a_tenant_with_many() -> None:
    ready = ReadyQueues()
    for n in range(100):
        ready.push(PATH, pending(n, "many"))
    ready.push(PATH, pending(1000, "few"))
    ready.push(PATH, pending(1001, "few"))
    assert drain(ready)[:5] == [0, 1000, 1, 1001, 2]


def test_a_turn_is_as_long_as_the_tenants_weight() -> None:
    ready = ReadyQueues(weight={"a": 3, "b": 1, "c": 0}.__getitem__)
    for n in range(6):
        ready.push(PATH, pending(n, "a"))
        ready.push(PATH, pending(10 + n, "b"))
        ready.push(PATH, pending(20 + n, "c"))
    assert drain(ready)[:10] == [0, 1, 2, 10, 20, 3, 4, 5, 11, 21]


def test_a_tenant_that_comes_back_takes_its_place_at_the_end() -> None:
    ready = ReadyQueues(weight=lambda _: 2)
    for n in range(3):
        ready.push(PATH, pending(n, "a"))
        ready.push(PATH, pending(10 + n, "b"))
    ready.push(PATH, pending(20, "c"))
    assert [ready.pop(PATH).serial for _ in range(5)] == [0, 1, 10, 11, 20]
    ready.push(PATH, pending(21, "c"))
    assert drain(ready) == [2, 12, 21]


def test_paths_are_apart_and_empty_ones_are_forgotten() -> None:
    ready = ReadyQueues()
    ready.push(PATH, pending(1))
    ready.push(OTHER, pending(2))
    assert set(ready.paths()) == {PATH, OTHER}
    assert drain(ready, OTHER) == [2]
    assert set(ready.paths()) == {PATH}
    assert ready.backlog(OTHER) == 0
    assert ready.pop(OTHER) is None


def test_what_cannot_be_claimed_is_dropped() -> None:
    ready = ReadyQueues(claim=lambda p: p.serial % 2 == 0)
    for n in range(5):
        ready.push(PATH, pending(n))
    assert drain(ready) == [0, 2, 4]
    ready.push(PATH, pending(7))
    assert ready.pop(PATH) is None
    assert ready.total() == 0
