"""API keys: found by their secret, from memory.

Looking a secret up by its SHA-256 in a dictionary tells an attacker nothing by its timing: what could be compared
early is a digest that nobody can steer towards another's, and the secret itself is not here. A revoked or deleted key
stops working when the change feed shows it, within some seconds in every worker.

Trust: the secret comes from outside; it is bounded before it is hashed, and never logged.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.domain.tenant import ApiKey, Caller
from pigeonry.ports.feed import POLL_S, Follower
from pigeonry.telemetry.views import tell_of_silence

if TYPE_CHECKING:
    from pigeonry.ports.documents import Change, Identity
    from pigeonry.ports.environment import Clock

__all__ = ["API_KEY", "SECRET_OCTETS_MAX", "KeyRing", "digest_of"]

API_KEY: Final = "api_key"  # the kind in Identity
SECRET_OCTETS_MAX: Final = 256  # ours have 50; whoever brings one of their own has room
_DECODER: Final = msgspec.json.Decoder(ApiKey)
_TELL: Final = tell_of_silence("identity", view="api_keys", consequence="keys stay as they were last known")


def digest_of(secret: str) -> str:
    """What is kept of a secret: SHA-256, hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class KeyRing:
    """All API keys, in memory.

    Args:
        poll_s: Seconds between two looks at the change feed.
    """

    def __init__(self, identity: Identity, clock: Clock, *, poll_s: float = POLL_S) -> None:
        self._clock = clock
        self._follower = Follower(identity, clock, self._apply, poll_s=poll_s)
        self._by_digest: dict[str, tuple[Caller, float]] = {}
        self._digests: dict[str, str] = {}

    def by_secret(self, secret: str) -> Caller | None:
        """Whose key this is; None when it is nobody's, was revoked or has expired. Does no I/O."""
        if not secret or len(secret) > SECRET_OCTETS_MAX:
            return None
        found = self._by_digest.get(digest_of(secret))
        if found is None:
            return None
        caller, expires_at = found
        return None if expires_at and self._clock.now() >= expires_at else caller

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

    def _apply(self, change: Change) -> None:
        if change.kind != API_KEY:
            return
        digest = self._digests.pop(change.id, None)
        if digest is not None:
            self._by_digest.pop(digest, None)
        if change.document is None:
            return
        key = _DECODER.decode(change.document.value)
        if key.revoked:
            return
        self._digests[key.id] = key.digest
        caller = Caller(account=key.account, key=key.id, role=key.role, domain=key.domain)
        self._by_digest[key.digest] = (caller, key.expires_at)
