import pytest

from pigeonry.doors.http.origin import OriginCheck
from support.http_door import World


@pytest.fixture
def guarded(world: World) -> World:
    world.door = OriginCheck(world.door)  # type: ignore[assignment]
    return world


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"])
async def test_requests_for_our_own_names_pass(guarded: World, host: str) -> None:
    assert (await guarded.ask("GET", "/", headers={"host": host})).status == 200
    assert (await guarded.ask("GET", "/", headers={"host": host, "origin": f"http://{host}"})).status == 200


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "[::2]"])
async def test_another_name_is_refused_wherever_it_resolves(guarded: World, host: str) -> None:
    assert (await guarded.ask("GET", "/", headers={"host": host})).status == 403


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "http://localhost:9", "http://localhost:8080.evil.example", ""]
)
async def test_pages_of_other_servers_are_refused(guarded: World, origin: str) -> None:
    answer = await guarded.ask("POST", "/v3/example.org/messages", headers={"host": "localhost:8080", "origin": origin})
    assert answer.status == 403
