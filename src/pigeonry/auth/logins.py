"""SMTP logins: who has this name and this password?

A first check costs an argon2 verification; its result is kept for some minutes under a keyed hash of login and
password, so that a client that logs in for every message costs microseconds from then on. Wrong pairs are kept too,
for seconds: a misconfigured client that never stops trying costs little. A changed or deleted credential ends what
was kept of it as soon as the change feed shows it.

An unknown login takes as long as a wrong password: both read the store once and verify once.

Trust: both strings come from outside; neither is logged, and what is kept cannot be turned back into them.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import msgspec

from pigeonry.auth.passwords import PASSWORD_OCTETS_MAX
from pigeonry.domain.address import PATH_OCTETS_MAX
from pigeonry.domain.errors import Fault
from pigeonry.domain.tenant import Caller, SmtpCredential
from pigeonry.ports.feed import POLL_S, Follower
from pigeonry.telemetry.views import tell_of_silence

if TYPE_CHECKING:
    from pigeonry.auth.passwords import Passwords
    from pigeonry.ports.documents import Change, Identity
    from pigeonry.ports.environment import Clock, IdSource

__all__ = ["SMTP_CREDENTIAL", "Logins"]

SMTP_CREDENTIAL: Final = "smtp_credential"  # the kind in Identity
SMTP_ROLE: Final = "sending"  # what a login may do: send for its domain, like a domain sending key
RIGHT_KEPT_S: Final = 300.0  # a busy client pays for one verification in five minutes
WRONG_KEPT_S: Final = 30.0  # seconds; a client that repeats a wrong password costs one hash in this time
KEPT_MAX: Final = 10_000  # of each sort, some 200 octets each
_DECODER: Final = msgspec.json.Decoder(SmtpCredential)
_TELL: Final = tell_of_silence("identity", view="smtp_credentials", consequence="logins stay as last known")


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """A result: for which hash it holds (None: there was no such login) and until when, in monotonic seconds."""

    password: str | None
    until: float


class Logins:
    """All SMTP credentials, in memory, and the results of recent checks.

    Args:
        passwords: Verifies.
        poll_s: Seconds between two looks at the change feed.
    """

    def __init__(
        self, identity: Identity, clock: Clock, ids: IdSource, passwords: Passwords, *, poll_s: float = POLL_S
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._passwords = passwords
        self._follower = Follower(identity, clock, self._apply, poll_s=poll_s)
        self._credentials: dict[str, SmtpCredential] = {}
        self._secret = ids.octets(32)
        self._right: dict[bytes, _Kept] = {}
        self._wrong: dict[bytes, _Kept] = {}
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def by_password(self, login: str, password: str) -> Caller | None:
        """Whose login this is; None when the pair is wrong. The login's case does not matter.

        Raises:
            Overloaded: Too many passwords are being verified.
        """
        if not login or len(login) > PATH_OCTETS_MAX or not password or len(password) > PASSWORD_OCTETS_MAX:
            return None
        login = login.lower()
        pair = self._pair(login, password)
        found, caller = self._kept(login, pair)
        if found:
            return caller
        turn = self._turns.setdefault(pair, asyncio.Lock())
        async with turn:  # whoever comes with the same pair meanwhile waits for this one result
            found, caller = self._kept(login, pair)
            return caller if found else await self._check(login, password, pair)

    def stale_s(self) -> float | None:
        """Seconds since memory was last known to be level with the store; None before the first time."""
        return self._follower.stale_s()

    async def refresh(self) -> None:
        """Take in all changes there are now.

        Raises:
            Fault: Identity cannot be reached.
        """
        await self._follower.refresh()

    async def run(self) -> None:
        """Follow the change feed until cancelled."""
        await self._follower.run(_TELL)

    async def _check(self, login: str, password: str, pair: bytes) -> Caller | None:
        credential = await self._current(login)
        kept = None if credential is None else credential.password
        right = await self._passwords.verify(kept, password)
        now = self._clock.monotonic()
        if right:
            _keep(self._right, pair, _Kept(kept, now + RIGHT_KEPT_S))
        else:
            _keep(self._wrong, pair, _Kept(kept, now + WRONG_KEPT_S))
        return _caller(credential) if right and credential is not None else None

    async def _current(self, login: str) -> SmtpCredential | None:
        """The credential as the store has it now; as memory has it when the store cannot be reached."""
        try:
            document = await self._identity.get(SMTP_CREDENTIAL, login)
            credential = None if document is None else _DECODER.decode(document.value)
            if credential != self._credentials.get(login):
                await self.refresh()
        except Fault:
            return self._credentials.get(login)
        return credential

    def _kept(self, login: str, pair: bytes) -> tuple[bool, Caller | None]:
        """Whether a result is kept that still holds, and the result."""
        credential = self._credentials.get(login)
        password = None if credential is None else credential.password
        now = self._clock.monotonic()
        kept = self._right.get(pair)
        if kept is not None and kept.password == password and now < kept.until:
            assert credential is not None
            return True, _caller(credential)
        kept = self._wrong.get(pair)
        return kept is not None and kept.password == password and now < kept.until, None

    def _pair(self, login: str, password: str) -> bytes:
        text = f"{login}\0{password}".encode("utf-8", "surrogatepass")
        return blake2b(text, key=self._secret, digest_size=16).digest()

    def _apply(self, change: Change) -> None:
        if change.kind != SMTP_CREDENTIAL:
            return
        if change.document is None:
            self._credentials.pop(change.id, None)
        else:
            self._credentials[change.id] = _DECODER.decode(change.document.value)


def _caller(credential: SmtpCredential) -> Caller:
    return Caller(account=credential.account, key=credential.login, role=SMTP_ROLE, domain=credential.domain)


def _keep(results: dict[bytes, _Kept], pair: bytes, kept: _Kept) -> None:
    results.pop(pair, None)
    while len(results) >= KEPT_MAX:
        del results[next(iter(results))]
    results[pair] = kept
