"""What the shell and the development run do about accounts, keys, domains and logins."""

from __future__ import annotations

import pytest

from pigeonry.app.accounts import DEV_DOMAIN, MAIN_ACCOUNT, Accounts
from pigeonry.auth.keys import KeyRing
from pigeonry.auth.logins import Logins
from pigeonry.domain.errors import BadAddress, BadRequest, Conflict, NotFound
from support.tenancy import InlineLane, Tenancy


class World(Tenancy):
    def __init__(self) -> None:
        super().__init__()
        self.accounts = Accounts(
            identity=self.identity,
            directory=self.directory,
            passwords=self.passwords,
            seal=self.seal,
            clock=self.clock,
            ids=self.ids,
            lane=InlineLane(),
            hostname="mx.example.net",
            pools=("shared", "dedicated"),
        )
        self.ring = KeyRing(self.identity, self.clock)
        self.logins = Logins(self.identity, self.clock, self.ids, self.passwords)


@pytest.fixture
def world() -> World:
    return World()


async def test_development_run_makes_a_domain_a_key_and_a_login(world: World):
    login = await world.accounts.ensure_dev(secret="dev", password="pigeonry")
    await world.ring.refresh()
    await world.book.refresh()
    domain = world.book.get(DEV_DOMAIN)
    assert domain is not None
    assert (domain.any_sender, domain.type, len(world.book.signers(DEV_DOMAIN))) == (True, "sandbox", 1)
    caller = world.ring.by_secret("dev")
    assert caller is not None
    assert (caller.account, caller.role) == (MAIN_ACCOUNT, "admin")
    assert await world.logins.by_password(login, "pigeonry") is not None


async def test_second_development_run_goes_on_with_the_first_ones(world: World):
    await world.accounts.ensure_dev(secret="dev", password="pigeonry")
    first = (await world.accounts.domain(DEV_DOMAIN), await world.accounts.keys())
    await world.accounts.ensure_dev(secret="dev", password="pigeonry")
    assert (await world.accounts.domain(DEV_DOMAIN), await world.accounts.keys()) == first


async def test_development_run_with_another_key_ends_the_old_one_and_no_other(world: World):
    await world.accounts.ensure_dev(secret="dev", password="pigeonry")
    _, made = await world.accounts.create_key()
    await world.accounts.ensure_dev(secret="dev2", password="pigeonry")
    await world.ring.refresh()
    assert world.ring.by_secret("dev") is None
    assert world.ring.by_secret("dev2") is not None
    assert world.ring.by_secret(made) is not None


async def test_key_for_a_domain_belongs_to_the_domains_account(world: World):
    await world.registry.create("a.example", account="acme", bits=1024)
    key, _ = await world.accounts.create_key(domain="A.example")
    assert (key.account, key.domain, key.role) == ("acme", "a.example", "sending")
    with pytest.raises(NotFound, match=r"b\.example"):
        await world.accounts.create_key(domain="b.example")


async def test_domain_is_listed_and_deleted_with_all_that_sends_for_it(world: World):
    await world.accounts.create_domain("a.example")
    await world.accounts.create_key(domain="a.example")
    await world.accounts.create_credential("al@a.example", "se cret")
    assert [domain.name for domain in await world.accounts.domains()] == ["a.example"]
    with pytest.raises(Conflict, match=r"a\.example is there already"):
        await world.accounts.create_domain("a.example")
    await world.accounts.delete_domain("A.example")
    assert (await world.accounts.domains(), await world.accounts.keys(), await world.accounts.credentials()) == (
        [],
        [],
        [],
    )


async def test_records_name_the_host(world: World):
    domain = await world.accounts.create_domain("a.example")
    assert world.accounts.records(domain)[0].value == "v=spf1 a:mx.example.net ~all"


async def test_what_is_not_there_is_said_in_words_that_help(world: World):
    with pytest.raises(NotFound, match="pigeonry key list"):
        await world.accounts.delete_key("00000000-00000000")
    with pytest.raises(NotFound, match="pigeonry smtp-cred list"):
        await world.accounts.delete_credential("al@a.example")
    with pytest.raises(NotFound, match="pigeonry domain list"):
        await world.accounts.create_credential("al@a.example")
    with pytest.raises(BadAddress, match="such as app@"):
        await world.accounts.create_credential("al")
    for attempt in (world.accounts.create_domain, world.accounts.domain):
        with pytest.raises(BadAddress, match=r"-a\.example is not a name .*, such as"):
            await attempt("-a.example")
    with pytest.raises(BadRequest):
        await world.accounts.create_domain("a.example") and await world.accounts.create_credential("al@a.example", "1")


async def test_a_domain_gets_a_pool_of_the_configuration_and_no_other(world: World):
    await world.accounts.create_domain("example.org")
    changed = await world.accounts.set_pools("example.org", "dedicated", ("shared",))
    assert (changed.pool, changed.pools) == ("dedicated", ("shared",))
    assert await world.accounts.domain("example.org") == changed
    with pytest.raises(
        NotFound, match=r"Pool not found: dedicate\. Those of the configuration are: shared, dedicated\."
    ):
        await world.accounts.set_pools("example.org", "dedicate", ())
    with pytest.raises(NotFound):
        await world.accounts.set_pools("example.org", "", ("more",))
    with pytest.raises(NotFound, match="Domain not found"):
        await world.accounts.set_pools("example.net", "shared", ())
    assert (await world.accounts.set_pools("example.org", "", ())).may_use("") is True
