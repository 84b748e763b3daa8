"""What the owner of a shard does when an operator's command reaches its socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from pigeonry.domain.errors import BadRequest, NotFound, NotOwner
from pigeonry.domain.intervention import Scope
from pigeonry.domain.message import MessageKey
from pigeonry.ports.queue_store import DueMark

if TYPE_CHECKING:
    from pigeonry.doors.commands.answering import Handler
    from pigeonry.doors.commands.owners import Owners
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.queue_store import QueueStore
    from pigeonry.queue.commands import CommandAnswer, Commands
    from pigeonry.queue.why import Standing, Why

__all__ = ["Asked", "Shown", "asking_why", "command_handlers"]

SETTLE_S: Final = 10.0  # for the commits of one command
ASK_S: Final = 10.0  # for an answer that a person waits for
LIMIT_MAX: Final = 1_000  # recipients of one page
MOVED_S: Final = 1.0  # seconds after which it is known whose it is
FOREVER: Final = 4e10  # later than any time that mail is scheduled for


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command's argument: a message by its key, or how many recipients to show.

    Args:
        account: On whose behalf a door asks: a message of another account does not exist for him. None: the operator.
    """

    key: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1)] = 100
    account: str | None = None


class Shown(msgspec.Struct, frozen=True):
    """One waiting recipient. Times in seconds since the Unix epoch."""

    key: str
    recipient: str
    due: float
    attempts: int
    in_doubt: bool
    account: str


def command_handlers(
    commands: Commands, why: Why, store: QueueStore, clock: Clock, *, responsible: Callable[[int], Awaitable[bool]]
) -> Mapping[str, Handler]:
    """Handlers for ``doors.commands``: ``queue.`` and ``show``, ``hasten``, ``why``, ``cancel``, ``drop`` or ``retry``.

    Args:
        responsible: Whether a shard is ours to own, as far as we have heard. A message that is nowhere does not exist
            when we are; when we are not, its owner may know better.
    """

    async def show(argument: Any) -> list[Shown]:
        limit = min(_asked(argument).limit, LIMIT_MAX)
        page = await store.due(after=DueMark(0.0), until=FOREVER, limit=limit)
        return [
            Shown(
                pending.message.text(), pending.address, pending.due, pending.attempts, pending.in_doubt, pending.tenant
            )
            for pending in page
        ]

    async def owned(argument: Any) -> tuple[MessageKey, str]:
        asked = _asked(argument)
        key = MessageKey.parse(asked.key)
        message = await store.message(key)
        ours = key.shard in store.owned()
        if not ours and (message is not None or not await responsible(key.shard)):
            raise NotOwner("The message's shard belongs to another worker.", retry_after_s=MOVED_S)
        if message is None or asked.account not in (None, message.account):
            raise NotFound("Message not found")
        return key, message.account

    async def cancel(argument: Any) -> CommandAnswer:
        key, account = await owned(argument)
        return await commands.cancel(key, account=account, deadline=clock.monotonic() + SETTLE_S)

    async def drop(argument: Any) -> CommandAnswer:
        key, account = await owned(argument)
        return await commands.drop(
            key,
            account=account,
            reason="dropped",
            description="Dropped by the operator",
            deadline=clock.monotonic() + SETTLE_S,
        )

    async def retry(argument: Any) -> CommandAnswer:
        key, account = await owned(argument)
        return await commands.retry_now(key, account=account)

    async def hasten(argument: Any) -> CommandAnswer:
        try:
            scope = msgspec.convert(argument or {}, type=Scope)
        except msgspec.ValidationError as error:
            raise BadRequest(f"The command is malformed: {error}") from None
        if scope.tag or scope.site or scope.source:
            raise BadRequest("What is not due yet is known by its account, its domain and its recipient only.")
        return await commands.hasten(scope.concerns)

    async def explain(argument: Any) -> Sequence[Standing]:
        key, _ = await owned(argument)
        return await why.of(key)

    return {
        "queue.why": explain,
        "queue.hasten": hasten,
        "queue.show": show,
        "queue.cancel": cancel,
        "queue.drop": drop,
        "queue.retry": retry,
    }


def asking_why(owners: Owners) -> Callable[[MessageKey, str], Awaitable[Sequence[dict[str, Any]]]]:
    """Asks the owner of a message, on behalf of an account, how its recipients stand."""

    async def ask(key: MessageKey, account: str) -> Sequence[dict[str, Any]]:
        asked = msgspec.to_builtins(Asked(key=key.text(), account=account))
        answer = await owners.ask(key.shard, "queue.why", asked, timeout_s=ASK_S)
        return msgspec.convert(msgspec.to_builtins(answer), type=list[dict[str, Any]])

    return ask


def _asked(argument: Any) -> Asked:
    try:
        return msgspec.convert(argument or {}, type=Asked)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The command is malformed: {error}") from None
