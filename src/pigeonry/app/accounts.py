"""What a person does about accounts, keys, domains and logins: one face over the registers of both stores.

The commands of the shell and the development run call it. What is made is given back when a running node knows it, half
a second later, so that a script may go on to use it. A thing that is deleted twice, or was never there, is told
in words that help a person on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.admission.domains import DOMAIN
from pigeonry.admission.interventions import InterventionRegister
from pigeonry.admission.registry import DnsRecord, DomainRegistry, sending_records
from pigeonry.auth.keys import digest_of
from pigeonry.auth.register import Register
from pigeonry.domain.address import ascii_domain, domain_of, parse_mailbox
from pigeonry.domain.errors import BadAddress, Conflict, NotFound
from pigeonry.domain.tenant import Account, ApiKey, SendingDomain, SmtpCredential
from pigeonry.ports.feed import KNOWN_S

if TYPE_CHECKING:
    from pigeonry.auth.passwords import Passwords
    from pigeonry.domain.intervention import Action, Intervention, Scope
    from pigeonry.ports.disk import Lane
    from pigeonry.ports.documents import Directory, Identity
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.protocol.sealing import Seal

__all__ = ["DEV_DOMAIN", "MAIN_ACCOUNT", "Accounts", "DnsRecord"]

MAIN_ACCOUNT: Final = "main"  # the account of a node that one organisation uses
DEV_DOMAIN: Final = "sandbox.localhost"
DEV_KEY: Final = "development"  # description of the key of a development run
LISTED_MAX: Final = 1000  # documents read at once


class Accounts:
    """The functions, with what they need.

    Args:
        seal: Seals private keys.
        lane: Where an RSA key is made: that takes 100 ms.
        hostname: The host that sends, for SPF; empty when it is not known.
        pools: Ids of the egress pools there are.
        addresses: Those that a domain's mail may leave from, for SPF; none where the system chooses.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        directory: Directory,
        passwords: Passwords,
        seal: Seal,
        clock: Clock,
        ids: IdSource,
        lane: Lane,
        hostname: str = "",
        pools: Collection[str] = (),
        addresses: Callable[[SendingDomain], Sequence[str]] = lambda _domain: (),
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._hostname = hostname
        self._pools = pools
        self._addresses = addresses
        self.register = Register(identity, passwords=passwords, clock=clock, ids=ids)
        """Writes keys and logins."""
        self.registry = DomainRegistry(directory, seal=seal, clock=clock, ids=ids, lane=lane)
        """Writes domains."""
        self._interventions = InterventionRegister(directory, clock=clock, ids=ids, pools=pools)

    async def ensure_account(self, account: str = MAIN_ACCOUNT) -> None:
        """Make an account unless it is there."""
        await self.register.ensure_account(account)

    # -- what the operator tells delivery to do

    async def intervene(
        self, action: Action, scope: Scope, *, reason: str, lasting_s: float, pool: str = ""
    ) -> Intervention:
        """Have delivery do something with some of the mail.

        Raises:
            BadRequest, Overloaded: As ``InterventionRegister.make``.
        """
        made = await self._interventions.make(action, scope, reason=reason, lasting_s=lasting_s, pool=pool)
        await self._clock.sleep(KNOWN_S)
        return made

    async def lift(self, name: str) -> None:
        """End an intervention.

        Raises:
            NotFound: There is none of that id.
        """
        await self._interventions.lift(name)
        await self._clock.sleep(KNOWN_S)

    async def interventions(self) -> Sequence[Intervention]:
        """Those that stand, the oldest first."""
        return await self._interventions.standing()

    async def accounts(self) -> Sequence[Account]:
        """All accounts."""
        return await self.register.accounts()

    async def limit_account(self, account: str, *, hourly: int | None, daily: int | None) -> Account:
        """Change an account's limits; every worker knows within seconds.

        Raises:
            NotFound: There is no such account.
        """
        changed = await self.register.limit_account(account, hourly=hourly, daily=daily)
        if changed is None:
            raise NotFound(f"Account not found: {account}. `pigeonry account list` shows those there are.")
        await self._clock.sleep(KNOWN_S)
        return changed

    # -- keys

    async def create_key(
        self, *, account: str = MAIN_ACCOUNT, domain: str = "", description: str = "", secret: str = ""
    ) -> tuple[ApiKey, str]:
        """Make an API key; the key and its secret, which is not kept.

        Args:
            domain: The only domain it may send for; empty for all.
            secret: To be used instead of a fresh one (development only).

        Raises:
            NotFound: There is no such domain.
        """
        if domain:
            found = await self.domain(domain)
            account, domain = found.account, found.name
        await self.ensure_account(account)
        made = await self.register.create_key(account=account, domain=domain, description=description, secret=secret)
        await self._clock.sleep(KNOWN_S)
        return made

    async def keys(self) -> Sequence[ApiKey]:
        """All keys."""
        return await self.register.keys()

    async def delete_key(self, key_id: str) -> None:
        """Delete a key; every worker knows within seconds.

        Raises:
            NotFound: There is no such key.
        """
        if not await self.register.delete_key(key_id):
            raise NotFound(f"Key not found: {key_id}. `pigeonry key list` shows those there are.")

    # -- domains

    async def create_domain(
        self, name: str, *, account: str = MAIN_ACCOUNT, any_sender: bool = False, sandbox: bool = False
    ) -> SendingDomain:
        """Make a sending domain with an RSA-2048 key for DKIM.

        Raises:
            BadAddress: It is no domain name that mail can be sent from.
            Conflict: There is one of that name.
        """
        await self.ensure_account(account)
        try:
            made = await self.registry.create(name, account=account, any_sender=any_sender, sandbox=sandbox)
        except Conflict:
            raise Conflict(f"Domain {name} is there already: `pigeonry domain dns` prints its records.") from None
        except BadAddress:
            raise _no_domain(name) from None
        await self._clock.sleep(KNOWN_S)
        return made

    async def domain(self, name: str) -> SendingDomain:
        """A domain.

        Raises:
            BadAddress: It is no domain name.
            NotFound: There is none of that name.
        """
        try:
            return await self.registry.find(ascii_domain(name))
        except NotFound:
            raise NotFound(f"Domain not found: {name}. `pigeonry domain list` shows those there are.") from None
        except BadAddress:
            raise _no_domain(name) from None

    async def domains(self) -> Sequence[SendingDomain]:
        """All domains by name."""
        found: list[SendingDomain] = []
        after = ""
        while page := await self._directory.list(DOMAIN, after=after, limit=LISTED_MAX):
            found += [msgspec.json.decode(document.value, type=SendingDomain) for document in page]
            after = page[-1].id
        return found

    async def delete_domain(self, name: str) -> None:
        """Delete a domain, its logins and its sending keys.

        Raises:
            NotFound: There is none of that name.
        """
        domain = await self.domain(name)
        await self.register.forget_domain(domain.name)
        await self.registry.delete(domain.name)

    async def set_pools(self, name: str, pool: str, further: Sequence[str]) -> SendingDomain:
        """Set the egress pool that a domain's mail leaves by, and those that its messages may name beside it.

        Args:
            pool: Its id; empty for the default one.

        Raises:
            NotFound: There is no such domain, or no such pool.
        """
        for each in (pool, *further):
            if each and each not in self._pools:
                known = ", ".join(self._pools) or "none"
                raise NotFound(f"Pool not found: {each}. Those of the configuration are: {known}.")
        domain = await self.domain(name)
        changed = await self.registry.change(domain.name, pool=pool, pools=tuple(further))
        await self._clock.sleep(KNOWN_S)
        return changed

    def records(self, domain: SendingDomain) -> Sequence[DnsRecord]:
        """What to publish so that receivers believe the domain's mail."""
        return sending_records(domain, hostname=self._hostname, addresses=self._addresses(domain))

    # -- logins

    async def create_credential(self, login: str, password: str = "") -> tuple[SmtpCredential, str]:
        """Make or change an SMTP login; the credential and its password, which is not kept.

        Raises:
            BadRequest: The password's length is not allowed.
            BadAddress: The login is no address.
            NotFound: Its domain is none of ours.
        """
        try:
            login = parse_mailbox(login).lower()
        except BadAddress:
            raise BadAddress(f"{login} is not an address, such as app@mail.example.org.") from None
        return await self.register.put_credential(login, password, domain=await self.domain(domain_of(login)))

    async def credentials(self, domain: str = "") -> Sequence[SmtpCredential]:
        """SMTP logins, of one domain or all."""
        return await self.register.credentials(domain)

    async def delete_credential(self, login: str) -> None:
        """Delete an SMTP login.

        Raises:
            NotFound: There is no such login.
        """
        if not await self.register.delete_credential(login):
            raise NotFound(f"SMTP login not found: {login}. `pigeonry smtp-cred list` shows those there are.")

    # -- development

    async def ensure_dev(self, *, secret: str, password: str) -> str:
        """Make what a development run offers, unless it is there; the SMTP login.

        A run with another secret than the last one's ends what that one opened.
        """
        login = f"postmaster@{DEV_DOMAIN}"
        if await self._directory.get(DOMAIN, DEV_DOMAIN) is None:
            await self.ensure_account()
            await self.registry.create(DEV_DOMAIN, account=MAIN_ACCOUNT, any_sender=True, sandbox=True)
        wanted = digest_of(secret)
        keys = await self.keys()
        for key in keys:
            if key.description == DEV_KEY and key.digest != wanted:
                await self.register.delete_key(key.id)
        if not any(key.digest == wanted for key in keys):
            await self.register.create_key(account=MAIN_ACCOUNT, secret=secret, description=DEV_KEY)
        await self.create_credential(login, password)
        return login


def _no_domain(name: str) -> BadAddress:
    return BadAddress(f"{name} is not a name that mail can be sent from, such as mail.example.org.")
