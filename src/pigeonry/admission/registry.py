"""Makes, changes and deletes sending domains, and says what to publish for them.

Every domain gets a DKIM key of its own when it is made; the private half is sealed for just that domain and selector
before it is stored. Doors and the shell come here; the ``DomainBook`` of every worker hears of it by the change feed.

Standards: RFC 6376 section 3.6.1 (key records), RFC 7208 (SPF), RFC 5321 section 5.1 (MX).
Trust: names and settings come from API users; a name is checked before anything is made of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pigeonry.admission.domains import DOMAIN, dkim_context
from pigeonry.domain.address import ascii_domain
from pigeonry.domain.errors import BadAddress, BadRequest, Conflict, NotFound, Overloaded
from pigeonry.domain.tenant import DkimKey, SendingDomain
from pigeonry.protocol.dkim import keys
from pigeonry.protocol.sealing import NONCE_OCTETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pigeonry.ports.disk import Lane
    from pigeonry.ports.documents import Directory
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.protocol.sealing import Seal

__all__ = ["DnsRecord", "DomainRegistry", "receiving_records", "sending_name", "sending_records"]

SELECTOR_OCTETS: Final = 4  # random, so that a key made anew never has an old one's name
DOMAIN_NAME_OCTETS_MAX: Final = 200  # leaves room for "<selector>._domainkey." in the 253 of a DNS name
MAKING_MAX: Final = 20  # at some 100 ms each, the last one waits for two seconds
MX_PREFERENCE: Final = 10  # any number; this one is what people copy from
_RETRY_AFTER_S: Final = 2.0  # seconds; as long as MAKING_MAX of them take
_CHANGES_TRIED: Final = 5  # for one change against others of the same domain
_SELECTOR: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_DECODER: Final = msgspec.json.Decoder(SendingDomain)


class DnsRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record to publish; ``priority`` is an MX record's preference, None for others."""

    record_type: str
    name: str
    value: str
    priority: int | None = None


class DomainRegistry:
    """The sending domains as they are written.

    Args:
        seal: Seals private keys.
        lane: Where keys are made: an RSA key takes 100 ms.
    """

    def __init__(self, directory: Directory, *, seal: Seal, clock: Clock, ids: IdSource, lane: Lane) -> None:
        self._directory = directory
        self._seal = seal
        self._clock = clock
        self._ids = ids
        self._lane = lane
        self._making = 0

    async def create(
        self,
        name: str,
        *,
        account: str,
        selector: str = "",
        bits: int = keys.RSA_BITS,
        any_sender: bool = False,
        sandbox: bool = False,
        **settings: Any,
    ) -> SendingDomain:
        """Make a domain with an RSA key for DKIM.

        Args:
            selector: The key's; a random one when empty.
            bits: Size of the key.
            settings: Further fields of ``SendingDomain``, already checked.

        Raises:
            BadAddress: It is no domain name that mail can be sent from.
            BadRequest: The selector is malformed.
            Conflict: There is a domain of that name, whoever owns it.
            Overloaded: Too many keys are being made.
        """
        name = sending_name(name)
        if selector and not _SELECTOR.fullmatch(selector):
            raise BadRequest("The DKIM selector is not a DNS label.")
        if await self._directory.get(DOMAIN, name) is not None:
            raise Conflict("This domain name is already taken")
        domain = SendingDomain(
            id=self._ids.octets(12).hex(),
            name=name,
            account=account,
            created_at=self._clock.now(),
            type="sandbox" if sandbox else "custom",
            any_sender=any_sender,
            dkim=(await self._make_key(name, selector.lower() or f"p{self._ids.octets(SELECTOR_OCTETS).hex()}", bits),),
            **settings,
        )
        try:
            await self._directory.put(DOMAIN, name, msgspec.json.encode(domain), expect=0)
        except Conflict:
            raise Conflict("This domain name is already taken") from None
        return domain

    async def find(self, name: str) -> SendingDomain:
        """A domain as the store has it now.

        Raises:
            NotFound: There is none of that name.
        """
        return (await self._read(name))[0]

    async def change(self, name: str, **settings: Any) -> SendingDomain:
        """Change a domain's settings; others' changes at the same time are kept.

        Args:
            settings: Fields of ``SendingDomain``, already checked.

        Raises:
            NotFound: There is none of that name.
            Conflict: It is being changed all the time.
        """
        for _ in range(_CHANGES_TRIED):
            domain, version = await self._read(name)
            changed = msgspec.structs.replace(domain, **settings)
            try:
                await self._directory.put(DOMAIN, domain.name, msgspec.json.encode(changed), expect=version)
            except Conflict:
                continue
            return changed
        raise Conflict("The domain is being changed by others; try again.")

    async def delete(self, name: str) -> bool:
        """Delete a domain with its keys; whether there was one. Mail that waits goes on, unsigned."""
        return await self._directory.delete(DOMAIN, name.lower(), expect=None)

    async def _read(self, name: str) -> tuple[SendingDomain, int]:
        document = await self._directory.get(DOMAIN, name.lower())
        if document is None:
            raise NotFound(f"Domain not found: {name}")
        return _DECODER.decode(document.value), document.version

    async def _make_key(self, domain: str, selector: str, bits: int) -> DkimKey:
        if self._making >= MAKING_MAX:
            raise Overloaded("Too many domains are being made; try again.", retry_after_s=_RETRY_AFTER_S)
        self._making += 1
        try:
            made = await self._lane.run(keys.generate, "rsa", bits=bits)
        finally:
            self._making -= 1
        context = dkim_context(domain, selector)
        sealed = self._seal.close(made.private, context=context, nonce=self._ids.octets(NONCE_OCTETS))
        return DkimKey(selector=selector, algorithm=made.algorithm, sealed=sealed, public=made.public)


def sending_name(text: str) -> str:
    """A domain name that mail can be sent from, in lower case and A-labels.

    Raises:
        BadAddress: It is malformed, an address, or a top-level name.
    """
    name = ascii_domain(text)
    if (
        name.startswith("[")
        or "." not in name
        or len(name) > DOMAIN_NAME_OCTETS_MAX
        or name.rpartition(".")[2].isdigit()
    ):
        raise BadAddress("The domain name is not one that mail can be sent from.")
    return name


def sending_records(domain: SendingDomain, *, hostname: str, addresses: Sequence[str] = ()) -> list[DnsRecord]:
    """What to publish so that receivers believe the domain's mail.

    Args:
        hostname: The name of the host that sends.
        addresses: The IP addresses that the domain's mail may leave from, where they are known; the host's otherwise.
    """
    spf = f"v=spf1 a:{hostname} ~all" if hostname else "v=spf1 mx ~all"
    if addresses:
        allowed = " ".join(f"ip{6 if ':' in address else 4}:{address}" for address in addresses)
        spf = f"v=spf1 {allowed} ~all"
    signing = [
        DnsRecord(
            record_type="TXT",
            name=keys.record_name(selector=key.selector, domain=domain.name),
            value=keys.record_value(algorithm=key.algorithm, public=key.public),
        )
        for key in domain.dkim
        if key.active
    ]
    return [DnsRecord(record_type="TXT", name=domain.name, value=spf), *signing]


def receiving_records(domain: SendingDomain, *, hostname: str) -> list[DnsRecord]:
    """What to publish for replies and late bounces to come here; none when the host has no name."""
    if not hostname:
        return []
    return [DnsRecord(record_type="MX", name=domain.name, value=hostname, priority=MX_PREFERENCE)]
