from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from starlette.routing import Router

from pigeonry.capture.inbox import routes

LARGEST = 2**63 - 1  # that SQLite takes


class Empty:
    """A box with nothing in it that takes what SQLite takes."""

    async def get(self, number: int) -> None:
        assert -1 <= number <= LARGEST

    async def newest(self, *, before: int | None = None, limit: int = 100) -> Sequence[Any]:
        assert limit
        assert before is None or -1 <= before <= LARGEST
        return ()


async def _no_events(_message_id: str) -> Sequence[Mapping[str, Any]]:
    return ()


async def _status(path: str, query: str = "") -> int:
    app = Router(routes(Empty(), events_of=_no_events, try_it="curl"))  # type: ignore[arg-type]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    await app({**scope, "root_path": "", "scheme": "http", "server": None, "client": None}, receive, send)
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize("number", ["7", "9" * 19, "9" * 5_000, "-1", "x", "\u0663"])
async def test_a_message_that_is_not_there_is_not_found_whatever_its_number(number: str) -> None:
    for path in ("/inbox/{}", "/inbox/{}/frame", "/inbox/{}/raw", "/inbox/1/parts/{}", "/inbox/api/messages/{}"):
        assert await _status(path.format(number)) == 404


@pytest.mark.parametrize("before", ["", "7", "9" * 19, "9" * 5_000, "x"])
async def test_a_page_may_be_asked_for_from_any_number(before: str) -> None:
    for path in ("/inbox", "/inbox/api/messages"):
        assert await _status(path, f"before={before}") == 200
