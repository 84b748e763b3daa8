"""The settings of egress sources and pools: a part of ``app.settings``."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from pigeonry.app.section import Section

__all__ = ["EgressPoolSettings", "EgressSettings", "EgressSourceSettings"]

Name = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9._-]+$")]


class EgressSourceSettings(Section, frozen=True):
    """One address that mail may leave from. It is used by the node that has it, one at a time."""

    id: Annotated[Name, Meta(description="Its name: letters, digits, `.`, `_`, `-`.")]
    address: Annotated[
        str,
        Meta(
            min_length=2,
            max_length=45,
            description="IPv4 or IPv6 address. It reaches hosts that have an address of its own family.",
        ),
    ]
    hostname: Annotated[
        str,
        Meta(
            max_length=255,
            description="Name said in EHLO; the address must resolve back to it. Left out: `node.hostname`.",
        ),
    ] = ""
    node: Annotated[
        str, Meta(max_length=63, description="The only node, by name, that may own it. Left out: any that has it.")
    ] = ""
    location: Annotated[
        str, Meta(max_length=63, description="The only location whose nodes may own it. Left out: any.")
    ] = ""


class EgressPoolSettings(Section, frozen=True):
    """Addresses that share the mail of the domains that use the pool."""

    id: Annotated[Name, Meta(description="Its name, as domains and messages name it.")]
    sources: Annotated[
        dict[str, Annotated[int, Meta(ge=1, le=10_000)]],
        Meta(
            min_length=1,
            max_length=256,
            description="Ids of its sources with their weights, `{ out-1 = 3, out-2 = 1 }`.",
        ),
    ]
    on_site_loss: Annotated[
        str,
        Meta(
            max_length=68,
            description="What becomes of mail when no node that can be reached owns any of the addresses: `queue`, it "
            "waits; `pool:ID`, it leaves by that pool; `shared`, by the default pool.",
        ),
    ] = "queue"
    on_site_loss_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="Seconds without an address after which `on_site_loss` holds. Until then mail waits, since the "
            "address may be back, or on another node of the place, in a moment.",
        ),
    ] = 60.0
    on_site_loss_max_age_s: Annotated[
        float,
        Meta(
            ge=0,
            le=30 * 86_400,
            description="Seconds after it was due that mail waits for an address before it fails. 0: until it expires.",
        ),
    ] = 0.0


class EgressSettings(Section, frozen=True):
    """Which addresses mail leaves from. Without any source the system chooses."""

    default_pool: Annotated[
        str,
        Meta(max_length=63, description="Pool of the domains that have none of their own; needed once there is one."),
    ] = ""
    lease_s: Annotated[
        float,
        Meta(
            ge=2,
            le=600,
            description="Seconds after which another node may take an address whose owner is silent.",
        ),
    ] = 30.0
    sources: Annotated[
        tuple[EgressSourceSettings, ...], Meta(max_length=256, description="The addresses, each `[[egress.sources]]`.")
    ] = ()
    pools: Annotated[
        tuple[EgressPoolSettings, ...], Meta(max_length=1_000, description="The pools, each `[[egress.pools]]`.")
    ] = ()
