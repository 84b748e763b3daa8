"""How commands run through one worker: to its own handlers, to the worker beside it, to another node.

Three ways lead in. The Unix socket takes what is asked of this worker, and what is to be passed on to whoever owns a
shard (``forward``, ``forward.all``): so a command of the shell, which knows no node and no owner, asks any worker. The
door for nodes takes only what is asked of a worker of this node. What is passed on is never passed on again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.app.cluster_status import written_down
from pigeonry.app.sockets import command_address
from pigeonry.domain.errors import BadRequest
from pigeonry.doors.commands.answering import ANSWER_S, by_name
from pigeonry.doors.commands.client import NobodyListens, call, unreachable
from pigeonry.doors.commands.far_dialer import FarDialer
from pigeonry.doors.commands.node_door import NodeDoor
from pigeonry.doors.commands.owners import Owners
from pigeonry.doors.commands.peers import Peers
from pigeonry.ports.network import SourceGone

if TYPE_CHECKING:
    from pigeonry.app.cluster_tls import ClusterTls
    from pigeonry.doors.commands.answering import Act, Handler
    from pigeonry.doors.commands.owners import Beside, Told
    from pigeonry.doors.commands.relay import Relays
    from pigeonry.doors.commands.wire import Command
    from pigeonry.ports.environment import Clock
    from pigeonry.ports.network import Dialer
    from pigeonry.ports.ownership import Member, Ownership
    from pigeonry.telemetry.metrics import Sample

__all__ = ["Commanding", "Forwarded", "ask_beside", "forwarding", "of_this_node"]

FORWARD_S: Final = 0.9 * ANSWER_S  # so that whoever waits for us hears of an owner that does not answer
FORWARD_ALL_S: Final = 10.0  # seconds: who does not answer a question in that time is left out of the whole picture


class Commanding:
    """The ways by which commands come to a worker and go from it.

    Args:
        own: Handlers of what concerns the messages of this worker. Other nodes may ask for these, and for nothing else.
        ownership: Who owns what.
        me: Who we are.
        data: The data folder, where the sockets of the node's workers are.
        tls: What nodes show each other; None where there are no others.
        relays: The connections that we make for other nodes.
        near: Makes ours.
        clock: Time.
    """

    def __init__(
        self,
        own: Mapping[str, Handler],
        *,
        ownership: Ownership,
        me: Member,
        data: str,
        tls: ClusterTls | None,
        relays: Relays,
        near: Dialer,
        clock: Clock,
    ) -> None:
        self._ownership = ownership
        self._tls = tls
        self.relays = relays
        self._near = near
        beside = ask_beside(data)
        self._peers = Peers(context=tls.calling, clock=clock) if tls else None
        self.owners = Owners(
            ownership, node=me.node, slot=me.slot, act=by_name(own), beside=beside, far=self._peers, clock=clock
        )
        self.handlers: Mapping[str, Handler] = {
            **own,
            **written_down(ownership),
            **forwarding(self.owners, tuple(own)),
        }
        self.door = (
            NodeDoor(
                of_this_node(own, slot=me.slot, beside=beside),
                context=tls.called,
                is_member=self._knows,
                clock=clock,
                relays=relays,
            )
            if tls
            else None
        )

    def reload(self) -> None:
        """Read what nodes show each other again; connections that stand are made anew when they are quiet.

        Raises:
            OSError: The files are of no use; nothing changes.
        """
        if self._tls is not None and self._peers is not None and self.door is not None:
            self._tls.reload()
            self._peers.renew()
            self.door.renew()

    def through(self, node: str) -> Dialer:
        """What connects by way of another node.

        Raises:
            SourceGone: No other node can be reached.
        """
        if self._peers is None:
            raise SourceGone("No other node can be reached.")
        return FarDialer(node, near=self._near, peers=self._peers, member_of=self._member_of)

    async def close(self) -> None:
        """Close what goes to other nodes."""
        if self._peers is not None:
            self._peers.close()

    def samples(self) -> Mapping[str, Callable[[], Iterable[Sample]]]:
        """Sources of our metrics, by their names."""
        tls, door, peers = self._tls, self.door, self._peers
        if tls is None or door is None or peers is None:
            return {}
        return {
            "pigeonry_cluster_connections": lambda: [((), door.connections)],
            "pigeonry_cluster_refused_total": lambda: [((why,), count) for why, count in door.refused.items()],
            "pigeonry_cluster_unreachable_total": lambda: [((), peers.unanswered)],
            "pigeonry_egress_relayed_connections": lambda: [((), len(self.relays))],
            "pigeonry_egress_relays_refused_total": lambda: [((), self.relays.refused)],
            "pigeonry_cluster_certificate_expires_seconds": lambda: [((), tls.expires_at)],
        }

    async def _knows(self, node: str) -> bool:
        """Whether a node is a member. One that we have not heard of may have joined just now."""
        for fresh in (False, True):
            if any(member.node == node for member in await self._ownership.members(fresh=fresh)):
                return True
        return False

    async def _member_of(self, node: str) -> Member | None:
        """A member of a node that others can reach."""
        members = await self._ownership.members()
        return next((member for member in members if member.node == node and member.address), None)


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
        handlers: Ours. The other's socket takes more than these, but not from whom this is for.
        slot: Which worker we are.
    """
    own = by_name(handlers)

    async def act(command: Command) -> Any:
        here = command.slot in (None, slot) or command.name not in handlers
        return await (own if here else beside)(command)

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
