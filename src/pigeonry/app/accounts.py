"""What a person does about accounts, keys, domains and logins: plain functions over Identity and Directory.

The commands of the shell and the development run call them. Secrets are made here, given back once, and kept only as
hashes (keys, passwords) or sealed (private keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from pigeonry.admission.domains import DOMAIN, dkim_context
from pigeonry.auth.keys import API_KEY, digest_of
from pigeonry.auth.logins import SMTP_CREDENTIAL
from pigeonry.domain.address import ascii_domain, parse_mailbox
from pigeonry.domain.errors import BadRequest, Conflict, NotFound
from pigeonry.domain.tenant import Account, ApiKey, DkimKey, SendingDomain, SmtpCredential
from pigeonry.protocol.dkim import keys
from pigeonry.protocol.sealing import NONCE_OCTETS

if TYPE_CHECKING:
    from pigeonry.auth.passwords import Passwords
    from pigeonry.ports.disk import Lane
    from pigeonry.ports.documents import Directory, Identity
    from pigeonry.ports.environment import Clock, IdSource
    from pigeonry.protocol.sealing import Seal

__all__ = ["DEV_DOMAIN", "MAIN_ACCOUNT", "Accounts", "DnsRecord"]

ACCOUNT: Final = "account"  # their kind in Identity
MAIN_ACCOUNT: Final = "main"  # the account of a node that one organisation uses
DEV_DOMAIN: Final = "sandbox.localhost"
SELECTOR_OCTETS: Final = 4  # random, so that a key made anew never has an old one's name
PASSWORD_CHARACTERS: Final = range(5, 33)  # as the API promises
LISTED_MAX: Final = 1000
T = TypeVar("T")


class DnsRecord(msgspec.Struct, frozen=True):
    """A record to publish."""

    record_type: str
    name: str
    value: str


class Accounts:
    """The functions, with what they need.

    Args:
        seal: Seals private keys.
        lane: Where an RSA key is made: that takes 100 ms.
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
    ) -> None:
        self._identity = identity
        self._directory = directory
        self._passwords = passwords
        self._seal = seal
        self._clock = clock
        self._ids = ids
        self._lane = lane

    async def ensure_account(self, account: str = MAIN_ACCOUNT) -> None:
        """Make an account unless it is there."""
        if await self._identity.get(ACCOUNT, account) is None:
            document = msgspec.json.encode(Account(account, account, self._clock.now()))
            await self._identity.put(ACCOUNT, account, document, expect=None)

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
            await self.domain(domain)
        await self.ensure_account(account)
        parts = self._ids.octets(24).hex()
        secret = secret or f"{parts[:32]}-{parts[32:40]}-{parts[40:]}"
        shown = self._ids.octets(8).hex()
        key = ApiKey(
            f"{shown[:8]}-{shown[8:]}",
            account,
            digest_of(secret),
            self._clock.now(),
            role="sending" if domain else "admin",
            domain=domain,
            description=description,
        )
        await self._identity.put(API_KEY, key.id, msgspec.json.encode(key), expect=0)
        return key, secret

    async def keys(self) -> Sequence[ApiKey]:
        """All keys, revoked ones too."""
        return await self._all(self._identity, API_KEY, ApiKey)

    async def delete_key(self, key_id: str) -> None:
        """Revoke a key; every worker knows within seconds.

        Raises:
            NotFound: There is no such key.
        """
        if not await self._identity.delete(API_KEY, key_id, expect=None):
            raise NotFound(f"Key not found: {key_id}. `pigeonry key list` shows those there are.")

    # -- domains

    async def create_domain(
        self, name: str, *, account: str = MAIN_ACCOUNT, any_sender: bool = False, sandbox: bool = False
    ) -> SendingDomain:
        """Make a sending domain with an RSA-2048 key for DKIM.

        Raises:
            BadAddress: It is no domain name.
            Conflict: There is one of that name.
        """
        name = ascii_domain(name)
        await self.ensure_account(account)
        selector = f"p{self._ids.octets(SELECTOR_OCTETS).hex()}"
        made = await self._lane.run(keys.generate)
        sealed = self._seal.close(
            made.private, context=dkim_context(name, selector), nonce=self._ids.octets(NONCE_OCTETS)
        )
        domain = SendingDomain(
            self._ids.octets(12).hex(),
            name,
            account,
            self._clock.now(),
            type="sandbox" if sandbox else "custom",
            dkim=(DkimKey(selector, made.algorithm, sealed, made.public),),
            any_sender=any_sender,
        )
        try:
            await self._directory.put(DOMAIN, name, msgspec.json.encode(domain), expect=0)
        except Conflict:
            raise Conflict(f"Domain {name} is there already.") from None
        return domain

    async def domain(self, name: str) -> SendingDomain:
        """A domain.

        Raises:
            NotFound: There is none of that name.
        """
        document = await self._directory.get(DOMAIN, ascii_domain(name))
        if document is None:
            raise NotFound(f"Domain not found: {name}")
        return msgspec.json.decode(document.value, type=SendingDomain)

    async def domains(self) -> Sequence[SendingDomain]:
        """All domains by name."""
        return await self._all(self._directory, DOMAIN, SendingDomain)

    async def delete_domain(self, name: str) -> None:
        """Delete a domain and its logins.

        Raises:
            NotFound: There is none of that name.
        """
        domain = await self.domain(name)
        for credential in await self.credentials(domain.name):
            await self._identity.delete(SMTP_CREDENTIAL, credential.login, expect=None)
        await self._directory.delete(DOMAIN, domain.name, expect=None)

    @staticmethod
    def records(domain: SendingDomain) -> Sequence[DnsRecord]:
        """What to publish so that receivers believe the domain's mail."""
        return [
            DnsRecord("TXT", domain.name, "v=spf1 mx ~all"),
            *(
                DnsRecord(
                    "TXT",
                    keys.record_name(selector=key.selector, domain=domain.name),
                    keys.record_value(algorithm=key.algorithm, public=key.public),
                )
                for key in domain.dkim
            ),
        ]

    # -- logins

    async def create_credential(self, login: str, password: str = "") -> tuple[SmtpCredential, str]:
        """Make or change an SMTP login; the credential and its password, which is not kept.

        Raises:
            BadRequest: The password's length is not allowed.
            BadAddress: The login is no address.
            NotFound: Its domain is none of ours.
        """
        login = parse_mailbox(login).lower()
        domain = await self.domain(login.rpartition("@")[2])
        password = password or self._ids.octets(12).hex()
        if len(password) not in PASSWORD_CHARACTERS:
            raise BadRequest("A password has 5 to 32 characters.")
        credential = SmtpCredential(
            login, domain.account, domain.name, await self._passwords.hash(password), self._clock.now()
        )
        await self._identity.put(SMTP_CREDENTIAL, login, msgspec.json.encode(credential), expect=None)
        return credential, password

    async def credentials(self, domain: str = "") -> Sequence[SmtpCredential]:
        """SMTP logins, of one domain or all."""
        found = await self._all(self._identity, SMTP_CREDENTIAL, SmtpCredential)
        return [credential for credential in found if not domain or credential.domain == domain]

    async def delete_credential(self, login: str) -> None:
        """Delete an SMTP login.

        Raises:
            NotFound: There is no such login.
        """
        if not await self._identity.delete(SMTP_CREDENTIAL, login.lower(), expect=None):
            raise NotFound(f"SMTP login not found: {login}")

    # -- development

    async def ensure_dev(self, *, secret: str, password: str) -> str:
        """Make what a development run offers, unless it is there; the SMTP login."""
        login = f"postmaster@{DEV_DOMAIN}"
        if await self._directory.get(DOMAIN, DEV_DOMAIN) is None:
            await self.create_domain(DEV_DOMAIN, any_sender=True, sandbox=True)
        wanted = digest_of(secret)
        if not any(key.digest == wanted and not key.revoked for key in await self.keys()):
            await self.create_key(secret=secret, description="development")
        await self.create_credential(login, password)
        return login

    async def _all(self, documents: Identity | Directory, kind: str, type_: type[T]) -> list[T]:
        found: list[T] = []
        after = ""
        while page := await documents.list(kind, after=after, limit=LISTED_MAX):
            found += [msgspec.json.decode(document.value, type=type_) for document in page]
            after = page[-1].id
        return found
