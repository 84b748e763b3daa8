"""A node that leaves: first it says so, then it closes its doors, then it ends."""

from __future__ import annotations

import http.client
import json
import signal
import smtplib
import subprocess
import sys
from pathlib import Path

from support.process import until
from support.serving import Serving, serving

GRACE_S = 1.5


def test_what_comes_before_balancers_have_noticed_is_still_taken(tmp_path: Path) -> None:
    with serving(tmp_path, grace_s=GRACE_S) as (node, receiver):
        key = node.key_for("ours.test")
        sent = 0
        assert node.command("node", "drain")["state"] == "draining"
        while not node.said("draining"):
            assert node.readiness()["ready"] is False
            node.send(f"smtp-{sent}@dest.test")
            assert node.post("ours.test", key, f"http-{sent}@dest.test") == 200
            sent += 1
        assert sent > 0
        assert node.readiness().get("draining", True)
        assert node.wait() == 0
        (left,) = node.lines("leaving")
        assert left["grace_s"] == GRACE_S
        node.start()
        until(lambda: len(receiver.by_recipient) == 2 * sent, "all are delivered", 30.0)
        assert set(receiver.by_recipient.values()) == {1}
        assert node.stop() == 0


def test_draining_by_command_waits_for_the_end_and_for_transactions_before_it(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (node, _):
        assert node.command("node", "status")["state"] == "ready"
        client = smtplib.SMTP("127.0.0.1", node.smtp, timeout=10)
        client.ehlo()
        client.mail("a@other.test")
        client.rcpt("r@dest.test")
        client.putcmd("DATA")
        assert client.getreply()[0] == 354
        command = [sys.executable, "-m", "pigeonry", "node", "drain", "--wait", "--json", "--config", str(node.config)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as drain:
            until(lambda: node.said("draining"), "it drains")
            assert drain.poll() is None
            assert status_of(node) == (1, "draining")
            client.send(b"Subject: late\r\n\r\ntext\r\n.\r\n")
            assert client.getreply()[0] == 250
            assert client.getreply()[0] == 421
            said = json.loads(drain.communicate(timeout=20)[0])
        client.close()
        assert (drain.returncode, said["state"]) == (0, "ended")
        assert node.daemon is not None
        assert node.daemon.process.poll() == 0
        assert status_of(node) == (4, "")


def status_of(node: Serving) -> tuple[int, str]:
    command = [sys.executable, "-m", "pigeonry", "node", "status", "--json", "--config", str(node.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, json.loads(done.stdout)["state"] if done.stdout else ""


def test_a_node_that_was_never_ready_leaves_without_a_grace(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1, grace_s=300.0) as (node, _):
        (tmp_path / "data.seal-key").rename(tmp_path / "away")
        for pid in node.workers():
            subprocess.run(["kill", "-9", str(pid)], check=True)
        until(lambda: node.said("worker_failed"), "its worker cannot start")
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
        assert node.lines("leaving")[0]["grace_s"] == 0.0


def test_a_second_signal_ends_a_grace_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1, grace_s=300.0) as (node, _):
        node.signal(signal.SIGTERM)
        until(lambda: node.said("leaving"), "it leaves")
        node.signal(signal.SIGTERM)
        assert node.wait() == 1


def test_no_request_on_a_kept_connection_fails_and_the_last_one_is_told_so(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (node, _):
        connection = http.client.HTTPConnection("127.0.0.1", node.http, timeout=10)

        def asked_last() -> bool:
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"Mailgun Magnificent API")
            return answer.getheader("connection") == "close"

        assert not asked_last()
        node.signal(signal.SIGTERM)
        until(asked_last, "it is told that it was the last time")
        connection.close()
        assert node.wait() == 0
