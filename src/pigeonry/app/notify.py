"""Tells systemd how the service stands: ready, reloading, stopping, alive.

Standards: sd_notify(3): datagrams of ``KEY=value`` lines to the socket that ``NOTIFY_SOCKET`` names.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Notifier"]

MICROSECONDS: Final = 1_000_000


class Notifier:
    """Does nothing where nobody listens.

    Args:
        environ: Where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up.
        pid: This process; a watchdog set for another one is not ours.
    """

    def __init__(self, environ: Mapping[str, str], *, pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        period = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(period) / MICROSECONDS if watched and period.isdigit() else 0.0
        """Seconds within which ``watchdog`` must be called; 0.0 when nobody waits for it."""

    def ready(self, status: str) -> None:
        """All doors are open, also after a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self, monotonic_s: float) -> None:
        """A reload began at this time of CLOCK_MONOTONIC."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(monotonic_s * MICROSECONDS)}")

    def stopping(self) -> None:
        """The service drains."""
        self._send("STOPPING=1\nSTATUS=draining")

    def watchdog(self) -> None:
        """Still alive."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode(), self._address)
        except OSError:
            return  # systemd went away or is slow: mail matters more
