"""Which commands may be passed on, by whom, and to whom."""

from __future__ import annotations

from typing import Any

import pytest

from pigeonry.app.commanding import forwarding, of_this_node
from pigeonry.domain.errors import BadRequest, NotFound
from pigeonry.doors.commands.owners import Told
from pigeonry.doors.commands.wire import Command


async def own(argument: Any) -> Any:
    return ["own", argument]


async def beside(command: Command) -> Any:
    return ["beside", command.slot, command.name]


class Owners:
    async def ask(self, shard: int, name: str, argument: Any, *, timeout_s: float) -> Any:
        return [shard, name, argument]

    async def ask_everyone(self, name: str, argument: Any, *, timeout_s: float) -> list[Told]:
        return [Told("a", 0, [name, argument])]


async def test_a_node_asks_a_worker_of_ours_by_its_slot() -> None:
    act = of_this_node({"queue.show": own}, slot=1, beside=beside)
    assert await act(Command("queue.show", 5)) == ["own", 5]
    assert await act(Command("queue.show", 5, slot=1)) == ["own", 5]
    assert await act(Command("queue.show", 5, slot=0)) == ["beside", 0, "queue.show"]


@pytest.mark.parametrize("name", ["metrics", "forward", "forward.all", "nothing"])
@pytest.mark.parametrize("slot", [None, 0, 1, -1])
async def test_a_node_may_ask_for_nothing_else_whoever_would_do_it(name: str, slot: int | None) -> None:
    act = of_this_node({"queue.show": own}, slot=1, beside=beside)
    with pytest.raises(NotFound):
        await act(Command(name, slot=slot))


async def test_what_is_known_is_passed_on() -> None:
    handlers = forwarding(Owners(), ["queue.drop"])  # type: ignore[arg-type]
    asked = {"name": "queue.drop", "argument": {"key": "k"}, "shard": 7}
    assert await handlers["forward"](asked) == [7, "queue.drop", {"key": "k"}]
    assert await handlers["forward.all"](asked) == [Told("a", 0, ["queue.drop", {"key": "k"}])]


@pytest.mark.parametrize("way", ["forward", "forward.all"])
@pytest.mark.parametrize("asked", [None, 7, {}, {"name": 7}, {"name": "forward"}, {"name": "metrics"}])
async def test_nothing_else_is_passed_on(way: str, asked: Any) -> None:
    with pytest.raises(BadRequest):
        await forwarding(Owners(), ["queue.drop"])[way](asked)  # type: ignore[arg-type]
