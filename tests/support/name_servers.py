"""A real DNS: nsd serves the zone, unbound resolves it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype

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
    module-config: "iterator"
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
def name_servers(folder: Path, records: str) -> Iterator[NameServers]:
    """Serve the records, lines of a zone file relative to ``test.``, until the block ends."""
    need("nsd", "unbound")
    folder.mkdir(parents=True, exist_ok=True)
    authority, port = free_port(kind=socket.SOCK_DGRAM), free_port(kind=socket.SOCK_DGRAM)
    (folder / "test.zone").write_text(_ZONE + records)
    (folder / "nsd.conf").write_text(_NSD.format(port=authority, folder=folder))
    (folder / "unbound.conf").write_text(_UNBOUND.format(port=port, authority=authority, folder=folder))
    nsd = Daemon(["/usr/sbin/nsd", "-d", "-c", str(folder / "nsd.conf")], folder / "nsd.out")
    unbound = Daemon(["/usr/sbin/unbound", "-d", "-c", str(folder / "unbound.conf")], folder / "unbound.out")
    servers = NameServers(port)
    try:
        until(lambda: _answers(servers), f"nsd and unbound answer\n{nsd.tail()}\n{unbound.tail()}")
        yield servers
    finally:
        unbound.stop()
        nsd.stop()


def _answers(servers: NameServers) -> bool:
    try:
        return servers.ask("ns.test", "A") == ["127.0.0.1"]
    except (OSError, dns.exception.Timeout):
        return False
