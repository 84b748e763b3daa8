"""How commands run through one worker: to its own handlers, to the worker beside it, to another node.

Three ways lead in. The Unix socket takes what is asked of this worker, and what is to be passed on to whoever owns a
shard (``forward``, ``forward.all``): so a command of the shell, which knows no node and no owner, asks any worker. The
door for nodes takes only what is asked of a worker of this node. What is passed on is never passed on again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.app.sockets import command_address
from pigeonry.domain.errors import BadRequest
from pigeonry.doors.commands.answering import ANSWER_S, by_name
from pigeonry.doors.commands.client import NobodyListens, call, unreachable

if TYPE_CHECKING:
    from pigeonry.doors.commands.answering import Act, Handler
    from pigeonry.doors.commands.owners import Beside, Owners, Told
    from pigeonry.doors.commands.wire import Command

__all__ = ["Forwarded", "ask_beside", "forwarding", "of_this_node"]

FORWARD_S: Final = 0.9 * ANSWER_S  # so that whoever waits for us hears of an owner that does not answer
FORWARD_ALL_S: Final = 10.0  # seconds: who does not answer a question in that time is left out of the whole picture


class Forwarded(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command that another is to do: the owner of a shard, or every member.

    Args:
        shard: Its owner is meant; left out: every member.
    """

    name: str
    argument: Any = None
    shard: int = -1


def ask_beside(data: str) -> Beside:
    """Asks the workers of the node whose data folder this is."""

    async def ask(command: Command) -> Any:
        assert command.slot is not None
        try:
            with command_address(data, command.slot) as path:
                return await call(path, command.name, command.argument, timeout_s=command.within_s or ANSWER_S)
        except (FileNotFoundError, NotADirectoryError):
            raise unreachable(NobodyListens) from None

    return ask


def of_this_node(handlers: Mapping[str, Handler], *, slot: int, beside: Beside) -> Act:
    """Does what is asked of a worker of this node: ourselves, or another by its socket.

    Args:
        handlers: Ours.
        slot: Which worker we are.
    """
    own = by_name(handlers)

    async def act(command: Command) -> Any:
        return await (own if command.slot in (None, slot) else beside)(command)

    return act


def forwarding(owners: Owners, names: Sequence[str]) -> Mapping[str, Handler]:
    """Handlers of what is to be passed on: ``forward`` to the owner of a shard, ``forward.all`` to every member.

    Args:
        names: Of the commands that may be.
    """

    def asked(argument: Any) -> Forwarded:
        try:
            forwarded = msgspec.convert(argument, type=Forwarded)
        except msgspec.ValidationError as error:
            raise BadRequest(f"The command is malformed: {error}") from None
        if forwarded.name not in names:
            raise BadRequest("No such command can be passed on.")
        return forwarded

    async def forward(argument: Any) -> Any:
        it = asked(argument)
        return await owners.ask(it.shard, it.name, it.argument, timeout_s=FORWARD_S)

    async def forward_all(argument: Any) -> Sequence[Told]:
        it = asked(argument)
        return await owners.ask_everyone(it.name, it.argument, timeout_s=FORWARD_ALL_S)

    return {"forward": forward, "forward.all": forward_all}
