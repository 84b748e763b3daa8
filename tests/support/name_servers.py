"""A real DNS: nsd serves the zone, unbound resolves it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.dnssec
import dns.message
import dns.name
import dns.query
import dns.rdataset
import dns.rdatatype
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

from support.process import Daemon, free_port, need, until

_NSD = """
server:
    ip-address: 127.0.0.1@{port}
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    database: ""
    logfile: "{folder}/nsd.log"
    pidfile: "{folder}/nsd.pid"
    xfrdfile: "{folder}/xfrd.state"
    zonelistfile: "{folder}/zone.list"
    xfrdir: "{folder}"
remote-control:
    control-enable: no
zone:
    name: test
    zonefile: test.zone
"""

_UNBOUND = """
server:
    interface: 127.0.0.1
    port: {port}
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: "{folder}/unbound.pid"
    use-syslog: no
    do-daemonize: no
    do-not-query-localhost: no
    module-config: "{modules}"
{anchor}
    local-zone: "test." nodefault
    access-control: 127.0.0.0/8 allow
remote-control:
    control-enable: no
stub-zone:
    name: "test"
    stub-addr: 127.0.0.1@{authority}
"""

_ZONE = """$ORIGIN test.
$TTL 60
@ IN SOA ns.test. root.test. 1 3600 600 86400 5
@ IN NS ns.test.
ns IN A 127.0.0.1
"""


class NameServers:
    """Where to ask."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"

    def ask(self, name: str, kind: str) -> list[str]:
        """The records as text."""
        query = dns.message.make_query(name, kind)
        reply = dns.query.udp(query, "127.0.0.1", port=self.port, timeout=2)
        return [item.to_text() for rrset in reply.answer for item in rrset if rrset.rdtype != dns.rdatatype.CNAME]

    def txt(self, name: bytes, timeout: float = 5) -> bytes | None:
        """A TXT record as dkimpy asks for it."""
        query = dns.message.make_query(name.decode(), "TXT")
        reply = dns.query.udp(query, "127.0.0.1", port=self.port, timeout=timeout)
        for rrset in reply.answer:
            for item in rrset:
                return b"".join(item.strings)
        return None


@contextmanager
def name_servers(folder: Path, records: str, *, signed: bool = False, forged: str = "") -> Iterator[NameServers]:
    """Serve the records, lines of a zone file relative to ``test.``, until the block ends.

    Args:
        signed: Whether the zone has DNSSEC, and unbound validates it.
        forged: A record, as ``records`` have it, that is served in a signed zone as if it were its own: all of that name
            and type beside it go, and their signature stays.
    """
    need("nsd", "unbound")
    folder.mkdir(parents=True, exist_ok=True)
    authority, port = free_port(kind=socket.SOCK_DGRAM), free_port(kind=socket.SOCK_DGRAM)
    zone, anchor = _signed(_ZONE + records, forged) if signed else (_ZONE + records, "")
    (folder / "test.zone").write_text(zone)
    (folder / "nsd.conf").write_text(_NSD.format(port=authority, folder=folder))
    (folder / "unbound.conf").write_text(
        _UNBOUND.format(
            port=port,
            authority=authority,
            folder=folder,
            modules="validator iterator" if signed else "iterator",
            anchor=f'    trust-anchor: "{anchor}"' if anchor else "",
        )
    )
    nsd = Daemon(["/usr/sbin/nsd", "-d", "-c", str(folder / "nsd.conf")], folder / "nsd.out")
    unbound = Daemon(["/usr/sbin/unbound", "-d", "-c", str(folder / "unbound.conf")], folder / "unbound.out")
    servers = NameServers(port)
    try:
        until(lambda: _answers(servers), f"nsd and unbound answer\n{nsd.tail()}\n{unbound.tail()}")
        yield servers
    finally:
        unbound.stop()
        nsd.stop()


def _signed(text: str, forged: str) -> tuple[str, str]:
    """The zone with its signatures, and the DS record by which it is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = dns.dnssec.make_dnskey(key.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, flags=257)
    zone = dns.zone.from_text(text, relativize=False)
    dns.dnssec.sign_zone(zone, keys=[(key, public)], lifetime=86_400)
    if forged:
        for name, ttl, record in dns.zone.from_text(_ZONE + forged, relativize=False).iterate_rdatas():
            if record.rdtype not in (dns.rdatatype.SOA, dns.rdatatype.NS) and name != dns.name.from_text("ns.test"):
                zone.replace_rdataset(name, dns.rdataset.from_rdata(ttl, record))
    return zone.to_text(relativize=False), f"test. {dns.dnssec.make_ds('test.', public, 'SHA256').to_text()}".replace(
        "test. ", "test. DS ", 1
    )


def _answers(servers: NameServers) -> bool:
    try:
        return servers.ask("ns.test", "A") == ["127.0.0.1"]
    except (OSError, dns.exception.Timeout):
        return False
