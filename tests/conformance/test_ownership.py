"""What every Ownership promises (``ports.ownership``)."""

from __future__ import annotations

import pytest

from pigeonry.ports.ownership import Member, Ownership
from pigeonry.stores.even_ownership import EvenOwnership

MEMBERS = [Member("b", 1), Member("b", 0), Member("a", 0, "10.0.0.1:9300", "north")]
SHARDS = 8


@pytest.fixture(params=["even"])
def ownership() -> Ownership:
    return EvenOwnership(MEMBERS, shards=lambda: SHARDS)


async def test_every_shard_has_an_owner_and_all_questions_get_the_same_answer(ownership: Ownership) -> None:
    owners = await ownership.owners()
    assert sorted(owners) == list(range(SHARDS))
    assert await ownership.owners(fresh=False) == owners
    for shard, owner in owners.items():
        assert owner in MEMBERS
        assert await ownership.owner_of(shard) == owner == await ownership.owner_of(shard, fresh=True)


@pytest.mark.parametrize("shard", [-1, SHARDS, 65_535])
async def test_a_shard_that_is_not_there_has_no_owner(ownership: Ownership, shard: int) -> None:
    assert await ownership.owner_of(shard) is None
    assert await ownership.owner_of(shard, fresh=True) is None


async def test_members_are_given_in_order(ownership: Ownership) -> None:
    assert await ownership.members() == sorted(MEMBERS) == await ownership.members(fresh=True)


async def test_shards_are_spread_evenly(ownership: Ownership) -> None:
    owned = [list((await ownership.owners()).values()).count(member) for member in MEMBERS]
    assert max(owned) - min(owned) <= 1
