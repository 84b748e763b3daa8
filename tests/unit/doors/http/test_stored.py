import asyncio

import msgspec
import pytest

from pigeonry.doors.http.v3 import stored
from support.http_door import World, multipart

USUAL = {
    "from": "Al <al@example.org>",
    "to": "bo@example.com",
    "subject": "Grüße",
    "text": "new\n> old\n-- \nAl",
    "html": "<b>h</b><img src='cid:i.png'>",
    "o:tag": "t",
}


async def send(world: World, **more: str) -> str:
    body, headers = multipart(
        {**USUAL, **{name.replace("_", "-"): value for name, value in more.items()}},
        [("attachment", "a.pdf", "application/pdf", b"pdf!"), ("inline", "i.png", "image/png", b"png")],
    )
    assert (await world.ask("POST", "/v3/example.org/messages", body, headers=headers)).status == 200
    return f"/v3/domains/example.org/messages/{world.store.key()}"


async def test_a_stored_message_is_shown_in_its_parts(world: World) -> None:
    path = await send(world)
    answer = await world.ask("GET", path)
    assert answer.status == 200
    shown = answer.json
    url = f"http://api.example.net{path}"
    assert shown["recipients"] == "bo@example.com"
    assert shown["sender"] == "al@example.org"
    assert shown["from"] == shown["From"] == "Al <al@example.org>"
    assert shown["subject"] == shown["Subject"] == "Grüße"
    assert shown["body-plain"].strip() == "new\n> old\n-- \nAl"
    assert shown["body-html"].startswith("<b>h</b>")
    assert (shown["stripped-text"], shown["stripped-signature"]) == ("new", "Al")
    assert shown["X-Mailgun-Tag"] == "t"
    assert ["Mime-Version", "1.0"] in shown["message-headers"]
    assert shown["message-url"] == url
    files = {entry["name"]: entry for entry in shown["attachments"]}
    assert files["a.pdf"]["size"] == 4
    assert files["a.pdf"]["content-type"] == "application/pdf"
    assert files["a.pdf"]["url"].startswith(f"{url}/attachments/")
    assert shown["content-id-map"] == {"<i.png>": files["i.png"]}
    assert answer.headers["x-mailgun-key-id"] == "aaaaaaaa-00000001"


async def test_the_amp_text_is_no_attachment(world: World) -> None:
    shown = (await world.ask("GET", await send(world, amp_html="<html amp4email></html>"))).json
    assert {entry["name"] for entry in shown["attachments"]} == {"a.pdf", "i.png"}


async def test_it_is_shown_raw_when_asked_for(world: World) -> None:
    path = await send(world)
    shown = (await world.ask("GET", path, headers={"accept": "message/rfc2822"})).json
    assert set(shown) == {"recipients", "sender", "from", "subject", "body-mime"}
    assert shown["body-mime"].encode() == world.stored_body()


async def test_an_attachment_is_fetched_by_the_url_it_was_shown_with(world: World) -> None:
    path = await send(world)
    for entry, content in zip((await world.ask("GET", path)).json["attachments"], (b"png", b"pdf!"), strict=True):
        answer = await world.ask("GET", entry["url"].removeprefix("http://api.example.net"))
        assert answer.body == content
        assert answer.headers["content-type"] == entry["content-type"]
        assert answer.headers["content-disposition"].startswith("attachment")
    for number in ("2", "9" * 30, "9" * 5_000, "-1", "x", "\u0663"):
        assert (await world.ask("GET", f"{path}/attachments/{number}")).status == 404


async def test_a_batch_is_shown_as_its_first_recipient_gets_it(world: World) -> None:
    path = await send(world, to="bo@example.com, cy@example.com", recipient_variables="{}", subject="%recipient_email%")
    shown = (await world.ask("GET", path)).json
    assert shown["To"] == shown["Subject"] == shown["subject"] == "bo@example.com"
    assert shown["recipients"] == "bo@example.com, cy@example.com"


async def test_urls_follow_the_host_that_the_client_used(world: World) -> None:
    path = await send(world)
    headers = {"host": "mail.example.net:8443", "x-forwarded-proto": "https", "x-forwarded-host": "evil.test"}
    shown = (await world.ask("GET", path, headers=headers)).json
    assert shown["message-url"] == f"http://mail.example.net:8443{path}"
    shown = (await world.ask("GET", path, headers={"host": 'evil/"><script>'})).json
    assert shown["message-url"] == f"http://127.0.0.1:8080{path}"


@pytest.mark.parametrize("key", ["nonsense", "AAAAAAAAAAAAAAAAAAAAAA", "é", "x" * 22])
async def test_what_is_not_there_is_not_found(world: World, key: str) -> None:
    answer = await world.ask("GET", f"/v3/domains/example.org/messages/{key}")
    assert answer.status == 404
    assert answer.json == {"message": "Message not found"}


async def test_a_message_is_seen_through_its_own_domain_by_its_own_account(world: World) -> None:
    path = await send(world)
    assert (await world.ask("GET", path.replace("example.org", "second.example"))).status == 404
    assert (await world.ask("GET", path, key="key-other")).status == 404
    assert (await world.ask("GET", path, key="key-sending")).status == 403
    assert (await world.ask("GET", path, key="key-basic")).status == 200
    answer = await world.ask("GET", path, key=None)
    assert (answer.status, answer.body) == (401, b"Forbidden")


async def test_what_is_on_its_way_to_slow_clients_is_bounded(world: World) -> None:
    path = await send(world)
    accepted = world.store.accepted[0]
    half = msgspec.structs.replace(accepted.summary, size=stored.READ_OCTETS_MAX // 2)
    world.store.accepted[0] = msgspec.structs.replace(accepted, summary=half)
    slow = [asyncio.create_task(world.ask("GET", path, reads=asyncio.Event())) for _ in range(2)]
    await asyncio.sleep(0)
    refused = await world.ask("GET", path)
    assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    for where in (path, f"{path}/attachments/7", path):  # also one that ends in an error leaves its room
        assert (await world.ask("GET", where)).status in {200, 404}
