"""From the octets of a command to those of its answer, whatever connection they came by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from pigeonry.domain.errors import Fault, NotFound, PigeonryError
from pigeonry.doors.commands.wire import Answer, decode_command, encode_answer, refusal

if TYPE_CHECKING:
    from pigeonry.doors.commands.wire import Command

__all__ = ["ANSWER_S", "Act", "Handler", "answer", "by_name"]

Handler = Callable[[Any], Awaitable[Any]]
Act = Callable[["Command"], Awaitable[Any]]

ANSWER_S: Final = 30.0  # an owner that takes longer counts as unreachable

_LOG: Final = structlog.stdlib.get_logger("pigeonry.doors.commands")


def by_name(handlers: Mapping[str, Handler]) -> Act:
    """Does what a command says by the handler of its name.

    The result raises ``NotFound`` where there is no such handler.
    """

    async def act(command: Command) -> Any:
        handler = handlers.get(command.name)
        if handler is None:
            raise NotFound("No such command: the other side may be of another release.")
        return await handler(command.argument)

    return act


async def answer(octets: bytes, act: Act) -> bytes:
    """Do what a command says, within the time that its caller waits and ``ANSWER_S``; never raises but when cancelled.

    A command that is cut off by its time may have been done or not.
    """
    try:
        command = decode_command(octets)
        async with asyncio.timeout(ANSWER_S if command.within_s is None else min(ANSWER_S, command.within_s)):
            return encode_answer(Answer(await act(command)))
    except TimeoutError:
        return encode_answer(refusal(Fault("The command took too long.")))
    except PigeonryError as error:
        return encode_answer(refusal(error))
    except Exception:  # noqa: BLE001  # a bug of ours must still be an answer, and is logged
        _LOG.exception("command.bug")
        return encode_answer(refusal(Fault("The command failed.")))
