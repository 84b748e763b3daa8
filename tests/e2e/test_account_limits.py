"""An account that is limited sends no more than it may, over all workers and doors of a node."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest

from support.process import until
from support.serving import serving


def test_a_limit_holds_over_workers_and_doors_and_restarts(tmp_path: Path) -> None:
    with serving(tmp_path, workers=2) as (node, receiver):
        key = node.key_for("ours.test")
        node.command("account", "limit", "main", "--hourly", "6")
        statuses = [node.post("ours.test", key, f"http-{number}@dest.test") for number in range(4)]
        assert statuses == [200] * 4
        send(node.smtp, "smtp-1@dest.test", "smtp-2@dest.test")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            send(node.smtp, "smtp-3@dest.test")
        assert refused.value.smtp_code == 451
        assert b"4.7.1 This account may send to 6 recipients an hour" in refused.value.smtp_error
        assert node.post("ours.test", key, "http-5@dest.test") == 429
        assert node.stop() == 0
        node.start()
        assert node.post("ours.test", key, "http-5@dest.test") == 429
        until(lambda: len(receiver.by_recipient) == 6, "what was accepted is delivered", 30.0)
        node.command("account", "limit", "main", "--hourly", "0")
        assert node.post("ours.test", key, "http-5@dest.test") == 200


def send(port: int, *recipients: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        client.sendmail("a@ours.test", list(recipients), b"From: a@ours.test\r\nSubject: x\r\n\r\ntext\r\n")
