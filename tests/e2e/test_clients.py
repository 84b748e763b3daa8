"""Programs and libraries written for Mailgun or for SMTP, unchanged but for the address they are given."""

from __future__ import annotations

import json
import shutil
import smtplib
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from email.message import EmailMessage

import pytest

from support.process import free_port, need

DOMAIN = "sandbox.localhost"
EVENT_S = 10.0  # generous: how fast it is belongs to the benchmarks


class Dev:
    """A running ``pigeonry dev``."""

    def __init__(self, ready: dict[str, str]) -> None:
        self.http = ready["http"].rstrip("/")
        self.key = ready["api_key"]
        self.smtp_host, _, port = ready["smtp"].removeprefix("smtp://").rpartition(":")
        self.smtp_port = int(port)
        self.smtp_login, self.smtp_password = ready["smtp_login"], ready["smtp_password"]

    def get(self, path: str) -> dict[str, object]:
        request = urllib.request.Request(f"{self.http}{path}")
        request.add_header("Authorization", "Basic " + b64encode(f"api:{self.key}".encode()).decode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    def delivered(self, recipient: str) -> dict[str, object]:
        """The delivered event of a recipient, waited for."""
        end = time.monotonic() + EVENT_S
        query = urllib.parse.urlencode({"event": "delivered", "recipient": recipient})
        while time.monotonic() < end:
            items = self.get(f"/v3/{DOMAIN}/events?{query}")["items"]
            if items:
                assert isinstance(items, list)
                return items[0]  # type: ignore[no-any-return]
            time.sleep(0.05)
        raise AssertionError(f"no delivered event for {recipient}")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("dev")
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pigeonry",
                "dev",
                "--json",
                "--data",
                str(folder / "data"),
                "--http",
                f"127.0.0.1:{free_port()}",
                "--smtp",
                f"127.0.0.1:{free_port()}",
            ],
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (folder / "dev.log").read_text()
        yield Dev(json.loads(line))
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()


def test_the_mailgun_package_sends_and_reads_events(dev: Dev) -> None:
    from mailgun.client import Client

    client = Client(auth=("api", dev.key), api_url=dev.http)
    sent = client.messages.create(
        domain=DOMAIN,
        data={"from": f"ada@{DOMAIN}", "to": "package@example.com", "subject": "hi", "text": "hello", "o:tag": ["a"]},
    )
    assert sent.status_code == 200
    assert sent.json()["message"] == "Queued. Thank you."
    event = dev.delivered("package@example.com")
    assert event["tags"] == ["a"]
    events = client.events.get(domain=DOMAIN, filters={"recipient": "package@example.com"}).json()["items"]
    assert {event["event"] for event in events} == {"accepted", "delivered"}


def test_django_anymail_sends_with_attachments_and_recipient_variables(dev: Dev) -> None:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            EMAIL_BACKEND="anymail.backends.mailgun.EmailBackend",
            ANYMAIL={
                "MAILGUN_API_KEY": dev.key,
                "MAILGUN_API_URL": f"{dev.http}/v3",
                "MAILGUN_SENDER_DOMAIN": DOMAIN,
            },
        )
        django.setup()
    from anymail.message import AnymailMessage

    message = AnymailMessage(
        subject="Hello %recipient.name%",
        body="Hi %recipient.name%",
        from_email=f"Ada <ada@{DOMAIN}>",
        to=["anymail-one@example.com", "anymail-two@example.com"],
    )
    message.attach_alternative("<b>Hi %recipient.name%</b>", "text/html")
    message.attach("naïve.txt", "content", "text/plain")
    message.merge_data = {"anymail-one@example.com": {"name": "One"}, "anymail-two@example.com": {"name": "Two"}}
    message.tags = ["anymail"]
    assert message.send() == 1
    assert message.anymail_status.message_id
    for recipient in ("anymail-one@example.com", "anymail-two@example.com"):
        assert dev.delivered(recipient)["tags"] == ["anymail"]


def test_smtplib_submits_over_starttls_with_a_login(dev: Dev) -> None:
    import ssl

    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = f"ada@{DOMAIN}", "smtplib@example.com", "by smtplib"
    message.set_content("hello")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(dev.smtp_host, dev.smtp_port) as client:
        client.starttls(context=context)
        client.login(dev.smtp_login, dev.smtp_password)
        client.send_message(message)
    assert dev.delivered("smtplib@example.com")["envelope"]["transport"] == "smtp"  # type: ignore[index]


def test_a_wrong_smtp_password_is_refused(dev: Dev) -> None:
    with smtplib.SMTP(dev.smtp_host, dev.smtp_port) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login(dev.smtp_login, "wrong")
        assert refused.value.smtp_code == 535


def test_swaks_submits(dev: Dev) -> None:
    need("swaks")
    swaks = shutil.which("swaks")
    assert swaks is not None
    done = subprocess.run(
        [
            swaks,
            "--server",
            dev.smtp_host,
            "--port",
            str(dev.smtp_port),
            "--from",
            f"ada@{DOMAIN}",
            "--to",
            "swaks@example.com",
            "--auth",
            "PLAIN",
            "--auth-user",
            dev.smtp_login,
            "--auth-password",
            dev.smtp_password,
            "--header",
            "Subject: by swaks",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Great success" in done.stdout
    dev.delivered("swaks@example.com")
