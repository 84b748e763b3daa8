"""``pigeonry dev`` as a developer meets it."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.developing import DOMAIN, Developing, developing, kill
from support.process import until

MAIL = f"From: Ada <ada@{DOMAIN}>\r\nSubject: by SMTP\r\n\r\ntext\r\n".encode()


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Developing]:
    with developing(tmp_path_factory.mktemp("dev")) as run:
        yield run


def test_a_message_by_http_is_in_the_inbox_signed_and_its_events_are_told(dev: Developing) -> None:
    message_id = dev.send(to="http@example.com")
    accepted, delivered = dev.await_events("http@example.com", "accepted", "delivered")
    assert accepted["message"]["headers"]["message-id"] == message_id
    assert delivered["delivery-status"]["code"] == 250
    (mail,) = [mail for mail in dev.captured() if mail["message_id"] == message_id]
    described = dev.ask(f"/inbox/api/messages/{mail['id']}")[1]
    headers = dict(described["headers"])
    assert f"d={DOMAIN}" in headers["DKIM-Signature"]
    assert described["text"].strip() == "It works."
    assert [event["event"] for event in described["events"]] == ["accepted", "delivered"]


def test_a_message_by_smtp_with_login_and_starttls_arrives(dev: Developing) -> None:
    host, _, port = dev.facts["smtp"].removeprefix("smtp://").rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=10) as client:
        client.starttls()
        client.login(dev.facts["smtp_login"], dev.facts["smtp_password"])
        client.sendmail(f"ada@{DOMAIN}", ["smtp@example.com"], MAIL)
    dev.await_events("smtp@example.com", "accepted", "delivered")


def test_mail_without_a_login_is_refused(dev: Developing) -> None:
    host, _, port = dev.facts["smtp"].removeprefix("smtp://").rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=10) as client, pytest.raises(smtplib.SMTPSenderRefused) as refused:
        client.sendmail(f"ada@{DOMAIN}", ["smtp@example.com"], MAIL)
    assert refused.value.smtp_code == 530


@pytest.mark.parametrize(("recipient", "code"), [("bounce@example.com", 550), ("550@example.com", 550)])
def test_a_recipient_that_is_refused_for_good_fails_permanently(dev: Developing, recipient: str, code: int) -> None:
    dev.send(to=recipient)
    _, failed = dev.await_events(recipient, "accepted", "failed")
    assert failed["severity"] == "permanent"
    assert failed["delivery-status"]["code"] == code


def test_defer_is_delivered_on_the_second_try(dev: Developing) -> None:
    dev.send(to="defer@example.com")
    _, failed, delivered = dev.await_events("defer@example.com", "accepted", "failed", "delivered")
    assert failed["severity"] == "temporary"
    assert delivered["delivery-status"]["attempt-no"] == 2


def test_421_is_tried_again_later(dev: Developing) -> None:
    dev.send(to="421@example.com")

    def deferred() -> bool:
        return any(event["event"] == "failed" for event in dev.events(recipient="421@example.com"))

    until(deferred, "a temporary failure")
    assert {e["severity"] for e in dev.events(recipient="421@example.com", event="failed")} == {"temporary"}


def test_timeout_puts_the_attempt_in_doubt_and_its_retry_is_flagged(dev: Developing) -> None:
    dev.send(to="timeout@example.com")

    def tried_twice() -> bool:
        return len(dev.events(recipient="timeout@example.com", event="failed")) >= 2

    until(tried_twice, "a second attempt", 40.0)
    second, *_ = dev.events(recipient="timeout@example.com", event="failed")
    assert second["flags"]["is-possible-duplicate"] is True


def test_other_names_and_other_sites_pages_are_turned_away(dev: Developing) -> None:
    assert dev.ask("/inbox", Host="evil.example")[0] == 403
    assert dev.ask("/inbox", Origin="http://evil.example")[0] == 403
    assert dev.ask("/inbox/clear", {}, Origin="http://evil.example")[0] == 403
    assert dev.ask(f"/v3/{DOMAIN}/messages", {"to": "x@example.com"}, Sec_Fetch_Site="cross-site")[0] == 403
    assert dev.ask("/inbox")[0] == 200


def test_it_says_that_it_is_alive_and_counts(dev: Developing) -> None:
    assert dev.ask("/livez")[0] == 200
    assert dev.ask("/readyz")[0] == 200
    assert "pigeonry_messages_accepted_total" in dev.ask("/metrics")[1]


def test_a_program_that_knows_the_api_by_its_root_is_answered(dev: Developing) -> None:
    assert dev.ask("/")[1] == "Mailgun Magnificent API"


def test_the_wrong_key_is_refused(dev: Developing) -> None:
    assert dev.ask(f"/v3/{DOMAIN}/events", Authorization="Basic YXBpOndyb25n") == (401, "Forbidden")


def test_killed_and_started_again_it_goes_on_where_it_was(tmp_path: Path) -> None:
    first = Developing(tmp_path)
    first.send(to="before@example.com")
    waiting = first.send(to="defer@example.com")
    until(lambda: any(e["event"] == "failed" for e in first.events(recipient="defer@example.com")), "it was put off")
    kill(first)
    with developing(tmp_path) as second:
        second.await_events("defer@example.com", "accepted", "failed", "delivered")
        ids = [mail["message_id"] for mail in second.captured()]
        assert ids.count(waiting) == 1
        assert len(second.events(recipient="before@example.com", event="delivered")) == 1
        second.send(to="after@example.com")
        second.await_events("after@example.com", "accepted", "delivered")


def test_the_seal_key_lies_beside_the_folder_and_not_in_it(tmp_path: Path) -> None:
    with developing(tmp_path):
        pass
    assert (tmp_path / "data.seal-key").stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "data").rglob("*seal*"))


def test_another_key_can_be_chosen(tmp_path: Path) -> None:
    with developing(tmp_path, "--api-key", "key-of-mine") as run:
        assert run.facts["api_key"] == "key-of-mine"
        run.send(to="x@example.com")


def test_a_taken_port_is_an_error_when_asked_for_and_else_the_next_is_taken(tmp_path: Path) -> None:
    with contextlib.ExitStack() as usual:
        for port in (8080, 2525):
            with contextlib.suppress(OSError):  # then somebody else has it, which does as well
                usual.enter_context(socket.create_server(("127.0.0.1", port)))
        run = Developing(tmp_path, own_ports=False)
        assert not run.http.endswith(":8080")
        assert not run.facts["smtp"].endswith(":2525")
        done = start_another(tmp_path / "other", "--http", run.http.removeprefix("http://"))
        assert run.end() == 0
    assert done.returncode == 1
    taken = run.http.removeprefix("http://")
    assert done.stderr == (
        f"pigeonry: --http: {taken} cannot be listened on: Address already in use; another program has it. "
        "Without --http the next free port is taken.\n"
    )
    assert "Port 8080 is taken: HTTP is on " in (tmp_path / "dev.log").read_text()


def test_nothing_but_loopback_is_listened_on(tmp_path: Path) -> None:
    done = start_another(tmp_path / "data", "--http", "0.0.0.0:0")
    assert done.returncode == 3
    assert done.stderr == "pigeonry: --http: 0.0.0.0 is not loopback; a development run listens nowhere else\n"


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with developing(tmp_path):
        done = start_another(tmp_path / "data")
    assert done.returncode == 7
    assert done.stderr == (
        f"pigeonry: {tmp_path}/data is in use by another process: end the `pigeonry` that runs on it, or name another.\n"
    )


def start_another(data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pigeonry", "dev", "--json", "--data", str(data), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
