"""What is written of accounts, keys and logins."""

from __future__ import annotations

import re

import pytest

from pigeonry.auth.register import login_for
from pigeonry.domain.errors import BadAddress, BadRequest
from pigeonry.domain.tenant import SendingDomain
from support.tenancy import Tenancy

DOMAIN = SendingDomain(id="0" * 24, name="a.example", account="acme", created_at=0.0)


@pytest.fixture
def world() -> Tenancy:
    return Tenancy()


async def test_key_has_the_form_that_clients_know(world: Tenancy):
    key, secret = await world.register.create_key(account="acme")
    assert re.fullmatch(r"[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}", secret)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{8}", key.id)


async def test_deleting_a_key_twice_says_so(world: Tenancy):
    key, _ = await world.register.create_key(account="acme")
    assert await world.register.delete_key(key.id)
    assert not await world.register.delete_key(key.id)


async def test_account_is_made_once(world: Tenancy):
    await world.register.ensure_account("acme")
    world.clock.at += 5
    await world.register.ensure_account("acme")
    document = await world.identity.get("account", "acme")
    assert document is not None
    assert document.version == 1


@pytest.mark.parametrize("password", ["1234", "x" * 33, "a\r\nb c", "nul\0nul"])
async def test_password_that_may_not_be_is_refused_and_nothing_is_stored(world: Tenancy, password: str):
    with pytest.raises(BadRequest):
        await world.register.put_credential("al@a.example", password, domain=DOMAIN)
    assert await world.register.credentials() == []


@pytest.mark.parametrize("password", ["12345", "x" * 32])
async def test_password_at_the_limits_is_taken(world: Tenancy, password: str):
    _, kept = await world.register.put_credential("al@a.example", password, domain=DOMAIN)
    assert kept == password


async def test_password_is_made_when_none_is_given_and_never_stored(world: Tenancy):
    credential, password = await world.register.put_credential("al@a.example", "", domain=DOMAIN)
    assert len(password) == 32
    assert password not in credential.password


async def test_login_with_a_new_password_keeps_its_day_of_creation(world: Tenancy):
    first, _ = await world.register.put_credential("al@a.example", "", domain=DOMAIN)
    world.clock.at += 100
    second, _ = await world.register.put_credential("al@a.example", "", domain=DOMAIN)
    assert second.created_at == first.created_at
    assert second.password != first.password


async def test_forgetting_a_domain_deletes_its_logins_and_keys_and_no_others(world: Tenancy):
    other = SendingDomain(id="1" * 24, name="b.example", account="acme", created_at=0.0)
    for domain in (DOMAIN, other):
        await world.register.put_credential(f"al@{domain.name}", "", domain=domain)
        await world.register.create_key(account="acme", domain=domain.name)
    await world.register.create_key(account="acme")
    await world.register.forget_domain("a.example")
    assert [credential.login for credential in await world.register.credentials()] == ["al@b.example"]
    assert sorted(key.domain for key in await world.register.keys()) == ["", "b.example"]


@pytest.mark.parametrize("given", ["Al", "al@a.example", "AL@A.Example"])
def test_login_is_a_local_part_or_a_full_address(given: str):
    assert login_for(given, domain="a.example") == "al@a.example"


@pytest.mark.parametrize(
    ("given", "error"),
    [("al@b.example", BadRequest), ("al@", BadAddress), ("a b", BadAddress), ("", BadAddress), ("a\r\nb", BadAddress)],
)
def test_login_of_another_domain_or_none_is_refused(given: str, error: type[Exception]):
    with pytest.raises(error):
        login_for(given, domain="a.example")
