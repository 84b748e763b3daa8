"""A node as operators run it: its processes, their signals, their ends."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from pigeonry.app.tls import make_self_signed
from support.process import free_port, until
from support.serving import Serving, kill, runs, serving


def test_mail_goes_through_two_workers_and_is_counted(tmp_path: Path) -> None:
    with serving(tmp_path) as (node, receiver):
        for number in range(20):
            node.send(f"r{number}@dest.test")
        until(lambda: len(receiver.by_recipient) == 20, "all are delivered")
        assert set(receiver.by_recipient.values()) == {1}
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{node.ops}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        accepted = [
            line for line in lines if line.startswith("pigeonry_messages_accepted_total{") and 'door="smtp"' in line
        ]
        assert sum(float(line.rpartition(" ")[2]) for line in accepted) == 20
        assert {'worker="0"' in line or 'worker="1"' in line for line in accepted} == {True}
        with urllib.request.urlopen(f"http://127.0.0.1:{node.ops}/livez", timeout=5) as answer:
            assert answer.status == 200
        assert node.stop() == 0


def test_a_killed_worker_is_replaced_and_what_it_acknowledged_is_delivered(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (node, receiver):
        for round_ in range(3):
            node.send(f"r{round_}@dest.test")
            (pid,) = node.workers()
            kill(pid)
            until(lambda pid=pid: node.ready() and node.workers() != [pid], "a successor serves", 30.0)
        until(lambda: len(receiver.by_recipient) == 3, "all are delivered", 30.0)
        assert node.said("worker_ended")
        assert node.stop() == 0


def test_workers_keep_together_to_the_connections_of_a_site_and_one_that_is_killed_leaves_its_own(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, delivery_more="connections_per_site_max = 4") as (node, receiver):
        receiver.pace_s = 0.05
        for number in range(200):
            node.send(f"r{number}@dest.test")
        kill(node.workers()[0])
        until(lambda: len(receiver.by_recipient) == 200, "all are delivered", 60.0)
        assert receiver.connections_most == 4


def test_a_worker_that_cannot_start_is_tried_again_and_nobody_in_the_backlog_is_reset(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (node, _):
        seal_key, away = tmp_path / "data.seal-key", tmp_path / "away"
        seal_key.rename(away)
        kill(node.workers()[0])
        until(lambda: len(node.lines("worker_ended")) >= 3, "it was tried again")
        assert [line["pause_s"] for line in node.lines("worker_ended")][:3] == [0.1, 0.2, 0.4]
        assert node.lines("worker_failed")[0]["reason"].startswith("There is no seal key at ")
        for times in (1, 2):
            node.signal(signal.SIGHUP)
            until(lambda times=times: len(node.lines("certificates_reloaded")) == times, "SIGHUP is heard all the same")
        with socket.create_connection(("127.0.0.1", node.smtp), timeout=30.0) as early:
            away.rename(seal_key)
            node.signal(signal.SIGHUP)
            assert early.recv(200).startswith(b"220 node.test ")
        until(node.ready, "it serves again")
        assert "Traceback" not in (tmp_path / "node.log").read_text()
        assert node.stop() == 0


def test_no_secret_reaches_the_log_whatever_its_level(tmp_path: Path) -> None:
    cert, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_self_signed(cert, key_file, names=("node.test",), now=time.time())
    more = f'[log]\nlevel = "debug"\n[tls]\ncert = "{cert}"\nkey = "{key_file}"\n'
    with serving(tmp_path, workers=1, more=more) as (node, _):
        key = node.key_for("ours.test")
        password = node.command("smtp-cred", "add", "app@ours.test")["password"]
        assert node.post("ours.test", key, "r@dest.test") == 200
        assert node.post("ours.test", "mistyped-key", "r@dest.test") == 401
        for said, code in ((password, 235), ("mistyped-password", 535)):
            with smtplib.SMTP("127.0.0.1", node.smtp, timeout=10) as client:
                client.starttls(context=anything())
                client.ehlo()
                token = base64.b64encode(f"\0app@ours.test\0{said}".encode()).decode()
                assert client.docmd("AUTH PLAIN", token)[0] == code
        assert node.stop() == 0
        log = (tmp_path / "node.log").read_text()
        for secret in (key, "mistyped-key", password, "mistyped-password", token):
            assert secret not in log


def test_workers_end_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    with serving(tmp_path) as (node, _):
        workers = node.workers()
        assert node.daemon is not None
        kill(node.daemon.process.pid)
        node.wait()
        until(lambda: not any(map(runs, workers)), "no orphan is left")
        node.start()
        assert node.stop() == 0


def test_a_worker_whose_loop_stands_still_is_killed_and_that_is_said(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (node, _):
        (pid,) = node.workers()
        os.kill(pid, signal.SIGSTOP)
        until(lambda: node.said("worker_stuck"), "it is noticed", 15.0)
        until(lambda: node.ready() and node.workers() != [pid], "a successor serves", 30.0)
        assert node.stop() == 0


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
def test_a_transaction_under_way_is_finished_when_the_node_stops(tmp_path: Path, stage: str) -> None:
    with serving(tmp_path, workers=1) as (node, receiver):
        client = smtplib.SMTP("127.0.0.1", node.smtp, timeout=10)
        idle = smtplib.SMTP("127.0.0.1", node.smtp, timeout=10)
        idle.ehlo()
        client.ehlo()
        commands = ["MAIL FROM:<a@other.test>", "RCPT TO:<late@dest.test>", "DATA"]
        reached = ["MAIL", "RCPT", "DATA"].index(stage) + 1
        replies = [client.docmd(command)[0] for command in commands[:reached]]
        node.signal(signal.SIGTERM)
        assert idle.getreply() == (421, b"4.3.2 Closing: the service is restarting, connect again")
        replies += [client.docmd(command)[0] for command in commands[reached:]]
        assert replies == [250, 250, 354]
        client.send(b"Subject: late\r\n\r\ntext\r\n.\r\n")
        assert client.getreply()[0] == 250
        assert client.getreply()[0] == 421
        client.close()
        idle.close()
        assert node.wait() == 0
        node.start()
        until(lambda: receiver.by_recipient["late@dest.test"] == 1, "what was acknowledged is delivered")
        assert node.stop() == 0


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1, more="") as (node, _):
        client = smtplib.SMTP("127.0.0.1", node.smtp, timeout=10)
        client.ehlo()
        client.mail("a@other.test")
        client.rcpt("r@dest.test")
        client.putcmd("DATA")
        assert client.getreply()[0] == 354
        node.signal(signal.SIGTERM)
        until(lambda: node.said("draining"), "it drains")
        began = time.monotonic()
        node.signal(signal.SIGTERM)
        assert node.wait() != 0
        assert time.monotonic() - began < 4.0  # well under drain_s
        client.close()


def _send_or_come_back(node: Serving, recipient: str) -> None:
    """Send; a session that the drain meets before its transaction has begun may be told 421 4.3.2, and comes back."""
    for _ in range(5):
        with contextlib.closing(smtplib.SMTP(timeout=10)) as client:
            code, said = client.connect("127.0.0.1", node.smtp)
            if code == 220:
                code, said = client.ehlo()
            if code == 250:
                code, said = client.docmd("MAIL FROM:<a@other.test>")
            if code == 250:
                assert client.docmd(f"RCPT TO:<{recipient}>")[0] == 250
                assert client.docmd("DATA")[0] == 354
                client.send(b"Subject: x\r\n\r\ntext\r\n.\r\n")
                assert client.getreply()[0] == 250
                return
            assert (code, said[:6]) == (421, b"4.3.2 ")
    raise AssertionError("turned away each time")


def test_new_settings_are_served_by_successors_without_a_cut_transaction(tmp_path: Path) -> None:
    with serving(tmp_path) as (node, receiver):
        before = node.workers()
        node.configure(smtp_more="recipients_max = 100")
        sent = 0
        node.signal(signal.SIGHUP)
        while not (node.ready() and not set(node.workers()) & set(before)):
            _send_or_come_back(node, f"r{sent}@dest.test")
            sent += 1
            assert sent < 5_000
        until(lambda: not any(map(runs, before)), "the old workers ended", 20.0)
        until(lambda: len(receiver.by_recipient) == sent, "all are delivered", 30.0)
        assert set(receiver.by_recipient.values()) == {1}
        with smtplib.SMTP("127.0.0.1", node.smtp, timeout=10) as client:
            client.ehlo()
            client.mail("a@other.test")
            replies = [client.rcpt(f"r{number}@dest.test")[0] for number in range(101)]
        assert replies == [250] * 100 + [452]
        assert not node.said("worker_ended")
        assert node.stop() == 0


def test_no_request_fails_while_new_settings_are_served(tmp_path: Path) -> None:
    with serving(tmp_path) as (node, receiver):
        key = node.key_for("ours.test")
        before = node.workers()
        sent = 0
        for setting in ("keep_alive_s = 60", "keep_alive_s = 61"):
            node.configure(http_more=setting)
            node.signal(signal.SIGHUP)
            while not (node.ready() and not set(node.workers()) & set(before)):
                assert node.post("ours.test", key, f"r{sent}@dest.test") == 200
                sent += 1
                assert sent < 5_000
            before = node.workers()
        until(lambda: len(receiver.by_recipient) == sent, "all are delivered", 30.0)
        assert node.stop() == 0


def test_what_waits_for_its_time_is_delivered_by_the_successor(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (node, receiver):
        key = node.key_for("ours.test")
        (before,) = node.workers()
        at = formatdate(time.time() + 10.0)
        assert node.post("ours.test", key, "later@dest.test", **{"o:deliverytime": at}) == 200
        node.configure(http_more="keep_alive_s = 60")
        node.signal(signal.SIGHUP)
        until(lambda: node.ready() and node.workers() != [before] and not runs(before), "the successor serves alone")
        assert not receiver.by_recipient
        until(lambda: receiver.by_recipient["later@dest.test"] == 1, "it is delivered at its time", 30.0)
        assert node.stop() == 0


def test_a_node_that_is_told_to_stop_while_successors_start_just_stops(tmp_path: Path) -> None:
    with serving(tmp_path) as (node, _):
        node.configure(smtp_more="recipients_max = 100")
        node.signal(signal.SIGHUP)
        until(lambda: any(line["generation"] == 2 for line in node.lines("worker_started")), "a successor starts")
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
        assert [line for line in node.log() if line["level"] in {"error", "warning"}] == []
        assert node.said("stopped")


def test_settings_that_are_wrong_are_refused_and_the_old_ones_stay(tmp_path: Path) -> None:
    with serving(tmp_path, workers=1) as (node, _):
        before = node.workers()
        node.configure(smtp_more='trusted = ["127.0.0.1"]')
        node.signal(signal.SIGHUP)
        until(lambda: node.said("reload_refused"), "it is said")
        assert node.workers() == before
        node.send("r@dest.test")
        assert node.stop() == 0


def test_addresses_come_and_go_at_a_reload_and_one_that_is_taken_changes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as (node, _), socket.create_server(("127.0.0.1", 0)) as taken:
        old, new, config = node.smtp, free_port(), node.config.read_text()
        for port in (taken.getsockname()[1], new):
            before = node.workers()
            node.config.write_text(config.replace(f'"127.0.0.1:{old}"', f'"127.0.0.1:{old}", "127.0.0.1:{port}"'))
            node.signal(signal.SIGHUP)
            if port != new:
                until(lambda: node.said("reload_refused"), "the taken address is refused")
                assert "another program has it" in node.lines("reload_refused")[0]["reason"]
                assert node.workers() == before
        until(lambda: node.ready() and not set(node.workers()) & set(before), "successors serve")
        for port in (old, new):
            assert greeting(port).startswith(b"220 ")
        before = node.workers()
        node.config.write_text(config.replace(str(old), str(new)))
        node.signal(signal.SIGHUP)
        until(lambda: node.ready() and not set(node.workers()) & set(before), "successors serve")
        until(lambda: not any(map(runs, before)), "the old workers ended", 20.0)
        assert greeting(new).startswith(b"220 ")
        with pytest.raises(ConnectionRefusedError):
            greeting(old)
        assert node.stop() == 0


def greeting(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        return client.recv(200)


def test_a_renewed_certificate_is_presented_without_a_new_worker(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_self_signed(cert, key, names=("node.test",), now=time.time())
    https, smtps = free_port(), free_port()
    more = {
        "http_more": f'tls_listen = ["127.0.0.1:{https}"]',
        "smtp_more": f'tls_listen = ["127.0.0.1:{smtps}"]',
        "more": f'[tls]\ncert = "{cert}"\nkey = "{key}"\n',
    }
    with serving(tmp_path, workers=1, **more) as (node, _):
        before = node.workers()
        ports = (https, smtps)
        old = [presented(port) for port in ports]
        standing = smtplib.SMTP_SSL("127.0.0.1", smtps, context=anything(), timeout=10)
        make_self_signed(cert, key, names=("node.test",), now=time.time())
        node.signal(signal.SIGHUP)
        until(lambda: all(presented(port) != was for port, was in zip(ports, old, strict=True)), "the new one is shown")
        assert standing.noop()[0] == 250
        standing.close()
        assert node.workers() == before
        with smtplib.SMTP("127.0.0.1", node.smtp, timeout=10) as client:
            client.starttls(context=anything())
            assert client.noop()[0] == 250
        assert refuses_tls_1_1(https)
        assert node.stop() == 0


def anything() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def presented(port: int) -> bytes | None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        anything().wrap_socket(plain) as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True)


def refuses_tls_1_1(port: int) -> bool:
    """Whether a client that speaks nothing newer is turned away."""
    command = ["openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect", f"127.0.0.1:{port}"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
    return b"Cipher is (NONE)" in done.stdout or b"no protocols available" in done.stderr


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30.0)
        with serving(tmp_path, workers=1, start=False) as (node, _):
            node.start(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"})
            told = []
            while not any(message.startswith("READY=1") for message in told):
                told.append(manager.recv(4096).decode())
            assert "WATCHDOG=1" in told
            node.signal(signal.SIGHUP)
            while not told[-1].startswith("RELOADING=1\nMONOTONIC_USEC="):
                told.append(manager.recv(4096).decode())
            while not told[-1].startswith("READY=1"):
                told.append(manager.recv(4096).decode())
            assert node.stop() == 0
        manager.settimeout(1.0)
        while not told[-1].startswith("STOPPING=1"):
            told.append(manager.recv(4096).decode())


def serve(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pigeonry", "serve", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_relay_for_everybody_does_not_start(tmp_path: Path) -> None:
    node = Serving(tmp_path)
    node.config.write_text('[smtp]\ntrusted_networks = ["0.0.0.0/0"]\n')
    done = serve(node.config)
    assert done.returncode == 3
    assert done.stderr == (
        "pigeonry: smtp.trusted_networks: 0.0.0.0/0 would let anybody relay; name the networks that may\n"
    )


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = Serving(tmp_path)
        port = taken.getsockname()[1]
        node.config.write_text(node.config.read_text().replace(str(node.smtp), str(port)))
        done = serve(node.config)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"pigeonry: smtp.listen: 127.0.0.1:{port} cannot be listened on: Address already in use; another program has it"
    )
    assert "Traceback" not in done.stderr
