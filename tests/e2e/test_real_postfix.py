"""Out into a real world: names from nsd through unbound, mail into a Postfix that stores it, signatures from DNS."""

from __future__ import annotations

import itertools
import json
import os
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dkim

from support.name_servers import NameServers, name_servers
from support.postfix import Postfix, postfix
from support.process import Daemon, free_port, listens, until

ADDRESSES = itertools.count(1)  # each Postfix its own: a child of the last one may still hold port 25 of its address
CONFIG = """
[node]
data = "{folder}/data"
hostname = "sender.test"
workers = 1
drain_grace_s = 0.0
[http]
listen = ["127.0.0.1:{http}"]
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


def pigeonry(config: Path, *words: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "pigeonry", *words, "--config", str(config), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@contextmanager
def world(folder: Path) -> Iterator[tuple[int, NameServers, Postfix]]:
    """A node of ours, its DNS and its receiver; yields the node's SMTP port."""
    config = folder / "pigeonry.toml"
    smtp = free_port()
    address = f"127.25.{os.getpid() % 250 + 1}.{next(ADDRESSES)}"
    values = {"folder": folder, "http": free_port(), "smtp": smtp}
    config.write_text(CONFIG.format(dns="127.0.0.1:53", **values))
    added = pigeonry(config, "domain", "add", "sender.test")
    records = "".join(
        f"{record['name']}. IN TXT {' '.join(_strings(str(record['value'])))}\n"
        for record in added["sending_dns_records"]  # type: ignore[attr-defined]
        if record["record_type"] == "TXT"
    )
    records += f"dest IN MX 10 mx.dest\nmx.dest IN A {address}\nnull IN MX 0 .\n"
    with (
        name_servers(folder / "dns", records) as names,
        postfix(folder / "postfix", address=address, domain="dest.test", hostname="mx.dest.test") as receiver,
    ):
        config.write_text(CONFIG.format(dns=names.address, **values))
        node = Daemon([sys.executable, "-m", "pigeonry", "serve", "--config", str(config)], folder / "node.log")
        try:
            until(lambda: listens("127.0.0.1", smtp), f"the node listens\n{node.tail()}")
            yield smtp, names, receiver
        finally:
            assert node.stop() == 0, node.tail()


def _strings(value: str) -> list[str]:
    return [f'"{value[at : at + 255]}"' for at in range(0, len(value), 255)]


def test_a_message_reaches_a_real_postfix_by_its_mx_and_its_signature_verifies(tmp_path: Path) -> None:
    with world(tmp_path) as (smtp, names, receiver):
        with smtplib.SMTP("127.0.0.1", smtp) as client:
            client.sendmail(
                "ada@sender.test",
                ["bob@dest.test"],
                b"From: Ada <ada@sender.test>\r\nTo: bob@dest.test\r\nSubject: by MX\r\n\r\n.dots\r\nand lines\r\n",
            )
        until(lambda: len(receiver.stored()) == 1, "Postfix stores the message")
        stored = receiver.stored()[0].replace(b"\n", b"\r\n")
        signed = stored[stored.index(b"DKIM-Signature:") :]
        assert dkim.verify(signed, dnsfunc=names.txt)
        assert b"\r\n.dots\r\n" in stored
        assert b"Return-Path: <ada@sender.test>" in stored


def test_a_recipient_that_postfix_refuses_fails_and_is_not_tried_again(tmp_path: Path) -> None:
    with world(tmp_path) as (smtp, _, receiver):
        with smtplib.SMTP("127.0.0.1", smtp) as client:
            client.sendmail("ada@sender.test", ["refused@dest.test"], b"Subject: no\r\n\r\nno\r\n")
            client.sendmail("ada@sender.test", ["bob@dest.test"], b"Subject: yes\r\n\r\nyes\r\n")
        until(lambda: len(receiver.stored()) == 1, "Postfix stores the other message")
        until(lambda: "no such person" in receiver.log(), "Postfix refused")
        assert receiver.log().count("no such person") == 1
