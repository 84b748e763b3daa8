"""What an owner does with a command, and what who is none says."""

from __future__ import annotations

from typing import Any

import pytest

from pigeonry.app.queue_commands import command_handlers
from pigeonry.domain.errors import BadRequest, NotFound, NotOwner
from pigeonry.domain.message import MessageKey
from pigeonry.net.environment import SystemClock
from pigeonry.queue.commands import CommandAnswer

KEY = MessageKey(3, 20_000, 1).text()
CHANGES = ["queue.cancel", "queue.drop", "queue.retry"]


class Message:
    account = "acct"


class Store:
    """Has a message, or not; owns its shard, or not."""

    def __init__(self, *, has: bool, owns: bool) -> None:
        self.has, self.owns = has, owns

    async def message(self, key: MessageKey) -> Any:
        return Message() if self.has else None

    def owned(self) -> list[int]:
        return [3] if self.owns else []


class Commands:
    async def cancel(self, key: MessageKey, **how: Any) -> CommandAnswer:
        assert how["account"] == "acct"
        return CommandAnswer(done=1)

    drop = retry_now = cancel


class Why:
    async def of(self, key: MessageKey) -> list[str]:
        return [key.text()]


async def ask(name: str, argument: Any, *, has: bool = True, owns: bool = True, responsible: bool = True) -> Any:
    async def ours(shard: int) -> bool:
        assert shard == 3
        return responsible

    handlers = command_handlers(Commands(), Why(), Store(has=has, owns=owns), SystemClock(), responsible=ours)  # type: ignore[arg-type]
    assert sorted(handlers) == [*CHANGES[:2], "queue.hasten", *CHANGES[2:], "queue.show", "queue.why"]
    return await handlers[name](argument)


@pytest.mark.parametrize("name", CHANGES)
async def test_the_owner_does_it(name: str) -> None:
    assert await ask(name, {"key": KEY}) == CommandAnswer(done=1)
    assert await ask(name, {"key": KEY, "account": "acct"}) == CommandAnswer(done=1)


@pytest.mark.parametrize("name", CHANGES)
async def test_the_message_of_another_account_does_not_exist(name: str) -> None:
    with pytest.raises(NotFound, match=r"^Message not found$"):
        await ask(name, {"key": KEY, "account": "other"})
    with pytest.raises(NotFound, match=r"^Message not found$"):
        await ask(name, {"key": KEY, "account": ""})


@pytest.mark.parametrize("name", CHANGES)
async def test_who_owns_the_shard_no_more_says_so_and_never_that_there_is_no_message(name: str) -> None:
    for has, responsible in ((True, True), (True, False), (False, False)):
        with pytest.raises(NotOwner):
            await ask(name, {"key": KEY}, owns=False, has=has, responsible=responsible)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("owns", [True, False])
async def test_a_message_that_is_nowhere_is_not_found_by_whose_it_would_be(name: str, owns: bool) -> None:
    with pytest.raises(NotFound, match=r"^Message not found$"):
        await ask(name, {"key": KEY}, has=False, owns=owns)


@pytest.mark.parametrize("argument", [[], 1, {"key": 1}, {"key": KEY, "account": 7}])
async def test_an_argument_that_is_none_is_refused(argument: Any) -> None:
    for name in CHANGES:
        with pytest.raises((BadRequest, NotFound)):
            await ask(name, argument)
