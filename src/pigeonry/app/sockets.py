"""Listening sockets: bound once by the supervisor, one for each listener and worker slot.

With SO_REUSEPORT the kernel spreads connections over the slots' sockets. They belong to the supervisor: a worker
that dies leaves its socket and what waits in it to its successor, so no connection in the backlog is reset.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pigeonry.app.config import split_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pigeonry.app.settings import Settings

__all__ = ["BACKLOG", "AddressTaken", "Listener", "bind", "bind_command_socket", "command_address", "listeners_of"]

BACKLOG: Final = 2048  # connections that wait while a worker is replaced; the kernel may cap it (somaxconn)

Door = Literal["http", "https", "smtp", "smtps", "cluster", "ops"]


class AddressTaken(Exception):
    """An address cannot be listened on; the text says which and why, and what to do."""


_SETTINGS: Final[dict[Door, str]] = {
    "http": "http.listen",
    "https": "http.tls_listen",
    "smtp": "smtp.listen",
    "smtps": "smtp.tls_listen",
    "cluster": "cluster.listen",
    "ops": "ops.listen",
}
_HINTS: Final = {
    errno.EADDRINUSE: "; another program has it",
    errno.EADDRNOTAVAIL: "; no interface of this machine has it",
    errno.EACCES: "; a port under 1024 needs CAP_NET_BIND_SERVICE, which packaging/pigeonry.service gives",
}


class Listener(msgspec.Struct, frozen=True):
    """One address that a door listens on, as the configuration names it."""

    door: Door
    host: str
    port: int


def listeners_of(settings: Settings) -> tuple[Listener, ...]:
    """Every address that workers listen on."""
    doors: tuple[tuple[Door, tuple[str, ...]], ...] = (
        ("http", settings.http.listen),
        ("https", settings.http.tls_listen),
        ("smtp", settings.smtp.listen),
        ("smtps", settings.smtp.tls_listen),
        ("cluster", settings.cluster.listen),
    )
    return tuple(Listener(door, *split_address(text)) for door, texts in doors for text in texts)


def bind(listener: Listener, *, slots: int, named: str = "") -> tuple[socket.socket, ...]:
    """Sockets that listen on one address, one for each worker slot; port 0 takes a free port for all of them.

    Args:
        named: What the address was given by, for the error; left out: the setting of this door.

    Raises:
        AddressTaken: It cannot be had.
    """
    bound: list[socket.socket] = []
    port = listener.port
    try:
        if slots > 1:
            _bound(listener.host, port, shared=False).close()  # who shares a port is not told that another has it
        for _ in range(slots):
            made = _bound(listener.host, port, shared=slots > 1)
            bound.append(made)
            made.listen(BACKLOG)
            port = made.getsockname()[1]
    except OSError as error:
        for made in bound:
            made.close()
        hint = _HINTS.get(error.errno or 0, "")
        named = named or _SETTINGS[listener.door]
        raise AddressTaken(f"{named}: {listener.host}:{port} cannot be listened on: {error.strerror}{hint}") from None
    return tuple(bound)


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


@contextlib.contextmanager
def command_address(data: str, slot: int | None) -> Iterator[str]:
    """Path by which a worker's command socket can be bound or reached, however deep the data folder lies.

    Without a slot it is the supervisor's. A Unix socket's address holds 107 octets; a longer path is reached through a
    descriptor of its folder.
    """
    path = Path(data) / "run" / ("node.sock" if slot is None else f"worker-{slot}.sock")
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def bind_command_socket(data: str, slot: int | None) -> socket.socket:
    """The listening socket for commands to the worker of a slot, or to the supervisor; only this user can reach it."""
    folder = Path(data) / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with command_address(data, slot) as address:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)  # noqa: PTH108  # may be a path through a descriptor
        made.bind(address)
    made.listen(BACKLOG)
    made.setblocking(False)
    return made
