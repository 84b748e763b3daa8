import pytest

from support.http_door import KEY, World


async def test_the_root_is_the_text_by_which_clients_know_a_base_url(world: World) -> None:
    answer = await world.ask("GET", "/", key=None)
    assert (answer.status, answer.body) == (200, b"Mailgun Magnificent API")


@pytest.mark.parametrize(
    "path",
    ["/nope", "/v3", "/v3/", "/v3/example.org", "/v3/example.org/messages/", "/v3//messages", "/v3/a/messages.mime/x"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_a_404_in_json(world: World, path: str, method: str) -> None:
    answer = await world.ask(method, path)
    assert answer.status == 404
    assert answer.json == {"message": "Not Found"}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("resource", ["messages", "messages.mime"])
async def test_another_method_is_a_405_in_json(world: World, method: str, resource: str) -> None:
    answer = await world.ask(method, f"/v3/example.org/{resource}")
    assert answer.status == 405
    assert "message" in answer.json
    assert answer.headers["allow"] == "POST"


async def test_head_and_options_are_answered_without_a_body(world: World) -> None:
    options = await world.ask("OPTIONS", "/v3/example.org/messages", key=None)
    assert (options.status, options.body, list(options.headers)) == (204, b"", ["allow"])


async def test_a_cookie_says_nothing_and_none_is_set(world: World) -> None:
    for cookie in (f"session={KEY}", f"key={KEY}; api={KEY}"):
        answer = await world.ask("POST", "/v3/example.org/messages", key=None, headers={"cookie": cookie})
        assert answer.status == 401
        assert "set-cookie" not in answer.headers
    assert "set-cookie" not in (await world.ask("GET", "/")).headers
