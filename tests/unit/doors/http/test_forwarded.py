"""Whom the fields of gateways are believed from, and what of them."""

from __future__ import annotations

from typing import Any

import pytest

from pigeonry.domain.networks import Networks
from pigeonry.doors.http.forwarded import Forwarded

GATEWAY = "10.0.0.1"


async def seen(*headers: tuple[str, str], client: str | None = GATEWAY) -> dict[str, Any]:
    """The scope that the application gets of a request with these headers."""
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)

    scope = {
        "type": "http",
        "scheme": "http",
        "client": None if client is None else (client, 4711),
        "headers": [(b"host", b"node.internal"), *((name.encode(), value.encode()) for name, value in headers)],
    }
    before = dict(scope)
    await Forwarded(app, Networks(["10.0.0.0/8", "2001:db8:1::/48"]))(scope, None, None)  # type: ignore[arg-type]
    assert scope == before
    return found


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        ([], GATEWAY),
        ([""], GATEWAY),
        (["198.51.100.7"], "198.51.100.7"),
        (["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the left one is the client's own invention
        (["10.9.9.9, 198.51.100.7, 10.0.0.2,10.0.0.3"], "198.51.100.7"),
        (["203.0.113.9", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),  # several lines are one list
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all ours: the first of them asks for itself
        (["198.51.100.7:5060"], "198.51.100.7"),
        (["[2001:db8::7]:5060"], "2001:db8::7"),
        (["2001:DB8::7"], "2001:db8::7"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["203.0.113.9, unknown"], GATEWAY),
        (["203.0.113.9, _hidden, 10.0.0.2"], "10.0.0.2"),
        (["198.51.100.7,"], GATEWAY),
        (["198.51.100.7, [::1"], "::1"),
        (["198.51.100.7, 1.2.3"], GATEWAY),
        (["198.51.100.7, \x00"], GATEWAY),
    ],
)
async def test_the_client_is_the_rightmost_that_is_no_gateway(hops: list[str], client: str) -> None:
    assert (await seen(*(("x-forwarded-for", hop) for hop in hops)))["client"][0] == client


async def test_scheme_and_host_are_the_nearest_gateways() -> None:
    scope = await seen(("x-forwarded-proto", "http, HTTPS"), ("x-forwarded-host", "evil.test, mail.example.net"))
    assert scope["scheme"] == "https"
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"mail.example.net"]
    scope = await seen(("x-forwarded-proto", "gopher"))
    assert scope["scheme"] == "http"
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"node.internal"]


@pytest.mark.parametrize("client", ["198.51.100.7", "11.0.0.1", None])
async def test_nobody_else_is_believed(client: str | None) -> None:
    fields = (("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "evil.test"))
    scope = await seen(*fields, client=client)
    assert scope["client"] == (None if client is None else (client, 4711))
    assert scope["scheme"] == "http"
    assert (b"host", b"node.internal") in scope["headers"]
