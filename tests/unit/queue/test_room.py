"""Nobody fills the room for fresh mail."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pigeonry.queue.room import SHARE, FreshRoom
from support.watched_store import submission


def fill(room: FreshRoom, tenant: str, start: int, most: int = 10_000) -> int:
    taken = 0
    while taken < most and room.enter(start + taken, tenant):
        taken += 1
    return taken


def test_one_tenant_gets_most_of_it_and_a_newcomer_finds_some() -> None:
    room = FreshRoom(1_000)
    assert fill(room, "flood", 0) == 800
    assert fill(room, "newcomer", 10_000) >= 100


def test_two_that_want_all_of_it_come_to_share_it_evenly() -> None:
    room = FreshRoom(900)
    held = {"a": [], "b": []}
    number = 0
    for turn in range(5_000):
        for tenant, idents in held.items():
            number += 1
            if room.enter(number, tenant):
                idents.append(number)
            if turn % 2 and idents:
                assert room.leave(idents.pop(0), tenant)
    assert abs(len(held["a"]) - len(held["b"])) <= 2


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.sampled_from("abc"))))
def test_it_holds_what_entered_and_did_not_leave(moves) -> None:
    room, model = FreshRoom(12), {}
    for enters, ident, tenant in moves:
        if enters and ident not in model:
            has = sum(each == tenant for each in model.values())
            entered = room.enter(ident, tenant)
            assert entered == (has < SHARE * (12 - len(model)))
            if entered:
                model[ident] = tenant
        elif not enters:
            assert room.leave(ident, model.get(ident, tenant)) == (ident in model)
            model.pop(ident, None)
        assert len(room) == len(model) <= 12


def test_a_tenants_flood_does_not_delay_anothers_fresh_mail(play) -> None:
    async def story(rig) -> None:
        for number in range(200):  # nobody delivers: all of it stays
            await rig.intake.accept(submission(f"f{number}@x.test", account="flood"), deadline=rig.deadline())
        await rig.clock.sleep(5.0)
        seen = len(rig.dispatched)
        await rig.intake.accept(submission("reset@x.test", account="other"), deadline=rig.deadline())
        assert [pending.address for pending in rig.dispatched[seen:]] == ["reset@x.test"]

    play(story)
