"""The book of domains: found from memory, with signers that sign."""

from __future__ import annotations

import dkim
import msgspec
import pytest

from pigeonry.admission.domains import DOMAIN, DomainBook, dkim_context
from pigeonry.domain.errors import Fault
from pigeonry.domain.tenant import DkimKey
from pigeonry.protocol.dkim import keys
from pigeonry.protocol.sealing import NONCE_OCTETS, Seal
from support.tenancy import Tenancy

MESSAGE = b"From: al@a.example\r\nSubject: Hi\r\n\r\nHello\r\n"


@pytest.fixture
def world() -> Tenancy:
    return Tenancy()


async def make(world: Tenancy, name: str = "a.example", account: str = "acme"):
    domain = await world.registry.create(name, account=account, bits=1024)
    await world.book.refresh()
    return domain


async def test_domain_is_found_in_any_case_once_the_book_is_level(world: Tenancy):
    assert world.book.get("a.example") is None
    domain = await make(world)
    assert world.book.get("a.example") == domain
    assert world.book.get("A.Example") == domain
    assert world.book.get("b.example") is None


async def test_accounts_see_their_own_domains(world: Tenancy):
    mine, other = await make(world), await make(world, "b.example", "other")
    assert world.book.of("acme") == [mine]
    assert world.book.of("other") == [other]
    assert world.book.of("nobody") == []


async def test_signature_of_a_new_domain_verifies_with_its_record(world: Tenancy):
    domain = await make(world)
    (signer,) = world.book.signers("a.example")
    key = domain.dkim[0]

    def look_up(name: bytes, timeout: int = 5) -> bytes:
        assert name == f"{key.selector}._domainkey.a.example.".encode()
        return keys.record_value(algorithm=key.algorithm, public=key.public).encode()

    assert dkim.DKIM(signer.sign(MESSAGE, now=1.0) + MESSAGE).verify(dnsfunc=look_up)


async def test_signers_are_made_once_and_again_when_the_domain_changed(world: Tenancy):
    await make(world)
    first = world.book.signers("a.example")
    assert world.book.signers("a.example") is first
    await world.registry.change("a.example", wildcard=True)
    await world.book.refresh()
    assert world.book.signers("a.example") is not first


async def test_inactive_key_does_not_sign(world: Tenancy):
    domain = await make(world)
    idle = msgspec.structs.replace(domain.dkim[0], active=False)
    await world.registry.change("a.example", dkim=(idle,))
    await world.book.refresh()
    assert world.book.signers("a.example") == ()


async def test_two_keys_of_two_kinds_sign_in_their_order(world: Tenancy):
    domain = await make(world)
    made = keys.generate("ed25519")
    sealed = world.seal.close(made.private, context=dkim_context("a.example", "ed"), nonce=bytes(NONCE_OCTETS))
    second = DkimKey(selector="ed", algorithm="ed25519", sealed=sealed, public=made.public)
    await world.registry.change("a.example", dkim=(*domain.dkim, second))
    await world.book.refresh()
    assert [signer.algorithm for signer in world.book.signers("a.example")] == ["rsa", "ed25519"]


async def test_domain_that_is_not_ours_has_no_signers(world: Tenancy):
    assert world.book.signers("a.example") == ()


async def test_key_sealed_by_another_node_or_for_another_domain_does_not_sign(world: Tenancy):
    domain = await make(world)
    stranger = DomainBook(world.directory, world.clock, Seal(b"\xff" * 32))
    await stranger.refresh()
    assert stranger.signers("a.example") == ()
    moved = msgspec.structs.replace(domain, name="b.example")
    await world.directory.put(DOMAIN, "b.example", msgspec.json.encode(moved), expect=0)
    await world.book.refresh()
    assert world.book.signers("b.example") == ()


async def test_deleted_domain_is_gone_with_its_signers(world: Tenancy):
    await make(world)
    assert len(world.book.signers("a.example")) == 1
    await world.registry.delete("a.example")
    await world.book.refresh()
    assert world.book.get("a.example") is None
    assert world.book.signers("a.example") == ()
    assert world.book.of("acme") == []


async def test_domains_in_memory_go_on_when_the_directory_is_gone(world: Tenancy):
    domain = await make(world)
    world.directory.down = True
    with pytest.raises(Fault):
        await world.book.refresh()
    assert world.book.get("a.example") == domain
    assert len(world.book.signers("a.example")) == 1
