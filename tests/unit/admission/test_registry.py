"""How domains are made, changed and deleted, and what is to be published for them."""

from __future__ import annotations

import asyncio

import pytest

from pigeonry.admission.registry import MAKING_MAX, DomainRegistry, receiving_records, sending_records
from pigeonry.domain.errors import BadAddress, BadRequest, Conflict, NotFound, Overloaded
from support.tenancy import InlineLane, Tenancy


@pytest.fixture
def world() -> Tenancy:
    return Tenancy()


async def test_new_domain_is_active_and_has_a_key_whose_private_half_is_sealed(world: Tenancy):
    domain = await world.registry.create("Mail.A.example", account="acme", bits=1024)
    assert (domain.name, domain.account, domain.state, len(domain.id)) == ("mail.a.example", "acme", "active", 24)
    (key,) = domain.dkim
    assert key.algorithm == "rsa"
    assert not key.sealed.startswith(b"\x30")
    assert await world.registry.find("mail.a.example") == domain


async def test_internationalised_name_is_kept_in_a_labels(world: Tenancy):
    assert (await world.registry.create("bücher.example", account="acme", bits=1024)).name == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "name", ["", "localhost", "[192.0.2.1]", "192.0.2.1", "a..b", "-a.example", "a.example/x", "a b.example", "x" * 201]
)
async def test_name_that_mail_cannot_be_sent_from_is_refused(world: Tenancy, name: str):
    with pytest.raises(BadAddress):
        await world.registry.create(name, account="acme", bits=1024)
    assert await world.directory.changes(after=0) == []


async def test_name_that_is_taken_is_refused_whoever_has_it(world: Tenancy):
    first = await world.registry.create("a.example", account="acme", bits=1024)
    for account in ("acme", "other"):
        with pytest.raises(Conflict, match="already taken"):
            await world.registry.create("A.EXAMPLE", account=account, bits=1024)
    assert await world.registry.find("a.example") == first


async def test_of_two_who_make_a_domain_at_once_one_gets_it(world: Tenancy):
    asked = (world.registry.create("a.example", account=account, bits=1024) for account in ("acme", "other"))
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Conflict", "SendingDomain"]


async def test_selector_may_be_chosen_and_must_be_a_label(world: Tenancy):
    domain = await world.registry.create("a.example", account="acme", selector="K1", bits=1024)
    assert domain.dkim[0].selector == "k1"
    for selector in ("a.b", "-a", "a b", "x" * 64):
        with pytest.raises(BadRequest):
            await world.registry.create("b.example", account="acme", selector=selector, bits=1024)


async def test_too_many_keys_at_once_are_refused_and_the_place_is_given_back(world: Tenancy):
    class StuckLane(InlineLane):
        free = asyncio.Event()

        async def run(self, work, *args, **kwargs):
            await self.free.wait()
            raise RuntimeError("stuck")

    lane = StuckLane()
    registry = DomainRegistry(world.directory, seal=world.seal, clock=world.clock, ids=world.ids, lane=lane)
    making = [asyncio.create_task(registry.create(f"d{n}.example", account="acme")) for n in range(MAKING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await registry.create("late.example", account="acme")
    lane.free.set()
    assert {type(error) for error in await asyncio.gather(*making, return_exceptions=True)} == {RuntimeError}
    with pytest.raises(RuntimeError, match="stuck"):
        await registry.create("late.example", account="acme")


async def test_changes_at_the_same_time_are_both_kept(world: Tenancy):
    await world.registry.create("a.example", account="acme", bits=1024)
    await asyncio.gather(
        world.registry.change("a.example", wildcard=True), world.registry.change("a.example", require_tls=True)
    )
    domain = await world.registry.find("a.example")
    assert (domain.wildcard, domain.require_tls) == (True, True)


async def test_change_of_a_domain_that_changes_all_the_time_is_given_up(world: Tenancy, monkeypatch):
    await world.registry.create("a.example", account="acme", bits=1024)

    async def refuse(*args, **kwargs):
        raise Conflict("again")

    monkeypatch.setattr(world.directory, "put", refuse)
    with pytest.raises(Conflict, match="try again"):
        await world.registry.change("a.example", wildcard=True)


async def test_what_is_not_there_is_not_found(world: Tenancy):
    with pytest.raises(NotFound, match=r"Domain not found: a\.example"):
        await world.registry.find("a.example")
    with pytest.raises(NotFound):
        await world.registry.change("a.example", wildcard=True)
    assert not await world.registry.delete("a.example")


async def test_records_say_who_sends_and_what_signs(world: Tenancy):
    domain = await world.registry.create("a.example", account="acme", selector="k1", bits=1024)
    spf, key = sending_records(domain, hostname="mx.example.net")
    assert (spf.record_type, spf.name, spf.value) == ("TXT", "a.example", "v=spf1 a:mx.example.net ~all")
    assert (key.record_type, key.name) == ("TXT", "k1._domainkey.a.example")
    assert key.value == f"v=DKIM1; k=rsa; p={domain.dkim[0].public}"
    (mx,) = receiving_records(domain, hostname="mx.example.net")
    assert (mx.record_type, mx.name, mx.value, mx.priority) == ("MX", "a.example", "mx.example.net", 10)


async def test_records_of_a_host_without_a_name_name_none(world: Tenancy):
    domain = await world.registry.create("a.example", account="acme", bits=1024)
    assert sending_records(domain, hostname="")[0].value == "v=spf1 mx ~all"
    spf = sending_records(domain, hostname="mx.example.net", addresses=["192.0.2.1", "2001:db8::1"])[0]
    assert spf.value == "v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 ~all"
    assert receiving_records(domain, hostname="") == []
