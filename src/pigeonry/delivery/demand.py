"""What is asked of a connection before a message goes over it: by the message, by its recipient's domain, by us.

A demand is met by a connection that stands, or is what a new one is opened for. What DNS says of a single host (its
TLSA records) is no part of it: the opener holds every connection to that, whoever it is for.

Standards: RFC 8461 section 5 (a host that an enforced policy does not allow, or that does not prove its name, gets
nothing), section 2 (DANE goes before it); RFC 8689 (REQUIRETLS, and TLS-Required: No).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.protocol.tls.mta_sts import StsPolicy, allows

if TYPE_CHECKING:
    from pigeonry.delivery.opening import Opened

__all__ = ["ANY_TLS", "NO_POLICY", "DomainTls", "TlsDemand", "combined"]


class DomainTls(msgspec.Struct, frozen=True, gc=False):
    """What is known of how a recipient's domain wants its mail to come.

    Args:
        domain: The domain; empty in ``NO_POLICY``.
        authentic: Whether its MX records are, so that DANE for their hosts vouches for the whole way.
        sts: Its policy, if it has one that holds.
        required, verified: What our own configuration asks for mail to it.
        reports: Where it wants reports to go; none where it wants none, or none are sent.
    """

    domain: str = ""
    authentic: bool = False
    sts: StsPolicy | None = None
    required: bool = False
    verified: bool = False
    reports: tuple[str, ...] = ()

    @property
    def enforced(self) -> StsPolicy | None:
        """Its policy, if mail is not to come otherwise."""
        return self.sts if self.sts is not None and self.sts.mode == "enforce" else None


NO_POLICY: Final = DomainTls()
"""For domains that ask for nothing, which are nearly all."""


class TlsDemand(msgspec.Struct, frozen=True, gc=False):
    """What a message asks of a connection.

    Args:
        required: It must be encrypted.
        verified: Its certificate must match the host; asked only together with ``required``.
        end_to_end: The host must pass the demand on (REQUIRETLS); asked only together with ``verified``.
        lenient: What the recipient's side wants is not to keep the message back (TLS-Required: No).
        policy: What the recipient's domain wants.
    """

    required: bool = False
    verified: bool = False
    end_to_end: bool = False
    lenient: bool = False
    policy: DomainTls = NO_POLICY

    def met_by(self, opened: Opened) -> bool:
        """Whether a connection that stands will do."""
        if opened.lenient and not self.lenient:
            return False
        if not self.required:
            return True
        tls = opened.connection.tls
        if tls is None or (self.verified and not tls.authentic):
            return False
        if self.end_to_end and not opened.connection.capabilities.require_tls:
            return False
        sts = self.sts
        if sts is None or (tls.dane and self.policy.authentic):
            return True
        return tls.verified and allows(sts, opened.host.name)

    @property
    def sts(self) -> StsPolicy | None:
        """The policy that the host must be allowed by."""
        return None if self.lenient else self.policy.enforced


ANY_TLS: Final = TlsDemand()


def combined(demand: TlsDemand, policy: DomainTls) -> TlsDemand:
    """What a message asks, together with what its recipient's domain does."""
    if policy is NO_POLICY:
        return demand
    enforced = policy.enforced is not None and not demand.lenient
    return TlsDemand(
        demand.required or policy.required or enforced,
        demand.verified or policy.verified or enforced,
        demand.end_to_end,
        demand.lenient,
        policy,
    )
