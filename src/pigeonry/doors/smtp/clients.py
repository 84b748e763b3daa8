"""Where clients come from: who is trusted, who has too many connections, who guesses passwords.

Trust: addresses are the peer's, so every table here is bounded, and a full one forgets its oldest entries rather than
grow. An IPv6 client is counted by its /64, which is what one subscriber is given.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

from pigeonry.domain.networks import Networks, parsed_address

__all__ = ["Clients", "client_of"]

ENTRIES_MAX: Final = 10_000  # of each table, some 150 octets each
FAILED_LOGINS_MAX: Final = 20  # from one client in a window; then it is turned away
FAILED_LOGINS_WINDOW_S: Final = 900.0  # seconds; who mistyped a password can try again after a break
FAILED_LOGIN_DELAY_S: Final = 0.5  # after the first failure; doubled by each one after it
FAILED_LOGIN_DELAY_S_MAX: Final = 8.0  # seconds; guessing is hopeless, and no client gives up waiting


def client_of(address: str) -> str:
    """What a peer's address is counted by."""
    if ":" not in address:
        return address
    parsed = parsed_address(address)
    return str(parsed if parsed.version == 4 else ipaddress.ip_network((parsed, 64), strict=False))


class Clients:
    """Bounded facts about clients.

    Args:
        trusted_networks: CIDRs.
        connections_max: Connections of one untrusted client at a time.

    Raises:
        ValueError: A network is malformed, or is everybody.
    """

    def __init__(self, trusted_networks: tuple[str, ...], *, connections_max: int) -> None:
        self._trusted = Networks(trusted_networks)
        if self._trusted.has_everybody:
            raise ValueError("trusted_networks may not be everybody: that would be an open relay")
        self._connections_max = connections_max
        self._connections: dict[str, int] = {}
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def trusted(self, address: str) -> bool:
        """Whether the peer with that address may relay without a login."""
        return self._trusted.has(address)

    def connect(self, client: str) -> bool:
        """Count a connection of an untrusted client; False when it has too many, and nothing was counted."""
        count = self._connections.get(client, 0)
        if count >= self._connections_max:
            return False
        self._connections[client] = count + 1
        return True

    def disconnect(self, client: str) -> None:
        """Uncount what ``connect`` counted."""
        count = self._connections[client] - 1
        if count:
            self._connections[client] = count
        else:
            del self._connections[client]

    def may_log_in(self, client: str, *, now: float) -> bool:
        """Whether it may try a password; ``now`` in monotonic seconds."""
        count, since = self._failed.get(client, (0, now))
        return count < FAILED_LOGINS_MAX or now - since > FAILED_LOGINS_WINDOW_S

    def failed_login(self, client: str, *, now: float) -> float:
        """Count a wrong password; how many seconds its answer should take."""
        count, since = self._failed.pop(client, (0, now))
        if now - since > FAILED_LOGINS_WINDOW_S:
            count, since = 0, now
        self._failed[client] = (count + 1, since)
        if len(self._failed) > ENTRIES_MAX:
            self._failed.popitem(last=False)
        return min(FAILED_LOGIN_DELAY_S * 2.0 ** min(count, 8), FAILED_LOGIN_DELAY_S_MAX)
