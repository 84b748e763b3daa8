"""Commands and questions about a message reach its owner, whichever worker was asked."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from pigeonry.app import exits
from pigeonry.app.sockets import command_address
from pigeonry.domain.errors import BadRequest, NotFound, NotOwner, OwnerUnreachable
from pigeonry.domain.message import MessageKey
from pigeonry.doors.commands.client import call
from support.process import until
from support.serving import Receiver, Serving, serving

WORKERS = 2


def ask(node: Serving, slot: int, name: str, argument: Any) -> Any:
    with command_address(f"{node.folder}/data", slot) as path:
        return asyncio.run(call(path, name, argument, timeout_s=10.0))


def forward(node: Serving, slot: int, name: str, key: str) -> Any:
    shard = MessageKey.parse(key).shard
    return ask(node, slot, "forward", {"name": name, "argument": {"key": key}, "shard": shard})


def get(node: Serving, key: str, path: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{node.http}{path}")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"api:{key}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def waiting(node: Serving) -> dict[int, list[str]]:
    """Keys of the messages that wait, by the worker that owns them."""
    keys: dict[int, list[str]] = {}
    for told in ask(node, 0, "forward.all", {"name": "queue.show", "argument": {"limit": 100}}):
        keys[told["slot"]] = [row["key"] for row in told["result"]]
    assert len(keys) == WORKERS
    return keys


def accepted_by_both(node: Serving) -> str:
    """Have three messages or more of ours.test wait in each worker; a key that may read them."""
    sends = node.key_for("ours.test")
    node.key_for("others.test")
    later = {"o:deliverytime": formatdate(time.time() + 3600)}
    numbers = itertools.count()
    while any(len(keys) < 3 for keys in waiting(node).values()):
        for number in itertools.islice(numbers, 8):
            recipient = f"r{number}@dest.test"
            until(lambda to=recipient: node.post("ours.test", sends, to, **later) == 200, "the key is known")
    return str(node.command("key", "create")["key"])


def test_any_worker_serves_any_message_of_the_node(tmp_path: Path) -> None:
    with serving(tmp_path, workers=WORKERS) as (node, receiver):
        api = accepted_by_both(node)
        owned = waiting(node)

        # Through either worker, whichever takes the connection: there, or not there for who may not know of it.
        for keys in owned.values():
            for _ in range(12):
                status, shown = get(node, api, f"/v3/domains/ours.test/messages/{keys[0]}")
                assert (status, shown["subject"]) == (200, "x")
                status, shown = get(node, api, f"/v3/domains/others.test/messages/{keys[0]}")
                assert (status, shown) == (404, {"message": "Message not found"})

        for owner, keys in owned.items():
            for asked in range(WORKERS):
                assert forward(node, asked, "queue.drop", keys[asked])["done"] == 1
                assert forward(node, asked, "queue.drop", keys[asked]) == {
                    "done": 0,
                    "in_attempt": 0,
                    "ended": 1,
                    "in_doubt": 0,
                }
            with pytest.raises(NotOwner):
                ask(node, 1 - owner, "queue.drop", {"key": keys[2]})
            assert node.command("queue", "retry", keys[2])["done"] == 1
        until(lambda: len(receiver.by_recipient) == WORKERS, "those that were hastened are delivered")
        intervened(node, receiver, api)

        nobodys = MessageKey(5, 20_000, 7).text()
        for asked in range(WORKERS):
            with pytest.raises(NotFound):
                forward(node, asked, "queue.drop", nobodys)
            with pytest.raises(NotFound):
                forward(node, asked, "queue.drop", MessageKey(60_000, 20_000, 7).text())
            with pytest.raises(BadRequest):
                ask(node, asked, "forward", {"name": "forward", "argument": {}, "shard": 1})
        assert node.stop() == 0


def intervened(node: Serving, receiver: Receiver, api: str) -> None:
    """What the operator says holds in both workers, for what comes and for what waits for a later time."""
    sends = node.key_for("told.test")
    held = node.command("intervene", "suspend", "--to", "held.test", "--reason", "storm")
    dropped = node.command("intervene", "drop", "--to", "dropped.test", "--for", "30m")
    assert [each["id"] for each in node.command("intervene", "list")["items"]] == [held["id"], dropped["id"]]
    later = {"o:deliverytime": formatdate(time.time() + 3600)}
    for number in range(8):
        until(lambda to=f"r{number}@held.test": node.post("told.test", sends, to) == 200, "the key is known")
        assert node.post("told.test", sends, f"r{number}@dropped.test", **later) == 200
        assert node.post("told.test", sends, f"r{number}@free.test") == 200
    assert node.command("queue", "hasten", "--to", "dropped.test")["done"] == 8
    until(lambda: arrived(receiver, "free.test") == 8, "what nothing was said of is delivered")
    until(lambda: failures(node, api) == {"dropped": 8}, "what was to be dropped has failed")
    assert arrived(receiver, "held.test") == arrived(receiver, "dropped.test") == 0
    (standing,) = node.command("msg", "why", waiting_for(node, "held.test"))["items"]
    assert (standing["holding"]["limit"], standing["holding"]["whose"]) == ("intervention", "operator")
    asked = f"/v1/pigeonry/messages/{waiting_for(node, 'held.test')}/why"
    for _ in range(6):  # through either worker
        assert get(node, api, asked)[1]["items"][0]["holding"]["limit"] == "intervention"
    node.command("intervene", "lift", held["id"])
    until(lambda: arrived(receiver, "held.test") == 8, "what was suspended is delivered")
    node.command("intervene", "lift", dropped["id"])
    assert node.command("intervene", "list") == {"items": []}


def waiting_for(node: Serving, domain: str) -> str:
    """The key of a message that waits for a domain."""
    rows = node.command("queue", "show")["items"]
    return next(str(row["key"]) for row in rows if row["recipient"].endswith(f"@{domain}"))


def arrived(receiver: Receiver, domain: str) -> int:
    return sum(recipient.endswith(f"@{domain}") for recipient in receiver.by_recipient)


def failures(node: Serving, key: str) -> dict[str, int]:
    items = node.get("/v3/told.test/events?event=failed", key)["items"]
    return dict(Counter(item["reason"] for item in items))


def test_an_owner_that_cannot_be_reached_is_said_so_and_nothing_is_guessed(tmp_path: Path) -> None:
    with serving(tmp_path, workers=WORKERS) as (node, _):
        accepted_by_both(node)
        owned = waiting(node)
        sock, away = tmp_path / "data" / "run" / "worker-1.sock", tmp_path / "away.sock"
        sock.rename(away)
        done = shell(node, "queue", "show")
        assert done.returncode == exits.UNREACHABLE
        assert {row["key"] for row in json.loads(done.stdout)["items"]} == set(owned[0])
        assert json.loads(done.stdout)["unreachable"] == ["node.test/1"]
        assert "worker node.test/1 is left out" in done.stderr
        assert shell(node, "queue", "drop", owned[1][0]).returncode == exits.UNREACHABLE
        with pytest.raises(OwnerUnreachable) as caught:
            forward(node, 0, "queue.drop", owned[1][0])
        assert caught.value.retry_after_s
        away.rename(sock)
        assert node.command("queue", "drop", owned[1][0])["done"] == 1
        assert node.stop() == 0


def shell(node: Serving, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pigeonry", *words, "--config", str(node.config), "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
