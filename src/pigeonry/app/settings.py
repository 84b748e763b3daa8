"""Every setting of a node, with its unit, its default and its limits.

The structs here are the only place where a setting is described: ``pigeonry config schema``, the reference page
docs/reference/settings.md and the checks of ``pigeonry.app.config`` all read them. No secret ever stands in the
configuration, only the path of a file that holds one.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pigeonry.app.delivery_settings import DeliverySettings
from pigeonry.app.egress_settings import EgressSettings
from pigeonry.app.section import Section

__all__ = [
    "MESSAGE_OCTETS_MAX",
    "NODE_NAME",
    "SHARDS_MAX",
    "CassandraSettings",
    "ClusterSettings",
    "DeliverySettings",
    "DnsSettings",
    "EdgeSettings",
    "HttpSettings",
    "LogSettings",
    "NodeSettings",
    "OpsSettings",
    "RetentionSettings",
    "Settings",
    "SmtpSettings",
    "TlsSettings",
]

SHARDS_MAX: Final = 1024  # a message key has 16 bits for the shard; more files than this cost recovery time for nothing
MIB: Final = 1024 * 1024
MESSAGE_OCTETS_MAX: Final = 25 * MIB  # what the messages API promises

_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
NODE_NAME: Final = rf"(?=.{{1,64}}\Z){_LABEL}(\.{_LABEL})*"  # a name that a certificate can carry, and a file

Port = Annotated[str, Meta(min_length=3, max_length=300)]
Addresses = tuple[Port, ...]


class NodeSettings(Section, frozen=True):
    """This machine."""

    name: Annotated[
        str,
        Meta(
            max_length=64,
            description="Name among the nodes of a cluster, at most 64 lower case letters, digits, hyphens and dots. "
            "Its certificate carries it, and it stays as long as the node. Left out: `hostname`.",
        ),
    ] = ""
    location: Annotated[
        str,
        Meta(
            max_length=64,
            description="Where the node stands, such as a data centre: nodes of one location may fail together.",
        ),
    ] = ""
    data: Annotated[
        str,
        Meta(
            min_length=1,
            description="Folder of queue, bodies, events and directory. Left out: `$STATE_DIRECTORY` as systemd sets "
            "it, else `/var/lib/pigeonry`.",
        ),
    ] = ""
    hostname: Annotated[
        str,
        Meta(
            max_length=255,
            description="Name said in greeting, EHLO and Received. Left out: the machine's own full name.",
        ),
    ] = ""
    workers: Annotated[
        int,
        Meta(
            ge=0,
            le=256,
            description="Worker processes. 0: one for each usable core, at most a quarter of `shards`.",
        ),
    ] = 0
    shards: Annotated[
        int,
        Meta(
            ge=1,
            le=SHARDS_MAX,
            description="Shards that the queue is split into. At least four times the most workers ever expected; "
            "workers may change at any time, shards may only grow.",
        ),
    ] = 32
    sealing_key: Annotated[
        str,
        Meta(
            description="File with the key that seals private keys at rest; made with a new data folder. Left out: "
            "the systemd credential `pigeonry-seal`, else `DATA.seal-key` beside the data folder, never in it."
        ),
    ] = ""
    drain_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Seconds that a stopping worker may take for the requests and SMTP transactions under way, and "
            "as many again for deliveries; then connections are closed. Nothing acknowledged is lost either way.",
        ),
    ] = 30.0
    drain_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=300,
            description="Seconds that a node which is told to stop goes on taking everything while `/readyz` says 503, "
            "so that balancers send no more before the doors close: more than their checks take to notice. A second "
            "signal ends it at once.",
        ),
    ] = 5.0


class HttpSettings(Section, frozen=True):
    """The HTTP API."""

    listen: Annotated[
        Addresses, Meta(max_length=16, description="Addresses for plain HTTP, each `host:port`. An empty list: none.")
    ] = ("127.0.0.1:8080",)
    tls_listen: Annotated[
        Addresses, Meta(max_length=16, description="Addresses for HTTPS; needs the certificate of section `tls`.")
    ] = ()
    message_octets_max: Annotated[
        int, Meta(ge=1024, le=1024 * MIB, description="Most octets of one message request, attachments included.")
    ] = MESSAGE_OCTETS_MAX
    connections_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Most requests one worker works on at a time; over it 503 is answered.")
    ] = 2000
    keep_alive_s: Annotated[
        float, Meta(ge=1, le=600, description="Seconds that an idle connection is kept for the next request.")
    ] = 75.0


class SmtpSettings(Section, frozen=True):
    """SMTP submission and relay."""

    listen: Annotated[
        Addresses,
        Meta(max_length=16, description="Addresses for SMTP (STARTTLS is offered when there is a certificate)."),
    ] = ("127.0.0.1:2525",)
    tls_listen: Annotated[
        Addresses, Meta(max_length=16, description="Addresses for SMTP inside TLS; needs a certificate.")
    ] = ()
    trusted_networks: Annotated[
        tuple[str, ...],
        Meta(
            max_length=64,
            description="Networks (CIDR) that may relay without a login. Empty by default; `0.0.0.0/0` and `::/0` "
            "are refused.",
        ),
    ] = ()
    message_octets_max: Annotated[
        int, Meta(ge=1024, le=1024 * MIB, description="Most octets of one message: the SIZE that EHLO announces.")
    ] = MESSAGE_OCTETS_MAX
    recipients_max: Annotated[
        int, Meta(ge=100, le=10_000, description="Most recipients of one transaction (RFC 5321 asks for 100).")
    ] = 1000
    connections_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Most connections of one worker; over it 421 is answered.")
    ] = 2000
    idle_s: Annotated[
        float, Meta(ge=5, le=3600, description="Seconds a client may take for a command (RFC 5321 asks for 300).")
    ] = 300.0


class EdgeSettings(Section, frozen=True):
    """Balancers and gateways in front of the doors."""

    proxy_protocol_from: Annotated[
        tuple[str, ...],
        Meta(
            max_length=64,
            description="Networks (CIDR) of balancers whose connections to the HTTP and SMTP doors begin with a PROXY "
            "protocol header, version 1 or 2. From there it must come, or the connection is closed; from elsewhere "
            "none is read. The address it gives counts as the client's everywhere. Everybody is refused.",
        ),
    ] = ()
    forwarded_from: Annotated[
        tuple[str, ...],
        Meta(
            max_length=64,
            description="Networks (CIDR) of HTTP gateways whose `X-Forwarded-For`, `-Proto` and `-Host` are believed; "
            "from elsewhere the three mean nothing. The client is the rightmost address that is none of these. "
            "Everybody is refused.",
        ),
    ] = ()


class TlsSettings(Section, frozen=True):
    """The certificate that all doors present. TLS 1.2 is the least that is spoken."""

    cert: Annotated[str, Meta(description="PEM file with the certificate and its chain; read again at SIGHUP.")] = ""
    key: Annotated[str, Meta(description="PEM file with the private key; read again at SIGHUP.")] = ""


class ClusterSettings(Section, frozen=True):
    """How the nodes of a cluster command each other. A node alone needs nothing here.

    TLS 1.3, and each node shows a certificate of the cluster's own authority that names it: `pigeonry cluster certs
    make` makes them.
    """

    listen: Annotated[
        Addresses,
        Meta(
            max_length=4, description="Addresses for the commands of other nodes, each `host:port`. Keep them private."
        ),
    ] = ()
    advertise: Annotated[
        str,
        Meta(
            max_length=300,
            description="`host:port` by which other nodes reach this one. Left out: the first of `listen`.",
        ),
    ] = ""
    ca: Annotated[
        str,
        Meta(
            description="PEM file with the certificate of the cluster's authority, or with two while one follows the "
            "other; read again at SIGHUP, as are the next two."
        ),
    ] = ""
    cert: Annotated[
        str, Meta(description="PEM file with this node's certificate; its subject alternative names the node.")
    ] = ""
    key: Annotated[str, Meta(description="PEM file with its private key, without a passphrase.")] = ""


class DnsSettings(Section, frozen=True):
    """Name resolution."""

    nameservers: Annotated[
        tuple[str, ...],
        Meta(max_length=8, description="Addresses of resolvers, `ip` or `ip:port`. Empty: those of /etc/resolv.conf."),
    ] = ()
    timeout_s: Annotated[float, Meta(gt=0, le=60, description="Seconds after which a query has failed for now.")] = 5.0
    trusted: Annotated[
        Literal["loopback", "always", "never"],
        Meta(
            description="When the resolvers are believed that DNSSEC vouches for an answer, on which DANE rests: they "
            "must validate, with nobody between them and us. `loopback`: if all of them are on loopback."
        ),
    ] = "loopback"


Keyspace = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
Replication = Annotated[
    dict[
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")],
        Annotated[int, Meta(ge=1, le=9)],
    ],
    Meta(max_length=9),
]


class StoreSettings(Section, frozen=True):
    """Where the queue, its events and the directory are kept."""

    engine: Annotated[
        Literal["sqlite", "cassandra"],
        Meta(
            description="`sqlite`: in files of the data folder, for one node. `cassandra`: in the store of a cluster, "
            "which several nodes share; see `cassandra`."
        ),
    ] = "sqlite"


class CassandraSettings(Section, frozen=True):
    """The store of a cluster: Apache Cassandra 5. `pigeonry migrate` makes its keyspaces and tables."""

    contact_points: Annotated[
        Addresses,
        Meta(
            max_length=32,
            description="Some nodes of this location, each `host:port`, all with the same port; the others are learnt "
            "from them.",
        ),
    ] = ()
    local_datacenter: Annotated[
        str, Meta(max_length=64, description="This location, as Cassandra calls the data centre.")
    ] = ""
    keyspace: Annotated[Keyspace, Meta(description="Keyspace of the queue and its events.")] = "pigeonry"
    lease_keyspace: Annotated[
        Keyspace,
        Meta(
            description="Keyspace of what must be the same everywhere: who owns which part of the queue, shares of "
            "limits, accounts, domains."
        ),
    ] = "pigeonry_lease"
    replication: Annotated[
        Replication,
        Meta(
            description="On how many nodes of each location a row of `keyspace` stands, such as `{dc1 = 3, dc2 = 3}`. "
            "For `pigeonry migrate`; later it is changed with ALTER KEYSPACE and a repair."
        ),
    ] = msgspec.field(default_factory=dict)
    lease_replication: Annotated[
        Replication,
        Meta(
            description="The same for `lease_keyspace`. With two locations it needs a third that only witnesses, "
            "such as `{dc1 = 2, dc2 = 2, witness = 1}`: then either may die and exactly one keeps its leases. Without "
            "a witness a person decides, by `pigeonry location takeover`. Left out: as `replication`."
        ),
    ] = msgspec.field(default_factory=dict)
    durability: Annotated[
        Literal["local", "remote-ack"],
        Meta(
            description="When a message is acknowledged. `local`: on a quorum of this location; when a whole location "
            "is lost, its last moments come back with it: late, or never if it never returns. `remote-ack`: on a "
            "quorum of each location; nothing acknowledged is lost with one, and nothing is accepted while one is away."
        ),
    ] = "local"
    username: Annotated[str, Meta(max_length=255, description="Who we are to Cassandra. Left out: no login.")] = ""
    password_file: Annotated[str, Meta(description="File with the password, on one line.")] = ""
    tls_ca: Annotated[
        str,
        Meta(
            description="PEM file with the authorities that may sign the nodes' certificates, which must name the "
            "nodes' addresses. Left out: no TLS."
        ),
    ] = ""
    tls_cert: Annotated[str, Meta(description="PEM file with the certificate that we show the nodes, if any.")] = ""
    tls_key: Annotated[str, Meta(description="PEM file with its private key.")] = ""


class RetentionSettings(Section, frozen=True):
    """How long things are kept."""

    events_days: Annotated[
        int, Meta(ge=1, le=3650, description="Days that events and message bodies stay readable.")
    ] = 7


class OpsSettings(Section, frozen=True):
    """For operators and their machines."""

    listen: Annotated[
        Addresses,
        Meta(
            max_length=4,
            description="Addresses of `/livez`, `/readyz` and `/metrics`. They ask for no login: keep them private.",
        ),
    ] = ("127.0.0.1:9180",)


class LogSettings(Section, frozen=True):
    """What is written to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least level that is written.")
    ] = "info"
    format: Annotated[
        Literal["json", "human"], Meta(description="One JSON object a line, or text for a person at a terminal.")
    ] = "json"


class RuleBookSettings(Section, frozen=True):
    """What is known of receiving providers, over what comes with the program."""

    files: Annotated[
        tuple[str, ...],
        Meta(
            max_length=100,
            description="TOML files, each about one provider: it takes the place of all that is known of it.",
        ),
    ] = ()


class Settings(Section, frozen=True):
    """The whole configuration: one TOML table for each section."""

    node: NodeSettings = NodeSettings()
    http: HttpSettings = HttpSettings()
    smtp: SmtpSettings = SmtpSettings()
    edge: EdgeSettings = EdgeSettings()
    tls: TlsSettings = TlsSettings()
    cluster: ClusterSettings = ClusterSettings()
    delivery: DeliverySettings = DeliverySettings()
    egress: EgressSettings = EgressSettings()
    rulebook: RuleBookSettings = RuleBookSettings()
    dns: DnsSettings = DnsSettings()
    store: StoreSettings = StoreSettings()
    cassandra: CassandraSettings = CassandraSettings()
    retention: RetentionSettings = RetentionSettings()
    ops: OpsSettings = OpsSettings()
    log: LogSettings = LogSettings()
