from __future__ import annotations

import pytest

from pigeonry.app.loopback import LoopbackOnly, is_loopback


async def status(*headers: tuple[bytes, bytes]) -> int:
    said: list[dict[str, object]] = []

    async def inner(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message) -> None:
        said.append(message)

    await LoopbackOnly(inner)({"type": "http", "headers": list(headers)}, None, send)
    return said[0]["status"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    "host", [b"127.0.0.1:8080", b"localhost", b"LOCALHOST:1", b"sandbox.localhost:8080", b"[::1]:8080"]
)
async def test_loopback_names_are_answered(host: bytes) -> None:
    assert await status((b"host", host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        b"[::2]",
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"128.0.0.1",
        b"",
        b"10.0.0.1:8080",
    ],
)
async def test_a_name_made_to_resolve_to_loopback_is_refused(host: bytes) -> None:
    assert await status((b"host", host)) == 403


async def test_a_request_without_host_or_with_two_is_refused() -> None:
    assert await status() == 403
    assert await status((b"host", b"localhost"), (b"host", b"localhost")) == 403


@pytest.mark.parametrize(
    "origin",
    [
        b"http://evil.example",
        b"null",
        b"",
        b"http://localhost:3000",
        b"http://127.0.0.1",
        b"http://localhost:8080.evil.example",
    ],
)
async def test_another_pages_request_is_refused(origin: bytes) -> None:
    assert await status((b"host", b"localhost:8080"), (b"origin", origin)) == 403


async def test_our_own_pages_request_is_answered() -> None:
    assert await status((b"host", b"localhost:8080"), (b"origin", b"http://localhost:8080")) == 200


async def test_what_the_browser_calls_cross_site_is_refused() -> None:
    assert await status((b"host", b"localhost"), (b"sec-fetch-site", b"cross-site")) == 403
    assert await status((b"host", b"localhost"), (b"sec-fetch-site", b"same-origin")) == 200


@pytest.mark.parametrize(
    ("host", "ours"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("192.0.2.1", False)],
)
def test_only_loopback_hosts_may_be_listened_on(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours
