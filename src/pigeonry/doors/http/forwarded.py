"""Who really asks, where gateways stand in front: ``X-Forwarded-For``, ``-Proto`` and ``-Host`` from trusted ones.

Each gateway appends the address it was asked from, so only the right end of the list is to be believed: the client is
the rightmost address that is no trusted gateway's. What stands left of it the client wrote itself. Scheme and host are
those that the nearest gateway names, which is the last one in the field. From any other address none of the three
fields means anything.

Standards: RFC 7239 section 8.1 (a list is as trustworthy as who wrote it; the fields themselves are older usage).
Trust: fields from outside count only through a connection from an address that the operator named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pigeonry.domain.networks import parsed_address

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from pigeonry.domain.networks import Networks

__all__ = ["Forwarded"]


class Forwarded:
    """An ASGI application around another, which sees the client instead of the gateway.

    Args:
        trusted: Addresses of gateways.
    """

    def __init__(self, app: ASGIApp, trusted: Networks) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        client = scope.get("client")
        if client is not None and self._trusted.has(client[0]):
            scope = {**scope, **self._said(scope["headers"], client)}
        await self._app(scope, receive, send)

    def _said(self, headers: list[tuple[bytes, bytes]], client: tuple[str, int]) -> dict[str, Any]:
        """What the gateway says, as entries of the scope."""
        said: dict[str, Any] = {"client": self._client(_field(headers, b"x-forwarded-for"), client)}
        scheme = _last(headers, b"x-forwarded-proto").lower()
        if scheme in {"http", "https"}:
            said["scheme"] = scheme
        host = _last(headers, b"x-forwarded-host")
        if host:
            others = [field for field in headers if field[0] != b"host"]
            said["headers"] = [(b"host", host.encode("latin-1")), *others]
        return said

    def _client(self, hops: str, nearest: tuple[str, int]) -> tuple[str, int]:
        found = nearest
        while hops:
            hops, _, last = hops.rpartition(",")
            try:
                address = str(parsed_address(_without_port(last.strip())))
            except ValueError:
                break  # a gateway that does not know or does not say: it is the last one we know
            found = address, 0
            if not self._trusted.has(address):
                break
        return found


def _field(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    """All lines of a field as the one list that they are."""
    return ",".join(value.decode("latin-1") for field, value in headers if field == name)


def _last(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    return _field(headers, name).rpartition(",")[2].strip()


def _without_port(hop: str) -> str:
    """An address that some gateways write with the client's port."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
