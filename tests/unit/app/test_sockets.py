from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pigeonry.app.config import load
from pigeonry.app.sockets import AddressTaken, Listener, bind, bind_command_socket, command_address, listeners_of


def test_each_slot_has_a_socket_of_its_own_on_one_port() -> None:
    made = bind(Listener("smtp", "127.0.0.1", 0), slots=3)
    try:
        assert len({one.fileno() for one in made}) == 3
        assert len({one.getsockname()[1] for one in made}) == 1
    finally:
        for one in made:
            one.close()


def test_an_address_that_is_taken_is_named_and_nothing_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = set(Path("/proc/self/fd").iterdir())
        with pytest.raises(AddressTaken, match=f"127.0.0.1:{port} cannot be listened on: Address already in use"):
            bind(Listener("smtp", "127.0.0.1", port), slots=2)
        assert set(Path("/proc/self/fd").iterdir()) == before


def test_two_nodes_do_not_share_an_address_by_mistake() -> None:
    first = bind(Listener("smtp", "127.0.0.1", 0), slots=2)
    try:
        with pytest.raises(AddressTaken, match="another program has it"):
            bind(Listener("smtp", "127.0.0.1", first[0].getsockname()[1]), slots=2)
    finally:
        for one in first:
            one.close()


def test_a_name_that_does_not_resolve_is_named() -> None:
    with pytest.raises(AddressTaken, match=r"no-such-host.invalid:25"):
        bind(Listener("smtp", "no-such-host.invalid", 25), slots=1)


def test_the_doors_listen_where_the_settings_say() -> None:
    settings = load(None, {"PIGEONRY_HTTP__LISTEN": "", "PIGEONRY_SMTP__LISTEN": "127.0.0.1:25,[::1]:25"})
    assert listeners_of(settings) == (Listener("smtp", "127.0.0.1", 25), Listener("smtp", "::1", 25))


@pytest.mark.parametrize("depth", [1, 30])
def test_a_command_socket_is_reached_however_deep_its_folder_lies(tmp_path: Path, depth: int) -> None:
    data = tmp_path.joinpath(*["folder"] * depth)
    with bind_command_socket(str(data), 0) as listening, socket.socket(socket.AF_UNIX) as client:
        with command_address(str(data), 0) as address:
            client.connect(address)
        listening.accept()[0].close()
    assert (data / "run").stat().st_mode & 0o077 == 0
