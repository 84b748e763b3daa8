from __future__ import annotations

import socket
from pathlib import Path

from pigeonry.app.notify import Notifier


def test_nobody_listens_and_nothing_happens() -> None:
    notifier = Notifier({}, pid=1)
    notifier.ready("2 workers")
    assert notifier.watchdog_s == 0.0


def test_each_state_is_told_in_the_managers_words(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "30000000"}, pid=7)
        notifier.ready("2 workers")
        notifier.reloading(1.5)
        notifier.watchdog()
        notifier.stopping()
        told = [manager.recv(100).decode() for _ in range(4)]
    assert told == [
        "READY=1\nSTATUS=2 workers",
        "RELOADING=1\nMONOTONIC_USEC=1500000",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=draining",
    ]
    assert notifier.watchdog_s == 30.0


def test_a_watchdog_for_another_process_is_not_ours() -> None:
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "8"}, pid=7).watchdog_s == 0.0
