"""A cluster for a drill: Cassandra, pigeonry nodes in one or more locations, and where their mail goes."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.drills.addresses import Addresses
from pigeonry.drills.balancer import Balancer
from pigeonry.drills.clients import HttpClient, SmtpClient
from pigeonry.drills.load import Door
from pigeonry.drills.node import Node, free_port
from pigeonry.drills.receiver import Misbehaviour, Receiver
from pigeonry.testing.cassandra import Cluster, CommitLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pigeonry.ports.environment import Clock, Dice
    from pigeonry.testing.cassandra import Node as CassandraNode
    from pigeonry.testing.cassandra import Parts

__all__ = ["DOMAIN", "KEYSPACE", "RECEIVER_DOMAIN", "Plan", "Site"]

DOMAIN: Final = "sender.test"
RECEIVER_DOMAIN: Final = "dest.test"
KEYSPACE: Final = "drill"
LEASES: Final = "drill_lease"
IN_DOUBT_S: Final = 5.0  # seconds; doubts are cleared within the drill
WITNESS: Final = "witness"  # a location without nodes of ours, and without mail
OCTETS: Final = 1_024  # of a message's text

CONFIG: Final = """
[node]
name = "{name}"
location = "{location}"
data = "{folder}/data"
hostname = "{name}.drill.test"
workers = 1
drain_grace_s = 3.0
[http]
listen = ["{host}:{http}"]
[smtp]
listen = ["{host}:{smtp}"]
trusted_networks = ["127.0.0.0/8"]
[delivery]
route = "smtp://127.0.0.1:{receiver}"
retry_base_s = 1.0
retry_cap_s = 5.0
in_doubt_delay_s = {in_doubt}
[edge]
proxy_protocol_from = ["127.0.0.1/32"]
[ops]
listen = ["{host}:{ops}"]
[log]
level = "warning"
[store]
engine = "cassandra"
[cassandra]
contact_points = [{points}]
local_datacenter = "{location}"
keyspace = "{keyspace}"
lease_keyspace = "{leases}"
replication = {{ {replication} }}
lease_replication = {{ {lease_replication} }}
{egress}"""


class Plan(msgspec.Struct, frozen=True):
    """What is built.

    Args:
        locations: How many Cassandra nodes each has; one called ``witness`` holds leases only.
        nodes: pigeonry nodes in each of the other locations, of one worker each.
    """

    locations: Mapping[str, int]
    nodes: int = 2
    misbehaviour: Misbehaviour = Misbehaviour()


class Site:
    """Build it with ``start``; ``stop`` leaves nothing behind.

    Args:
        certificate: PEM, chain and key, that the balancers show.
    """

    def __init__(self, plan: Plan, folder: Path, parts: Parts, *, certificate: Path, clock: Clock, dice: Dice) -> None:
        self._plan = plan
        self._certificate = certificate
        self._folder = folder
        self._dice = dice
        self._clock = clock
        # One replica a location, and it is killed: what it confirms has to be in its log then. With the default it
        # confirms up to 0.1 s before a kill can no longer take it back, and 10 s before a loss of power cannot.
        self.cluster = Cluster(folder / "cassandra", parts, plan.locations, clock=clock, commit_log=CommitLog.GROUP)
        self._network = self.cluster.nodes[0].seat.address.rpartition(".")[0]
        self.receiver = Receiver(dice, plan.misbehaviour)
        self.nodes: dict[str, Node] = {}
        self.hosts: dict[str, str] = {}
        self._places: dict[str, str] = {}
        names = [f"node{number + 1}" for number in range(plan.nodes * len(self._mail_locations()))]
        self.addresses = Addresses(
            self._network,
            {
                location: names[place * plan.nodes : (place + 1) * plan.nodes]
                for place, location in enumerate(self._mail_locations())
            },
        )
        self.balancers: dict[str, list[Balancer]] = {}
        """The pair of each location."""
        self._fronts = {door: free_port(dice) for door in ("80", "443", "587", "465")}
        self.http, self.smtp, self.ops = free_port(dice), free_port(dice), free_port(dice)
        self.key = ""

    async def start(self) -> None:
        """All of it, until every node takes mail."""
        await self.cluster.start()
        receiver = await self.receiver.start("127.0.0.1")
        for location in self._mail_locations():
            for _ in range(self._plan.nodes):
                self._add_node(location, receiver)
        first, *others = self.nodes.values()
        await first.command("migrate")
        await self.cluster.agreed()
        await first.command("domain", "add", DOMAIN)
        if len(self._mail_locations()) > 1:
            also = [word for pool in self.addresses.dedicated() for word in ("--also", pool)]
            await first.command("domain", "pool", DOMAIN, "shared", *also)
        self.key = str((await first.command("key", "create"))["key"])
        folders = [self._folder / name for name in self.nodes]
        for folder in folders[1:]:
            shutil.copy(folders[0] / "data.seal-key", folder / "data.seal-key")
        await asyncio.gather(*(node.start() for node in (first, *others)))
        for location in self._mail_locations():
            self.balancers[location] = [self._balancer(location, number) for number in range(2)]
        await asyncio.gather(*(each.start() for pair in self.balancers.values() for each in pair))

    async def stop(self) -> None:
        """End what runs."""
        for pair in self.balancers.values():
            for each in pair:
                await each.die()
        for node in self.nodes.values():
            await node.die()
        self.cluster.stop()
        await self.receiver.stop()

    def doors(self) -> Sequence[Door]:
        """The balancers' addresses, as DNS has them: of all locations in turn."""
        who = f"a@{DOMAIN}"
        hosts = [each.address for turn in zip(*self.balancers.values(), strict=True) for each in turn]
        http = HttpClient(domain=DOMAIN, key=self.key, reverse_path=who, octets=OCTETS)
        smtp = SmtpClient(reverse_path=who, octets=OCTETS)
        return [
            Door(http, [(host, self._fronts["443"]) for host in hosts], _unknown()),
            Door(smtp, [(host, self._fronts["587"]) for host in hosts]),
        ]

    async def owners(self) -> dict[int, str]:
        """Which node serves each shard, as the leases say; empty for one that nobody serves."""
        answering = next(node for node in self.cluster.nodes if node.pid is not None)
        cql = f"SELECT number, owner, serving FROM {LEASES}.shard"  # noqa: S608  # the drill's own
        rows = await answering.rows(cql)
        found = {}
        for number, owner, serving in rows:
            at = int.from_bytes(number or b"", signed=True)
            if at >= 0:  # the row before says how many there are
                found[at] = (owner or b"").decode().partition("/")[0] if serving == b"\1" else ""
        return found

    def at(self, location: str) -> list[str]:
        """The names of its nodes."""
        return [name for name, where in self._places.items() if where == location]

    def store_of(self, name: str) -> CassandraNode | None:
        """The node of Cassandra on a node's host: a location's first node has its first one, and so on."""
        location = self._places[name]
        stores = [each for each in self.cluster.nodes if each.seat.location == location]
        return dict(zip(self.at(location), stores, strict=False)).get(name)

    def folder(self, name: str) -> Path:
        """Where a node's data are."""
        return self._folder / name / "data"

    def door(self, location: str, options: Mapping[str, str]) -> Door:
        """The API at the balancers of one location, for messages with such options."""
        client = HttpClient(domain=DOMAIN, key=self.key, reverse_path=f"a@{DOMAIN}", octets=OCTETS, options=options)
        port = self._fronts["443"]
        return Door(client, [(each.address, port) for each in self.balancers[location]], _unknown())

    def _mail_locations(self) -> list[str]:
        return [location for location in self._plan.locations if location != WITNESS]

    def _balancer(self, location: str, number: int) -> Balancer:
        place = self._mail_locations().index(location)
        return Balancer(
            self._folder,
            f"{self._network}.{201 + 10 * place + number}",
            fronts=self._fronts,
            nodes=[self.hosts[name] for name in self.at(location)],
            ports={"8080": self.http, "587": self.smtp, "9180": self.ops},
            certificate=self._certificate,
            clock=self._clock,
        )

    def _add_node(self, location: str, receiver: int) -> None:
        number = len(self.nodes) + 1
        name, host = f"node{number}", f"{self._network}.{100 + number}"
        folder = self._folder / name
        folder.mkdir()
        locations = self._plan.locations
        config = folder / "pigeonry.toml"
        config.write_text(
            CONFIG.format(
                name=name,
                location=location,
                folder=folder,
                host=host,
                http=self.http,
                smtp=self.smtp,
                ops=self.ops,
                receiver=receiver,
                in_doubt=IN_DOUBT_S,
                points=", ".join(f'"{point}"' for point in self.cluster.contact_points(location)),
                keyspace=KEYSPACE,
                leases=LEASES,
                replication=_toml({each: locations[each] for each in self._mail_locations()}),
                lease_replication=_toml(locations),
                egress=self.addresses.toml() if len(self._mail_locations()) > 1 else "",
            )
        )
        self.nodes[name] = Node(config, self.smtp, self._clock, {}, host=host)
        self.hosts[name] = host
        self._places[name] = location


def _unknown() -> ssl.SSLContext:
    """Who it is is not what is tried here."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _toml(replication: Mapping[str, int]) -> str:
    return ", ".join(f"{location} = {min(3, nodes)}" for location, nodes in replication.items())
