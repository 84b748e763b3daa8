"""What may be set about the SMTP door, with every bound of it."""

from __future__ import annotations

import msgspec

from pigeonry.protocol.smtp.service import Limits

__all__ = ["SmtpDoorConfig"]


class SmtpDoorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The SMTP door of one worker.

    Args:
        hostname: Our name, in the greeting, EHLO and Received.
        limits: What one session may do.
        trusted_networks: Networks (CIDR) whose clients may relay without a login. Never everybody.
        relay_account: The account that pays for relayed mail whose domain is none of ours.
        allow_plain_auth: Offer AUTH without TLS as well: for loopback and development only.
        connections_max: Connections at a time.
        connections_per_client_max: Of them from one address (IPv6: one /64); trusted networks are exempt.
        octets_in_flight_max: Octets of messages that were received and wait for their commit. Over it, MAIL is
            answered 451: sessions that are past MAIL may still add ``data.HELD_OCTETS_MAX`` each.
        accept_s: Seconds within which a message is committed or refused with 451.
        idle_s: Seconds a client may be silent; RFC 5321 section 4.5.3.2.7 asks for 5 minutes.
        session_s: Seconds a connection may last; whoever has more to say connects again.
        handshake_s: Seconds for a TLS handshake.
    """

    hostname: str
    limits: Limits = Limits()
    trusted_networks: tuple[str, ...] = ()
    relay_account: str = "relay"
    allow_plain_auth: bool = False
    connections_max: int = 2_000
    connections_per_client_max: int = 100
    octets_in_flight_max: int = 67_108_864
    accept_s: float = 20.0
    idle_s: float = 300.0
    session_s: float = 3_600.0
    handshake_s: float = 15.0
