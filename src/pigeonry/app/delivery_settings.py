"""The settings of how mail leaves: a part of ``app.settings``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pigeonry.app.section import Section

__all__ = ["DeliverySettings", "TlsDestination"]


class TlsDestination(Section, frozen=True):
    """What is asked of the mail servers of some domains."""

    domain: Annotated[
        str,
        Meta(
            pattern=r"^(?:\*|(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9])?)$",
            description="The recipients' domain; `*.` and a domain for all below it; `*` for all others.",
        ),
    ]
    require: Annotated[
        Literal["encrypt", "verify"],
        Meta(description="`encrypt`: nothing goes in clear. `verify`: the certificate must be the server's as well."),
    ]


class DeliverySettings(Section, frozen=True):
    """How mail leaves."""

    route: Annotated[
        str,
        Meta(
            min_length=1,
            description='`"mx"`: by the MX records of the recipient\'s domain. `"smtp://host:port"`: everything to '
            "this host.",
        ),
    ] = "mx"
    private_networks: Annotated[
        tuple[str, ...],
        Meta(
            max_length=64,
            description="Networks (CIDR) that MX records may lead to although they are not public, such as "
            "`10.0.0.0/8`. Empty by default: anyone's DNS could name a host inside. A smarthost may be anywhere.",
        ),
    ] = ()
    tls_required: Annotated[
        tuple[TlsDestination, ...],
        Meta(
            max_length=1000,
            description="Tables `[[delivery.tls_required]]`: domains to which nothing goes without TLS, whatever they "
            "publish. The first that fits best holds.",
        ),
    ] = ()
    connections_per_site_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Most connections of all workers together to one site (all domains with the same MX).",
        ),
    ] = 40
    connections_max: Annotated[
        int, Meta(ge=1, le=10_000, description="Most outgoing connections of one worker over all sites.")
    ] = 500
    messages_per_connection_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Messages sent over one connection before it is closed.")
    ] = 1000
    connect_timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="Seconds to wait for a connection to be made.")
    ] = 30.0
    reply_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Seconds to wait for the reply to a command (RFC 5321 section 4.5.3.2 asks for 300).",
        ),
    ] = 300.0
    final_reply_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Seconds to wait for the reply after the final dot (RFC 5321 asks for 600). When it does not "
            "come the attempt is in doubt.",
        ),
    ] = 600.0
    retry_base_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Seconds to the first retry; each further one waits twice as long.")
    ] = 300.0
    retry_cap_s: Annotated[float, Meta(gt=0, le=86_400, description="Most seconds between two attempts.")] = 14_400.0
    expire_s: Annotated[
        float,
        Meta(
            gt=0,
            le=30 * 86_400,
            description="Seconds after which what is still not delivered fails for good (counted from `o:deliverytime` "
            "where that was given).",
        ),
    ] = 3 * 86_400.0
    in_doubt_delay_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="Seconds before an attempt whose final reply was lost is made again, flagged as a possible "
            "duplicate.",
        ),
    ] = 600.0
