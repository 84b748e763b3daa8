"""What an account may send: nothing is asked where there is no limit, and a refusal costs nothing."""

from __future__ import annotations

import msgspec
import pytest

from pigeonry.auth.allowances import DAY_S, HOUR_S, Allowances
from pigeonry.auth.register import ACCOUNT
from pigeonry.domain.errors import TooManyRequests
from pigeonry.domain.tenant import Account
from pigeonry.ports.buckets import Rate
from pigeonry.stores.memory.documents import MemoryDocuments
from support.tenancy import HandClock


class Tokens:
    """What is taken, until there is none."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.rates: dict[str, Rate] = {}

    async def take(self, name: str, rate: Rate, count: int) -> float:
        self.rates[name] = rate
        left = self.left.setdefault(name, rate.limit)
        if left < count:
            return 77.5
        self.left[name] = left - count
        return 0.0

    async def put_back(self, name: str, count: int) -> None:
        self.left[name] += count


@pytest.fixture
def identity() -> MemoryDocuments:
    return MemoryDocuments()


async def limited(identity: MemoryDocuments, tokens: Tokens, **limits: int) -> Allowances:
    account = Account("acct", "An account", 1.0, **limits)
    await identity.put(ACCOUNT, "acct", msgspec.json.encode(account), expect=None)
    made = Allowances(identity, HandClock(), take=tokens.take, put_back=tokens.put_back)
    await made.refresh()
    return made


async def test_an_account_without_a_limit_is_asked_for_nothing(identity: MemoryDocuments) -> None:
    tokens = Tokens()
    allowances = await limited(identity, tokens)
    assert not allowances.any()
    await allowances.spend("acct", 1_000)
    assert not tokens.rates


async def test_a_refusal_says_when_there_is_room_and_costs_nothing(identity: MemoryDocuments) -> None:
    tokens = Tokens()
    allowances = await limited(identity, tokens, daily=100, hourly=10)
    assert allowances.any()
    await allowances.spend("another", 1_000)
    await allowances.spend("acct", 9)
    tokens.left["account:acct:day"] = 0
    with pytest.raises(TooManyRequests, match="100 recipients a day") as refused:
        await allowances.spend("acct", 1)
    assert refused.value.retry_after_s == 77.5
    assert tokens.left["account:acct:hour"] == 1
    assert allowances.refused == 1
    assert tokens.rates == {"account:acct:hour": Rate(10, HOUR_S), "account:acct:day": Rate(100, DAY_S)}


async def test_what_was_not_taken_is_not_counted(identity: MemoryDocuments) -> None:
    tokens = Tokens()
    allowances = await limited(identity, tokens, hourly=10)
    await allowances.spend("acct", 4)
    await allowances.spare("acct", 4)
    assert tokens.left == {"account:acct:hour": 10}


async def test_limits_follow_the_account(identity: MemoryDocuments) -> None:
    tokens = Tokens()
    allowances = await limited(identity, tokens, hourly=1)
    changed = msgspec.json.encode(Account("acct", "An account", 1.0))
    await identity.put(ACCOUNT, "acct", changed, expect=None)
    await allowances.refresh()
    assert not allowances.any()
