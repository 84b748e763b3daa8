"""The domains that mail is sent from, in memory, with their signers ready to sign.

Follows the Directory's change feed. A domain's private keys are opened once and kept as parsed keys; where a key cannot
be opened (the node has another sealing key) the domain goes on without a signature, and that is said.

Memory: a domain takes some 4 KB with its sealed key and as much again once it has signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from pigeonry.domain.errors import Fault
from pigeonry.domain.tenant import SendingDomain
from pigeonry.ports.feed import POLL_S, Follower
from pigeonry.protocol.dkim.keys import BadDkimKey, load_private_key
from pigeonry.protocol.dkim.signer import DkimSigner
from pigeonry.telemetry.views import tell_of_silence

if TYPE_CHECKING:
    from pigeonry.domain.tenant import DkimKey
    from pigeonry.ports.documents import Change, Directory
    from pigeonry.ports.environment import Clock
    from pigeonry.protocol.sealing import Seal

__all__ = ["DOMAIN", "DomainBook", "dkim_context"]

DOMAIN: Final = "domain"  # their kind in the Directory
_DECODER: Final = msgspec.json.Decoder(SendingDomain)
_TELL: Final = tell_of_silence("directory", view="domains", consequence="domains stay as they were last known")


def dkim_context(domain: str, selector: str) -> str:
    """What a domain's private key is sealed for: it opens nowhere else."""
    return f"dkim {selector}._domainkey.{domain}"


class DomainBook:
    """All sending domains.

    Args:
        seal: Opens private keys.
        poll_s: Seconds between two looks at the change feed.
    """

    def __init__(self, directory: Directory, clock: Clock, seal: Seal, *, poll_s: float = POLL_S) -> None:
        self._seal = seal
        self._follower = Follower(directory, clock, self._apply, poll_s=poll_s)
        self._domains: dict[str, SendingDomain] = {}
        self._signers: dict[str, tuple[DkimSigner, ...]] = {}

    def get(self, name: str) -> SendingDomain | None:
        """The domain, None when there is none of that name. Does no I/O."""
        return self._domains.get(name) or self._domains.get(name.lower())

    def of(self, account: str) -> list[SendingDomain]:
        """An account's domains, in no particular order. Does no I/O."""
        return [domain for domain in self._domains.values() if domain.account == account]

    def signers(self, name: str) -> tuple[DkimSigner, ...]:
        """Its active signers; none for a domain that is not ours. Parsed at the first call, then from memory."""
        found = self._signers.get(name)
        if found is None:
            domain = self._domains.get(name)
            if domain is None:
                return ()
            signers = (self._signer(domain, key) for key in domain.dkim if key.active)
            found = self._signers[name] = tuple(signer for signer in signers if signer is not None)
        return found

    def stale_s(self) -> float | None:
        """Seconds since memory was last known to be level with the store; None before the first time."""
        return self._follower.stale_s()

    async def refresh(self) -> None:
        """Take in all changes there are now.

        Raises:
            Fault: The Directory cannot be reached.
        """
        await self._follower.refresh()

    async def run(self) -> None:
        """Follow the change feed until cancelled."""
        await self._follower.run(_TELL)

    def _apply(self, change: Change) -> None:
        if change.kind != DOMAIN:
            return
        self._signers.pop(change.id, None)
        if change.document is None:
            self._domains.pop(change.id, None)
        else:
            self._domains[change.id] = _DECODER.decode(change.document.value)

    def _signer(self, domain: SendingDomain, key: DkimKey) -> DkimSigner | None:
        try:
            private = self._seal.open(key.sealed, context=dkim_context(domain.name, key.selector))
            return DkimSigner(domain=domain.name, selector=key.selector, key=load_private_key(private))
        except (Fault, BadDkimKey) as error:
            structlog.get_logger().error(
                "dkim_key_unusable", domain=domain.name, selector=key.selector, reason=str(error)
            )
            return None
