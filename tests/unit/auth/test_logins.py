"""SMTP logins: right pairs, wrong pairs, what is remembered of both and for how long."""

from __future__ import annotations

import asyncio

import argon2
import pytest

from pigeonry.auth import passwords
from pigeonry.auth.logins import KEPT_MAX, RIGHT_KEPT_S, WRONG_KEPT_S, Logins
from pigeonry.domain.errors import Overloaded
from pigeonry.domain.tenant import Caller, SendingDomain
from support.tenancy import InlineLane, Tenancy

DOMAIN = SendingDomain(id="0" * 24, name="a.example", account="acme", created_at=0.0)
LOGIN = "al@a.example"


class World(Tenancy):
    def __init__(self) -> None:
        super().__init__()
        self.logins = Logins(self.identity, self.clock, self.ids, self.passwords)

    async def make(self, password: str = "right one", login: str = LOGIN) -> None:
        await self.register.put_credential(login, password, domain=DOMAIN)

    async def asks(self, login: str, password: str) -> tuple[Caller | None, int]:
        """The answer, and how many passwords were verified for it."""
        before = self.lane.runs
        return await self.logins.by_password(login, password), self.lane.runs - before


@pytest.fixture
async def world() -> World:
    made = World()
    await made.make()
    return made


async def test_right_pair_names_its_caller_who_may_send_for_the_domain(world: World):
    caller, _ = await world.asks("AL@A.example", "right one")
    assert caller == Caller(account="acme", key=LOGIN, role="sending", domain="a.example")


async def test_right_pair_is_verified_once_and_again_after_some_minutes(world: World):
    assert (await world.asks(LOGIN, "right one"))[1] == 1
    caller, verified = await world.asks(LOGIN, "right one")
    assert caller is not None
    assert verified == 0
    world.clock.at += RIGHT_KEPT_S
    assert (await world.asks(LOGIN, "right one"))[1] == 1


@pytest.mark.parametrize("login", [LOGIN, "nobody@a.example"])
async def test_wrong_pair_costs_one_verification_whether_the_login_exists_or_not(world: World, login: str):
    assert await world.asks(login, "wrong one") == (None, 1)
    assert await world.asks(login, "wrong one") == (None, 0)
    assert await world.asks(login, "wrong two") == (None, 1)
    world.clock.at += WRONG_KEPT_S
    assert await world.asks(login, "wrong one") == (None, 1)


@pytest.mark.parametrize(
    ("login", "password"),
    [("", "right one"), (LOGIN, ""), ("x" * 257, "right one"), (LOGIN, "x" * 1025), ("al@a.example\0", "right one")],
)
async def test_what_cannot_be_a_pair_is_nobodys(world: World, login: str, password: str):
    assert (await world.asks(login, password))[0] is None


async def test_login_and_password_cannot_be_shifted_into_each_other(world: World):
    await world.asks(LOGIN, "right one")
    assert world.logins._pair("a", "b") != world.logins._pair("a\0b", "") != world.logins._pair("", "a\0b")


async def test_changed_password_ends_the_old_one_with_the_next_look(world: World):
    await world.asks(LOGIN, "right one")
    await world.make("right two")
    await world.logins.refresh()
    assert (await world.asks(LOGIN, "right one"))[0] is None
    assert (await world.asks(LOGIN, "right two"))[0] is not None


async def test_new_password_works_at_once_although_it_was_wrong_a_moment_ago(world: World):
    assert (await world.asks(LOGIN, "right two"))[0] is None
    await world.make("right two")
    await world.logins.refresh()
    assert (await world.asks(LOGIN, "right two"))[0] is not None


async def test_new_login_works_before_the_next_look(world: World):
    await world.logins.refresh()
    await world.make(login="bo@a.example")
    assert (await world.asks("bo@a.example", "right one"))[0] is not None
    assert (await world.asks("bo@a.example", "right one"))[1] == 0


async def test_deleted_login_is_gone_with_the_next_look(world: World):
    await world.asks(LOGIN, "right one")
    await world.register.delete_credential(LOGIN)
    await world.logins.refresh()
    assert await world.asks(LOGIN, "right one") == (None, 1)


async def test_known_logins_go_on_when_the_store_is_gone(world: World):
    await world.logins.refresh()
    world.identity.down = True
    assert (await world.asks(LOGIN, "right one"))[0] is not None
    assert (await world.asks(LOGIN, "wrong one"))[0] is None


async def test_many_connections_with_one_pair_cost_one_verification(world: World):
    before = world.lane.runs
    callers = await asyncio.gather(*(world.logins.by_password(LOGIN, "right one") for _ in range(50)))
    assert None not in callers
    assert world.lane.runs == before + 1


async def test_results_kept_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pigeonry.auth.logins.KEPT_MAX", 3)
    assert KEPT_MAX > 3
    for number in range(10):
        await world.asks(LOGIN, f"wrong {number}")
    assert len(world.logins._wrong) == 3
    assert await world.asks(LOGIN, "wrong 9") == (None, 0)


async def test_flood_of_wrong_passwords_does_not_push_out_right_ones(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pigeonry.auth.logins.KEPT_MAX", 3)
    await world.asks(LOGIN, "right one")
    for number in range(10):
        await world.asks(LOGIN, f"wrong {number}")
    assert (await world.asks(LOGIN, "right one"))[1] == 0


async def test_too_many_waiting_passwords_are_refused_and_the_place_is_given_back():
    class StuckLane(InlineLane):
        def __init__(self) -> None:
            super().__init__()
            self.free = asyncio.Event()

        async def run(self, work, *args, **kwargs):
            await self.free.wait()
            return await super().run(work, *args, **kwargs)

    lane = StuckLane()
    checker = passwords.Passwords(lane, memory_kib=8, passes=1)
    waiting = [asyncio.create_task(checker.verify(None, "x")) for _ in range(passwords.WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await checker.verify(None, "x")
    lane.free.set()
    assert await asyncio.gather(*waiting) == [False] * passwords.WAITING_MAX
    assert await checker.verify(await checker.hash("x"), "x")


async def test_login_that_is_not_there_takes_an_argon2_verification_too(world: World, monkeypatch):
    verified: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counting(self, kept: str, password: str):
        verified.append(kept)
        return verify(self, kept, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counting)
    await world.asks(LOGIN, "wrong one")
    await world.asks("nobody@a.example", "wrong one")
    known, unknown = verified
    assert known.split("$")[1:4] == unknown.split("$")[1:4]


async def test_hash_that_is_none_verifies_nothing(world: World):
    assert not await world.passwords.verify("not a hash", "x")
    assert not await world.passwords.verify(None, "no login has this hash")


async def test_hash_is_argon2id_and_differs_each_time(world: World):
    first, second = await world.passwords.hash("x"), await world.passwords.hash("x")
    assert first.startswith("$argon2id$")
    assert first != second
