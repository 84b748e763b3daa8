"""Accounts, sending domains, keys and credentials: the small documents of Identity and Directory."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "Account",
    "ApiKey",
    "Caller",
    "DkimKey",
    "SendingDomain",
    "SmtpCredential",
]


class Account(msgspec.Struct, frozen=True):
    """A tenant. Kind ``account`` in Identity, by id.

    Args:
        hourly, daily: Recipients that it may send to in an hour and in a day, and at once; 0 for any number.
    """

    id: str
    name: str
    created_at: float
    hourly: int = 0
    daily: int = 0


class ApiKey(msgspec.Struct, frozen=True):
    """An API key. Kind ``api_key`` in Identity, by id. The secret itself is not kept.

    Args:
        id: Shown to people and in ``X-Mailgun-Key-Id``: ``8hex-8hex``.
        digest: SHA-256 of the secret, hex. A key has 128 random bits or more, so a plain hash is enough.
        domain: The one domain it may send for; empty for an account key.
        expires_at: Seconds since the Unix epoch, 0.0 for never.
    """

    id: str
    account: str
    digest: str
    created_at: float
    role: Literal["admin", "developer", "support", "basic", "sending"] = "admin"
    domain: str = ""
    description: str = ""
    expires_at: float = 0.0
    revoked: bool = False


class SmtpCredential(msgspec.Struct, frozen=True):
    """An SMTP login. Kind ``smtp_credential`` in Identity, by full address.

    Args:
        login: Full address.
        password: argon2id hash.
    """

    login: str
    account: str
    domain: str
    password: str
    created_at: float


class DkimKey(msgspec.Struct, frozen=True):
    """One DKIM key of a domain.

    Args:
        selector: The label below ``_domainkey``.
        algorithm: ``rsa`` or ``ed25519``.
        sealed: The private key (PKCS#8 DER), sealed.
        public: What the TXT record's ``p=`` holds, base64.
    """

    selector: str
    algorithm: Literal["rsa", "ed25519"]
    sealed: bytes
    public: str
    active: bool = True


class SendingDomain(msgspec.Struct, frozen=True):
    """A domain that mail is sent from. Kind ``domain`` in Directory, by name.

    Args:
        id: 24 hex characters.
        any_sender: Whether From may be anything without a Sender being added (the dev sandbox).
        require_tls, skip_verification: Defaults for its messages.
        pool: Id of the egress pool that its mail leaves by; empty for the default one.
        pools: Further pools that its messages may name.
    """

    id: str
    name: str
    account: str
    created_at: float
    state: Literal["active", "unverified", "disabled"] = "active"
    type: Literal["custom", "sandbox"] = "custom"
    spam_action: Literal["disabled", "tag", "block"] = "disabled"
    wildcard: bool = False
    require_tls: bool = False
    skip_verification: bool = False
    web_prefix: str = "email"
    web_scheme: Literal["http", "https"] = "http"
    dkim: tuple[DkimKey, ...] = ()
    any_sender: bool = False
    pool: str = ""
    pools: tuple[str, ...] = ()

    def may_use(self, pool: str) -> bool:
        """Whether its messages may name that egress pool."""
        return pool == self.pool or pool in self.pools


class Caller(msgspec.Struct, frozen=True):
    """Who is asking, once authenticated.

    Args:
        account: The account's id.
        domain: The only domain this caller may use; empty for all of the account's.
        key: Id of the API key, or the SMTP login.
        role: What it may do.
    """

    account: str
    key: str
    role: str = "admin"
    domain: str = ""
