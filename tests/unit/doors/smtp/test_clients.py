from __future__ import annotations

import pytest

from pigeonry.doors.smtp.clients import (
    ENTRIES_MAX,
    FAILED_LOGIN_DELAY_S_MAX,
    FAILED_LOGINS_MAX,
    FAILED_LOGINS_WINDOW_S,
    Clients,
    client_of,
)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_clients_are_counted_by_address_or_network(address: str, client: str) -> None:
    assert client_of(address) == client


def test_failed_logins_are_forgiven_after_a_while() -> None:
    clients = Clients((), connections_max=1)
    delays = [clients.failed_login("c", now=float(second)) for second in range(FAILED_LOGINS_MAX)]
    assert delays[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert max(delays) == FAILED_LOGIN_DELAY_S_MAX
    assert not clients.may_log_in("c", now=20.0)
    assert clients.may_log_in("d", now=20.0)
    assert clients.may_log_in("c", now=FAILED_LOGINS_WINDOW_S + 1.0)
    assert clients.failed_login("c", now=FAILED_LOGINS_WINDOW_S + 1.0) == 0.5


def test_tables_do_not_grow_for_ever() -> None:
    clients = Clients(("10.0.0.0/8",), connections_max=1)
    for number in range(ENTRIES_MAX + 100):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        assert clients.trusted(address)
        clients.failed_login(address, now=0.0)
    assert len(clients._failed) <= ENTRIES_MAX


def test_networks_are_those_of_the_configuration() -> None:
    clients = Clients(("10.0.0.0/8", "2001:db8::/32", "::1/128"), connections_max=1)
    assert all(clients.trusted(address) for address in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "::1"))
    assert not any(clients.trusted(address) for address in ("11.1.2.3", "::ffff:11.1.2.3", "2001:db9::1", "::2"))
