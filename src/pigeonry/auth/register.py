"""Writes accounts, API keys and SMTP logins into Identity.

Secrets are made here, given back once, and kept only as hashes. ``KeyRing`` and ``Logins`` of every worker hear of a
change by the change feed.

Trust: logins and passwords come from API users; both are checked before anything is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from pigeonry.auth.keys import API_KEY, digest_of
from pigeonry.auth.logins import SMTP_CREDENTIAL
from pigeonry.domain.address import domain_of, parse_mailbox
from pigeonry.domain.errors import BadRequest, Conflict
from pigeonry.domain.tenant import Account, ApiKey, SmtpCredential

if TYPE_CHECKING:
    from pigeonry.auth.passwords import Passwords
    from pigeonry.domain.tenant import SendingDomain
    from pigeonry.ports.documents import Identity
    from pigeonry.ports.environment import Clock, IdSource

__all__ = ["ACCOUNT", "PASSWORD_CHARACTERS_MAX", "PASSWORD_CHARACTERS_MIN", "Register", "check_password", "login_for"]

ACCOUNT: Final = "account"  # the kind in Identity
PASSWORD_CHARACTERS_MIN: Final = 5  # as the API promises
PASSWORD_CHARACTERS_MAX: Final = 32  # as the API promises
PAGE: Final = 1000  # documents read at once
_MADE_PASSWORD_OCTETS: Final = 16  # shown as 32 hex characters
T = TypeVar("T")


class Register:
    """Accounts, keys and logins as they are written.

    Args:
        passwords: Hashes passwords.
    """

    def __init__(self, identity: Identity, *, passwords: Passwords, clock: Clock, ids: IdSource) -> None:
        self._identity = identity
        self._passwords = passwords
        self._clock = clock
        self._ids = ids

    async def ensure_account(self, account: str, *, name: str = "") -> None:
        """Make an account unless it is there."""
        if await self._identity.get(ACCOUNT, account) is not None:
            return
        made = Account(id=account, name=name or account, created_at=self._clock.now())
        try:
            await self._identity.put(ACCOUNT, account, msgspec.json.encode(made), expect=0)
        except Conflict:
            return  # another process made it in this moment, which is as good

    async def accounts(self) -> Sequence[Account]:
        """All accounts, by their ids."""
        return await self._all(ACCOUNT, Account)

    async def limit_account(self, account: str, *, hourly: int | None, daily: int | None) -> Account | None:
        """Change an account's limits; None when there is no such account.

        Args:
            hourly, daily: As ``Account`` has them; None for as they are.

        Raises:
            Conflict: Somebody else changed it in this moment.
        """
        held = await self._identity.get(ACCOUNT, account)
        if held is None:
            return None
        was = msgspec.json.decode(held.value, type=Account)
        now = msgspec.structs.replace(
            was, hourly=was.hourly if hourly is None else hourly, daily=was.daily if daily is None else daily
        )
        await self._identity.put(ACCOUNT, account, msgspec.json.encode(now), expect=held.version)
        return now

    # -- keys

    async def create_key(
        self, *, account: str, domain: str = "", description: str = "", secret: str = "", expires_at: float = 0.0
    ) -> tuple[ApiKey, str]:
        """Make an API key; the key and its secret, which is not kept.

        Args:
            domain: The only domain it may send for; empty for a key to all of the account.
            secret: To be used instead of a fresh one (development only).
            expires_at: Seconds since the Unix epoch, 0.0 for never.
        """
        parts = self._ids.octets(24).hex()
        secret = secret or f"{parts[:32]}-{parts[32:40]}-{parts[40:]}"
        shown = self._ids.octets(8).hex()
        key = ApiKey(
            id=f"{shown[:8]}-{shown[8:]}",
            account=account,
            digest=digest_of(secret),
            created_at=self._clock.now(),
            role="sending" if domain else "admin",
            domain=domain,
            description=description,
            expires_at=expires_at,
        )
        await self._identity.put(API_KEY, key.id, msgspec.json.encode(key), expect=0)
        return key, secret

    async def keys(self) -> Sequence[ApiKey]:
        """All keys, by their ids."""
        return await self._all(API_KEY, ApiKey)

    async def delete_key(self, key_id: str) -> bool:
        """Delete a key, which revokes it; whether there was one."""
        return await self._identity.delete(API_KEY, key_id, expect=None)

    # -- logins

    async def put_credential(self, login: str, password: str, *, domain: SendingDomain) -> tuple[SmtpCredential, str]:
        """Make an SMTP login or give it a new password; the credential and its password, which is not kept.

        Args:
            login: From ``login_for``.
            password: A fresh one is made when it is empty.

        Raises:
            BadRequest: The password's length is not allowed.
            Overloaded: Too many passwords are being hashed.
        """
        password = password or self._ids.octets(_MADE_PASSWORD_OCTETS).hex()
        check_password(password)
        held = await self._identity.get(SMTP_CREDENTIAL, login)
        since = self._clock.now()
        if held is not None:
            since = msgspec.json.decode(held.value, type=SmtpCredential).created_at
        credential = SmtpCredential(
            login=login,
            account=domain.account,
            domain=domain.name,
            password=await self._passwords.hash(password),
            created_at=since,
        )
        await self._identity.put(SMTP_CREDENTIAL, login, msgspec.json.encode(credential), expect=None)
        return credential, password

    async def has_credential(self, login: str) -> bool:
        """Whether there is such a login."""
        return await self._identity.get(SMTP_CREDENTIAL, login) is not None

    async def credentials(self, domain: str = "") -> Sequence[SmtpCredential]:
        """SMTP logins in their order, of one domain or all."""
        found = await self._all(SMTP_CREDENTIAL, SmtpCredential)
        return [credential for credential in found if not domain or credential.domain == domain]

    async def delete_credential(self, login: str) -> bool:
        """Delete an SMTP login; whether there was one."""
        return await self._identity.delete(SMTP_CREDENTIAL, login.lower(), expect=None)

    async def forget_domain(self, domain: str) -> None:
        """Delete all that may send for a domain: its logins and its sending keys."""
        for credential in await self.credentials(domain):
            await self.delete_credential(credential.login)
        for key in await self.keys():
            if key.domain == domain:
                await self.delete_key(key.id)

    async def _all(self, kind: str, type_: type[T]) -> list[T]:
        found: list[T] = []
        after = ""
        while page := await self._identity.list(kind, after=after, limit=PAGE):
            found += [msgspec.json.decode(document.value, type=type_) for document in page]
            after = page[-1].id
        return found


def login_for(text: str, *, domain: str) -> str:
    """The full address of a login, given as such or as its local part, in lower case.

    Raises:
        BadAddress: It is no address.
        BadRequest: It belongs to another domain.
    """
    login = parse_mailbox(text if "@" in text else f"{text}@{domain}").lower()
    if domain_of(login) != domain:
        raise BadRequest(f"The login is not an address at {domain}.")
    return login


def check_password(password: str) -> None:
    """See that a password is one that may be set.

    Raises:
        BadRequest: It is too short, too long, or holds what cannot be typed into a login.
    """
    if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise BadRequest(f"A password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters.")
    if not password.isprintable():
        raise BadRequest("A password has no control characters.")
