"""API keys: found by their secret, gone when revoked, and at hand when the store is not."""

from __future__ import annotations

import msgspec
import pytest

from pigeonry.auth.keys import API_KEY, SECRET_OCTETS_MAX, KeyRing
from pigeonry.domain.errors import Fault
from pigeonry.domain.tenant import ApiKey, Caller
from support.tenancy import Tenancy


class Ring(Tenancy):
    def __init__(self) -> None:
        super().__init__()
        self.ring = KeyRing(self.identity, self.clock)


@pytest.fixture
def world() -> Ring:
    return Ring()


async def test_secret_names_its_caller(world: Ring):
    key, secret = await world.register.create_key(account="acme")
    await world.ring.refresh()
    assert world.ring.by_secret(secret) == Caller(account="acme", key=key.id, role="admin", domain="")


async def test_domain_key_may_only_send_for_its_domain(world: Ring):
    _, secret = await world.register.create_key(account="acme", domain="a.example")
    await world.ring.refresh()
    caller = world.ring.by_secret(secret)
    assert caller is not None
    assert (caller.role, caller.domain) == ("sending", "a.example")


@pytest.mark.parametrize("secret", ["", "wrong", "x" * (SECRET_OCTETS_MAX + 1), "\ud800"])
async def test_other_secrets_are_nobodys(world: Ring, secret: str):
    await world.register.create_key(account="acme")
    await world.ring.refresh()
    assert world.ring.by_secret(secret) is None


async def test_key_stops_at_its_expiry(world: Ring):
    _, secret = await world.register.create_key(account="acme", expires_at=world.clock.at + 10)
    await world.ring.refresh()
    world.clock.at += 9.9
    assert world.ring.by_secret(secret) is not None
    world.clock.at += 0.1
    assert world.ring.by_secret(secret) is None


async def test_deleted_key_is_gone_with_the_next_look(world: Ring):
    key, secret = await world.register.create_key(account="acme")
    _, other = await world.register.create_key(account="acme")
    await world.ring.refresh()
    assert await world.register.delete_key(key.id)
    await world.ring.refresh()
    assert world.ring.by_secret(secret) is None
    assert world.ring.by_secret(other) is not None


async def test_revoked_key_is_gone_with_the_next_look(world: Ring):
    key, secret = await world.register.create_key(account="acme")
    await world.ring.refresh()
    revoked = msgspec.structs.replace(key, revoked=True)
    await world.identity.put(API_KEY, key.id, msgspec.json.encode(revoked), expect=None)
    await world.ring.refresh()
    assert world.ring.by_secret(secret) is None


async def test_secret_is_nowhere_in_the_store(world: Ring):
    _, secret = await world.register.create_key(account="acme")
    values = b"".join(document.value for document in await world.identity.list(API_KEY))
    assert secret.encode() not in values
    assert msgspec.json.decode(values, type=ApiKey).account == "acme"


async def test_keys_in_memory_go_on_when_the_store_is_gone(world: Ring):
    _, secret = await world.register.create_key(account="acme")
    await world.ring.refresh()
    world.identity.down = True
    with pytest.raises(Fault):
        await world.ring.refresh()
    assert world.ring.by_secret(secret) is not None
    assert world.ring.by_secret("unknown") is None
