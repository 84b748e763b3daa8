"""TLS to a real Postfix with real certificates, by what a signed zone (nsd, unbound) and real policies say of it."""

from __future__ import annotations

import itertools
import os
import smtplib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.certificates import Certificate
from support.name_servers import name_servers
from support.postfix import Postfix, postfix
from support.process import Daemon, free_port, listens, until

ADDRESSES = itertools.count(1)
CONFIG = """
[node]
data = "{folder}/data"
hostname = "sender.test"
workers = 1
drain_grace_s = 0.0
[http]
listen = []
[smtp]
listen = ["127.0.0.1:{smtp}"]
trusted_networks = ["127.0.0.0/8"]
[delivery]
private_networks = ["127.0.0.0/8"]
[dns]
nameservers = ["{dns}"]
[ops]
listen = []
"""
ROOT = Certificate("root", authority=True)
OTHER = Certificate("other", authority=True)
HOSTS = ("plain", "own", "anchor", "bad", "forged")
LEAF = Certificate("mx", issuer=ROOT, names=tuple(f"mx-{host}.test" for host in HOSTS))
DELIVERED = ("plain", "own", "anchor")
KEPT = ("bad", "forged")


def zone(address: str) -> str:
    records = "".join(f"{host} IN MX 10 mx-{host}\nmx-{host} IN A {address}\n" for host in HOSTS)
    for host, record in (
        ("own", LEAF.tlsa(3, 1, 1)),
        ("anchor", ROOT.tlsa(2, 0, 1)),
        ("bad", OTHER.tlsa(3, 1, 1)),
        ("forged", LEAF.tlsa(3, 1, 1)),
    ):
        records += f"_25._tcp.mx-{host} IN TLSA {record.text()}\n"
    return records


@contextmanager
def world(folder: Path) -> Iterator[tuple[int, Postfix, Daemon]]:
    """A node of ours, a signed zone and a receiver; yields the node's SMTP port."""
    address = f"127.26.{os.getpid() % 250 + 1}.{next(ADDRESSES)}"
    smtp = free_port()
    forged = f"_25._tcp.mx-forged IN TLSA {OTHER.tlsa(3, 1, 1).text()}\n"
    receiver = postfix(
        folder / "postfix",
        address=address,
        domain=" ".join(f"{host}.test" for host in HOSTS),
        hostname="mx-plain.test",
        chain=LEAF.write(folder / "mx.pem"),
    )
    with name_servers(folder / "dns", zone(address), signed=True, forged=forged) as names, receiver as running:
        config = folder / "pigeonry.toml"
        config.write_text(CONFIG.format(folder=folder, smtp=smtp, dns=names.address))
        trust = {"SSL_CERT_FILE": str(ROOT.write_alone(folder / "root.pem"))}
        node = Daemon([sys.executable, "-m", "pigeonry", "serve", "--config", str(config)], folder / "node.log", trust)
        try:
            until(lambda: listens("127.0.0.1", smtp), f"the node listens\n{node.tail()}")
            yield smtp, running, node
        finally:
            assert node.stop() == 0, node.tail()


def test_mail_goes_where_records_and_policies_allow_it_and_nowhere_else(tmp_path: Path) -> None:
    with world(tmp_path) as (smtp, receiver, _node):
        with smtplib.SMTP("127.0.0.1", smtp) as client:
            for host in (*KEPT, *DELIVERED):
                client.sendmail("", [f"bob@{host}.test"], f"Subject: {host}\r\n\r\nhello\r\n".encode())
        until(lambda: len(receiver.stored()) == len(DELIVERED), f"Postfix stores what may come\n{receiver.log()}")
        stored = b"".join(receiver.stored()).decode()
        assert stored.count("with ESMTPS") == len(DELIVERED)
        assert [host for host in HOSTS if f"Subject: {host}" in stored] == list(DELIVERED)
