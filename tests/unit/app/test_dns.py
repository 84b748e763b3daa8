"""The resolver that the settings describe."""

from __future__ import annotations

import pytest

from pigeonry.app.dns import resolver_of
from pigeonry.app.settings import DnsSettings, Settings
from pigeonry.net.environment import SystemClock


@pytest.mark.parametrize(
    ("trusted", "server", "believed"),
    [
        ("loopback", "127.0.0.1:5353", True),
        ("loopback", "192.0.2.53", False),
        ("always", "[2001:db8::53]:53", True),
        ("never", "127.0.0.1", False),
    ],
)
def test_who_vouches_for_answers(trusted, server, believed):
    settings = Settings(dns=DnsSettings(nameservers=(server,), trusted=trusted))
    resolver = resolver_of(settings, SystemClock())
    resolver._make_stub()
    assert resolver._trusted is believed
