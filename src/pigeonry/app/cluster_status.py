"""How a cluster stands: who is a member and owns what, as it is written down, and what each of them says itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pigeonry import __version__
from pigeonry.ports.ownership import Member

if TYPE_CHECKING:
    from pigeonry.doors.commands.answering import Handler
    from pigeonry.doors.commands.owners import Told
    from pigeonry.ports.ownership import Ownership
    from pigeonry.ports.queue_store import QueueStore

__all__ = ["MemberShown", "MemberStatus", "Status", "Written", "of_itself", "status_of", "written_down"]


class MemberShown(msgspec.Struct, frozen=True):
    """What a member says of itself.

    Args:
        open: The shards that it has opened. One to which nothing ever came may be opened by nobody.
        since: When its process began, in seconds since the Unix epoch.
    """

    release: str
    open: tuple[int, ...]
    since: float = 0.0


class Written(msgspec.Struct, frozen=True):
    """What is written down: the members, and each shard's owner as its place among them, -1 for nobody."""

    members: tuple[Member, ...]
    owners: dict[int, int]


class MemberStatus(msgspec.Struct, frozen=True):
    """One member.

    Args:
        shards: It owns so many, as it is written down.
        open: It has so many open, as it says.
        since: When its process began, in seconds since the Unix epoch; 0.0 when it does not answer.
        problem: Why it does not answer; empty when it does.
    """

    member: str
    address: str
    location: str
    state: str
    shards: int
    open: int
    release: str
    since: float
    problem: str


class Status(msgspec.Struct, frozen=True):
    """The whole."""

    members: tuple[MemberStatus, ...]
    shards: int
    unowned: tuple[int, ...]


def of_itself(store: QueueStore, *, since: float) -> Mapping[str, Handler]:
    """The handler by which a member says how it stands: ``member.show``.

    Args:
        since: When it began, in seconds since the Unix epoch.
    """

    async def show(_argument: Any) -> MemberShown:
        return MemberShown(__version__, tuple(store.owned()), since)

    return {"member.show": show}


def written_down(ownership: Ownership) -> Mapping[str, Handler]:
    """The handler that says what is written down of members and shards: ``cluster.show``."""

    async def show(_argument: Any) -> Written:
        owners = await ownership.owners()
        members = sorted(
            {*await ownership.members(fresh=True), *(owner for owner in owners.values() if owner is not None)}
        )
        places = {member: place for place, member in enumerate(members)}
        return Written(
            tuple(members), {shard: -1 if owner is None else places[owner] for shard, owner in owners.items()}
        )

    return {"cluster.show": show}


def status_of(written: Written, told: Sequence[Told]) -> Status:
    """Both together."""
    by_name = {(one.node, one.slot): one for one in told}
    owned = list(written.owners.values())
    members = []
    for place, member in enumerate(written.members):
        one = by_name.get((member.node, member.slot))
        problem = "It is not known to be there." if one is None else one.problem
        said = None if one is None or problem else msgspec.convert(one.result, type=MemberShown)
        members.append(
            MemberStatus(
                member=f"{member.node}/{member.slot}",
                address=member.address,
                location=member.location,
                state=member.state,
                shards=owned.count(place),
                open=len(said.open) if said else 0,
                release=said.release if said else "",
                since=said.since if said else 0.0,
                problem=problem,
            )
        )
    unowned = tuple(sorted(shard for shard, place in written.owners.items() if place < 0))
    return Status(tuple(members), len(owned), unowned)
