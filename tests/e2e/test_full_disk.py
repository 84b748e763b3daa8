"""A node whose disk runs full under load: it refuses, waits, and goes on, and loses nothing."""

from __future__ import annotations

import contextlib
import smtplib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pigeonry.drills.audit import audit
from support.process import small_disk, until
from support.serving import Serving, kill, serving

DISK_OCTETS = 320 * 1024 * 1024  # a little more than doors want to be free


def fill(path: Path) -> None:
    """Leave no room at all."""
    with path.open("wb", buffering=0) as file:
        for octets in (1024 * 1024, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * octets)


def ended(node: Serving) -> bool:
    """Whether every accepted recipient has its final event."""
    counts = node.command("events", "count")
    return bool(counts["accepted"] == counts["delivered"] + counts["failed_permanent"])


@contextlib.contextmanager
def loads(node: Serving) -> Iterator[list[Load]]:
    """Four at once."""
    running = [Load(node, name) for name in ("a", "b", "c", "d")]
    try:
        yield running
    finally:
        for load in running:
            load.end()


class Load:
    """Sends one message after the other; keeps those that were acknowledged, and the replies to the others."""

    def __init__(self, node: Serving, name: str) -> None:
        self.node = node
        self.name = name
        self.acknowledged: list[str] = []
        self.replies: list[int] = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def end(self) -> None:
        self.ending.set()
        self.thread.join()

    def _run(self) -> None:
        number = 0
        while not self.ending.is_set():
            number += 1
            path = f"{self.name}{number}@dest.test"
            try:
                self.node.send(path)
            except smtplib.SMTPRecipientsRefused as refused:
                self.replies += [code for code, _ in refused.recipients.values()]
            except smtplib.SMTPResponseException as refused:
                self.replies.append(refused.smtp_code)
            except OSError:  # nobody serves just now, or whoever did was killed
                self.ending.wait(0.05)
            else:
                self.acknowledged.append(path)


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
def test_a_full_disk_refuses_pauses_and_resumes_and_nothing_is_lost(tmp_path: Path, killed: bool) -> None:
    ballast = tmp_path / "data" / "ballast"
    with small_disk(tmp_path / "data", DISK_OCTETS), serving(tmp_path, workers=1) as (node, receiver):
        key = node.key_for("sender.test")
        pids = node.workers()
        with loads(node) as running:
            until(lambda: len(receiver.by_recipient) > 50, "mail flows")
            fill(ballast)
            until(lambda: all(len(load.replies) > 3 for load in running), "SMTP refuses")
            assert {code for load in running for code in load.replies} <= {421, 451, 452}
            assert node.post("sender.test", key, "no@dest.test") == 503
            if killed:  # its successor finds no room even for mending its files
                kill(pids[0])
                until(lambda: node.workers() != pids, "the worker is gone")
            ballast.unlink()
            before = sum(len(load.acknowledged) for load in running)
            until(lambda: sum(len(load.acknowledged) for load in running) > before + 50, "mail flows again", 60.0)
        acknowledged = [path for load in running for path in load.acknowledged]
        until(lambda: set(acknowledged) <= set(receiver.by_recipient), "all that was acknowledged is delivered", 60.0)
        assert killed or node.workers() == pids, node.log()
        assert node.post("sender.test", key, "yes@dest.test") == 200
        until(lambda: receiver.by_recipient["yes@dest.test"] == 1, "the API takes mail again")
        until(lambda: ended(node), "what was in doubt has its end as well", 60.0)
        assert node.stop() == 0
        books = audit(tmp_path / "data")
    assert (books.gaps, books.disagreeing) == (0, 0)
    assert [path for path in acknowledged if books.finals(path) != 1] == []
    twice = [path for path, copies in receiver.by_recipient.items() if copies > 1]
    assert [path for path in twice if not books.flagged[path]] == []
    assert "no@dest.test" not in receiver.by_recipient
