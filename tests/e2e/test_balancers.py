"""Two nodes behind two balancers, as shipped: nothing fails when one of either goes."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pigeonry.app.tls import make_self_signed
from support.balancers import Balancer, Load
from support.process import free_port, need, until
from support.serving import Receiver, Serving

NODES = ("127.0.0.11", "127.0.0.12")
BALANCERS = ("127.0.0.21", "127.0.0.22")
CLIENT = "127.0.0.77"
GRACE_S = 6.0  # well over the second in which a check of the shipped file notices, on a busy machine too

pytestmark = pytest.mark.real


class Site(NamedTuple):
    nodes: list[Serving]
    balancers: list[Balancer]
    receiver: Receiver
    key: str


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    need("haproxy")
    cert, key, pem = (tmp_path / name for name in ("cert.pem", "key.pem", "both.pem"))
    make_self_signed(cert, key, names=("node.test",), now=time.time())
    pem.write_text(cert.read_text() + key.read_text())
    receiver = Receiver()
    smtps = free_port()
    nodes: list[Serving] = []
    balancers: list[Balancer] = []
    try:
        for number, address in enumerate(NODES):
            folder = tmp_path / f"node{number + 1}"
            folder.mkdir()
            node = Serving(
                folder,
                workers=1,
                receiver=receiver.port,
                grace_s=GRACE_S,
                host=address,
                like=nodes[0] if nodes else None,
                smtp_more=f'tls_listen = ["{address}:{smtps}"]',
                more=f'[tls]\ncert = "{cert}"\nkey = "{key}"\n[edge]\nproxy_protocol_from = ["127.0.0.1/32"]\n',
            )
            nodes.append(node)
        nodes[0].command("domain", "add", "ours.test")
        secret = str(nodes[0].command("key", "create")["key"])
        shutil.copytree(nodes[0].folder / "data", nodes[1].folder / "data")  # keys and domains are the same on both
        shutil.copy(nodes[0].folder / "data.seal-key", nodes[1].folder / "data.seal-key")
        for node in nodes:
            node.start()
        ports = {"8080": nodes[0].http, "587": nodes[0].smtp, "465": smtps, "9180": nodes[0].ops}
        for address in BALANCERS:
            balancers.append(Balancer(tmp_path, address, nodes=NODES, ports=ports, certificate=pem))
            balancers[-1].start()
        for balancer in balancers:
            until(lambda balancer=balancer: balancer.sees("UP", "UP"), "both nodes are up")
        yield Site(nodes, balancers, receiver, secret)
    finally:
        for balancer in balancers:
            balancer.daemon.stop(signal.SIGKILL)
        for node in nodes:
            if node.daemon is not None:
                node.daemon.stop(signal.SIGKILL)
        receiver.stop()


def test_a_node_restarts_and_a_balancer_dies_and_no_message_fails(site: Site) -> None:
    nodes, balancers, receiver, key = site
    load = Load(balancers, source=CLIENT, key=key, domain="ours.test")
    with load.running(requests=2, sessions=2, submissions=1):
        until(lambda: all(load.sent(balancer) > 5 for balancer in balancers), "both balancers carry load")

        command = [sys.executable, "-m", "pigeonry", "node", "drain", "--wait", "--config", str(nodes[0].config)]
        with subprocess.Popen(command) as drain:
            for balancer in balancers:
                until(lambda balancer=balancer: balancer.sees("NOLB", "UP"), "it sends the node nothing new")
            assert not nodes[0].said("draining"), "the doors closed before the balancers had noticed"
            assert drain.wait(60) == 0
        assert nodes[0].wait() == 0
        for balancer in balancers:
            until(lambda balancer=balancer: balancer.sees("DOWN", "UP"), "it sees that the node is gone")
        nodes[0].start()
        for balancer in balancers:
            until(lambda balancer=balancer: balancer.sees("UP", "UP"), "it sends to the node again")

        dead, other = balancers
        reloaded, before = other.reload(), load.sent(other)
        until(lambda: load.sent(other) > before + 50, "its successor carries load")
        assert load.failures == []

        theirs = load.clients_of(dead)
        dead.daemon.process.kill()
        dead.daemon.process.wait()
        before = load.sent(other)
        until(lambda: load.sent(other) > before + 100, "all clients go on by the other balancer")
    assert reloaded.process.wait(10) == 0
    assert all(f"by {dead.address}: " in failure for failure in load.failures), load.failures
    assert load.failed.keys() <= theirs, "who was at the other lost nothing"
    # Its connection, and one that it begins while the system still has the listener of the dead.
    assert max(load.failed.values(), default=0) <= 2, load.failures
    until(lambda: not load.acknowledged.keys() - receiver.by_recipient.keys(), "all that was acknowledged is delivered")
    assert {receiver.by_recipient[recipient] for recipient in load.acknowledged} == {1}
    trace = f"Received: from client.test ([{CLIENT}])".encode()
    assert sum(trace in text for text in receiver.texts) >= sum("smtp" in name for name in load.acknowledged)
    until(lambda: originating(other, key) == {CLIENT}, "the events name the client and not the balancer")


def originating(balancer: Balancer, key: str) -> set[str]:
    """Whom the first events of requests, as one of the nodes has them, name as the client."""
    query = urllib.parse.urlencode({"event": "accepted", "begin": "0", "ascending": "yes"})
    address = f"https://{balancer.address}:{balancer.fronts['443']}/v3/ours.test/events?{query}"
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    passwords.add_password(None, address, "api", key, is_authenticated=True)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.HTTPBasicAuthHandler(passwords)
    )
    with opener.open(address, timeout=10) as answer:
        items = json.load(answer)["items"]
    return {item["originating-ip"] for item in items}
