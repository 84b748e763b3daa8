"""Brings a command to the worker that owns a shard, wherever it is: here, beside us in the node, or in another node.

Whoever changes a message asks here, and need not know whose it is. The owner that we heard of may have lost the shard
meanwhile: it says so, nothing was done then, and whoever owns the shard now is asked. That is tried a few times, since
a shard that is being handed over is nobody's for a moment. An owner that cannot be reached is an error that says when
to come back, never a guess at its answer (invariant I3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from pigeonry.domain.errors import Fault, NotFound, NotOwner, PigeonryError
from pigeonry.doors.commands.client import NobodyListens, unreachable
from pigeonry.doors.commands.wire import Command

if TYPE_CHECKING:
    from pigeonry.doors.commands.answering import Act
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.ownership import Member, Ownership

__all__ = ["Beside", "Far", "Owners", "Told"]

PAUSES_S: Final = (0.0, 0.0, 0.1, 0.3)
"""Before each time that an owner is looked for: at once where it was heard of, at once where that is decided, and then
as long as a shard that is handed over in order may be nobody's."""
TOGETHER_MAX: Final = 32  # members asked at once: a large cluster's answers come in turns and not all in one moment

Beside = Callable[[Command], Awaitable[Any]]
"""Asks the worker of this node that the command names by its slot."""


class Far(Protocol):
    """Asks other nodes (``peers.Peers``)."""

    async def call(self, member: Member, command: Command, *, timeout_s: float) -> Any:
        """Ask a member of another node; its result."""
        ...


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one of all members answered: a result, or why there is none."""

    node: str
    slot: int
    result: Any = None
    problem: str = ""


class Owners:
    """Asks the owners of shards.

    Args:
        ownership: Who owns what.
        node, slot: Who we are.
        act: Does what is asked of ourselves.
        beside: Asks another worker of this node.
        far: Asks another node; None where there is none.
        clock: Time.
    """

    def __init__(
        self, ownership: Ownership, *, node: str, slot: int, act: Act, beside: Beside, far: Far | None, clock: Clock
    ) -> None:
        self._ownership = ownership
        self._me = (node, slot)
        self._act = act
        self._beside = beside
        self._far = far
        self._clock = clock

    async def ask(self, shard: int, name: str, argument: Any, *, timeout_s: float) -> Any:
        """Have the owner of a shard do something; its result.

        Raises:
            OwnerUnreachable: Nobody owns the shard just now, or the owner does not answer. The latter may have done it.
            NotFound: There is no such shard.
            PigeonryError: What the owner refused with, as its own class.
        """
        deadline = self._clock.monotonic() + timeout_s
        deaf: Member | None = None
        for turn, pause_s in enumerate(PAUSES_S):
            await self._clock.sleep(min(pause_s, deadline - self._clock.monotonic()))
            member = await self._ownership.owner_of(shard, fresh=turn > 0)
            if member is None or member == deaf:
                continue
            try:
                return await self._tell(member, name, argument, deadline)
            except NotOwner:
                continue
            except NobodyListens:
                deaf = member
        if shard not in await self._ownership.owners():
            raise NotFound("Message not found")
        raise unreachable()

    async def ask_everyone(self, name: str, argument: Any, *, timeout_s: float) -> Sequence[Told]:
        """Have every member do something; what each answered, those that do not answer included.

        Raises:
            StoreBusy: It cannot be found out who they are.
        """
        deadline = self._clock.monotonic() + timeout_s
        turns = asyncio.Semaphore(TOGETHER_MAX)

        async def ask(member: Member) -> Told:
            async with turns:
                try:
                    return Told(member.node, member.slot, await self._tell(member, name, argument, deadline))
                except PigeonryError as error:
                    return Told(member.node, member.slot, problem=error.text)

        return await asyncio.gather(*map(ask, await self._ownership.members(fresh=True)))

    async def ask_nodes(self, name: str, argument: Any, *, timeout_s: float) -> Mapping[str, Any]:
        """Have whichever worker hears it do something at each of the other nodes; what those answered that did.

        Raises:
            StoreBusy: It cannot be found out who they are.
        """
        if self._far is None:
            return {}
        far, (node, _) = self._far, self._me
        others = {member.node: member for member in await self._ownership.members() if member.address}
        others.pop(node, None)
        turns = asyncio.Semaphore(TOGETHER_MAX)

        async def ask(member: Member) -> tuple[str, Any]:
            async with turns:
                try:
                    return member.node, await far.call(member, Command(name, argument), timeout_s=timeout_s)
                except PigeonryError:
                    return "", None

        return {who: result for who, result in await asyncio.gather(*map(ask, others.values())) if who}

    async def ask_member(self, member: Member, name: str, argument: Any, *, timeout_s: float) -> Any:
        """Have one member do something; its result.

        Raises:
            OwnerUnreachable: It does not answer. It may have done it.
            PigeonryError: What it refused with, as its own class.
        """
        return await self._tell(member, name, argument, self._clock.monotonic() + timeout_s)

    async def _tell(self, member: Member, name: str, argument: Any, deadline: float) -> Any:
        timeout_s = deadline - self._clock.monotonic()
        if timeout_s <= 0:
            raise unreachable()
        command = Command(name, argument, slot=member.slot, within_s=timeout_s)
        node, slot = self._me
        if member.node != node:
            if self._far is None:
                raise unreachable()
            return await self._far.call(member, command, timeout_s=timeout_s)
        if member.slot != slot:
            return await self._beside(command)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._act(command)
        except TimeoutError:
            raise Fault("The command took too long.") from None
