"""Load for drills: senders that remember exactly what was acknowledged.

A message counts as acknowledged only when its 250 or 200 was read. What got no answer is never sent again under
the same address, so that each address stands for one message.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pigeonry.drills.clients import ANSWER_S, NotBegun, is_taken

if TYPE_CHECKING:
    import ssl

    from pigeonry.drills.clients import Client
    from pigeonry.ports.environment import Clock

__all__ = ["Ledger", "Sender"]

RECONNECT_S = 0.05  # between attempts to reach a server that was just killed


class Ledger:
    """Hands out addresses and keeps what was acknowledged, refused and left open."""

    def __init__(self, total: int, domain: str) -> None:
        self.total = total
        self.domain = domain
        self.started = 0
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.unanswered: list[str] = []

    def next(self) -> str | None:
        """A fresh forward-path; None when enough were sent."""
        return None if len(self.acknowledged) >= self.total else self.fresh()

    def fresh(self) -> str:
        """A forward-path that was not used yet."""
        self.started += 1
        return f"d{self.started}@{self.domain}"

    def answered(self, path: str, code: int) -> None:
        """What the server said at the end."""
        (self.acknowledged if is_taken(code) else self.refused).append(path)


class Sender:
    """Keeps a connection, and sends one message after the other."""

    def __init__(
        self, ledger: Ledger, clock: Clock, address: tuple[str, int], client: Client, tls: ssl.SSLContext | None = None
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._address = address
        self._client = client
        self._tls = tls

    async def run(self) -> None:
        """Send until the ledger says enough."""
        while not await self._one_connection():
            await self._clock.sleep(RECONNECT_S)

    async def _one_connection(self) -> bool:
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*self._address, ssl=self._tls), ANSWER_S)
        except OSError:
            return False
        try:
            await self._client.greet(reader, writer)
            while (path := self._ledger.next()) is not None:
                try:
                    code = await asyncio.wait_for(self._client.send(reader, writer, path), ANSWER_S)
                except NotBegun:
                    self._ledger.refused.append(path)
                    return False
                except (OSError, EOFError, ValueError):
                    self._ledger.unanswered.append(path)
                    return False
                self._ledger.answered(path, code)
                if not is_taken(code):
                    return False
        except (NotBegun, OSError, EOFError, ValueError):
            return False
        else:
            return True
        finally:
            writer.transport.abort()
