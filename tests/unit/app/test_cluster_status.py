"""What is written down of a cluster, beside what each member says itself."""

from __future__ import annotations

import msgspec

from pigeonry import __version__
from pigeonry.app.cluster_status import MemberStatus, Written, of_itself, status_of, written_down
from pigeonry.doors.commands.owners import Told
from pigeonry.ports.ownership import Member

A, B, GONE = Member("a", 0, "a.test:9300", "north"), Member("b", 0, state="draining"), Member("c", 1)


class Ownership:
    async def owners(self, *, fresh: bool = True) -> dict[int, Member | None]:
        return {0: A, 1: B, 2: None, 3: A, 4: GONE}

    async def owner_of(self, shard: int, *, fresh: bool = False) -> Member | None:
        return (await self.owners()).get(shard)

    async def members(self, *, fresh: bool = False) -> list[Member]:
        assert fresh
        return [A, B]


class Store:
    def owned(self) -> list[int]:
        return [0, 3]


async def test_members_shards_and_answers_are_put_side_by_side() -> None:
    written = await written_down(Ownership())["cluster.show"](None)
    sent = msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(written)), type=Written)
    assert sent == written
    said = msgspec.to_builtins(await of_itself(Store(), since=5.0)["member.show"](None))  # type: ignore[arg-type]
    status = status_of(sent, [Told("a", 0, said), Told("b", 0, problem="It does not answer.")])
    assert status.members == (
        MemberStatus("a/0", "a.test:9300", "north", "serving", 2, 2, __version__, 5.0, ""),
        MemberStatus("b/0", "", "", "draining", 1, 0, "", 0.0, "It does not answer."),
        MemberStatus("c/1", "", "", "serving", 1, 0, "", 0.0, "It is not known to be there."),
    )
    assert (status.shards, status.unowned) == (5, (2,))
