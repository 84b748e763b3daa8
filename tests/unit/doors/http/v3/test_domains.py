"""``/v3/domains`` and ``/v3/domains/{domain}/credentials`` as clients use them."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from pigeonry.auth.logins import SMTP_CREDENTIAL
from pigeonry.domain.tenant import Caller
from pigeonry.doors.http.app import HttpDoor
from pigeonry.doors.http.v3 import credentials, domains
from support.http_door import KEY, Answer, World, multipart
from support.tenancy import Tenancy

OTHER = "key-other"
BASIC = "key-basic"
NEW = {"name": "a.example", "dkim_key_size": "1024"}
URLENCODED = {"content-type": "application/x-www-form-urlencoded"}


class Site:
    """The door over a real directory and identity in memory."""

    def __init__(self) -> None:
        self.tenancy = Tenancy()
        tenancy = self.tenancy
        self.world = World()
        self.world.keys.callers["key-one-domain"] = Caller("acct", "aaaaaaaa-00000009", domain="a.example")
        world = self.world
        world.door = HttpDoor(
            keys=world.keys,
            domains=tenancy.book,
            accept=world.store.accept,
            reject=world.store.reject,
            store=world.store,  # type: ignore[arg-type]
            bodies=world.bodies,
            coordinator=world.coordinator,
            clock=tenancy.clock,
            ids=tenancy.ids,
            gate=world.gate,
            hostname="mx.example.net",
            extra_routes=[
                *domains.routes(
                    book=tenancy.book,
                    registry=tenancy.registry,
                    register=tenancy.register,
                    clock=tenancy.clock,
                    hostname="mx.example.net",
                ),
                *credentials.routes(registry=tenancy.registry, register=tenancy.register),
            ],
        )

    async def ask(self, method: str, path: str, fields: dict[str, Any] | None = None, **more: Any) -> Answer:
        body = urlencode(fields, doseq=True).encode() if fields else b""
        headers = {**(URLENCODED if fields else {}), **more.pop("headers", {})}
        return await self.world.ask(method, path, body, headers=headers, **more)

    async def trace(self) -> int:
        """How many changes the stores have seen."""
        found = [await store.changes(after=0) for store in (self.tenancy.directory, self.tenancy.identity)]
        return sum(change.position for page in found for change in page)


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
async def made(site: Site) -> Site:
    assert (await site.ask("POST", "/v3/domains", NEW)).status == 200
    return site


# -- domains


@pytest.mark.parametrize("version", ["v3", "v4"])
async def test_new_domain_is_answered_with_what_to_publish(site: Site, version: str):
    answer = await site.ask("POST", f"/{version}/domains", {**NEW, "dkim_selector": "k1", "web_prefix": "click"})
    assert answer.status == 200
    assert answer.json["message"] == "Domain DNS records have been created"
    domain = answer.json["domain"]
    assert len(domain["id"]) == 24
    assert domain["state"] == "active"
    assert domain["type"] == "custom"
    assert domain["smtp_login"] == "postmaster@a.example"
    assert domain["web_prefix"] == "click"
    assert domain["disabled"] is None
    assert domain["is_disabled"] is False
    assert "smtp_password" not in domain
    assert domain["created_at"].endswith(" GMT")
    assert parsedate_to_datetime(domain["created_at"]).timestamp() == 1_000_000
    spf, key = answer.json["sending_dns_records"]
    assert spf["value"] == "v=spf1 a:mx.example.net ~all"
    assert key["name"] == "k1._domainkey.a.example"
    assert key["value"].startswith("v=DKIM1; k=rsa; p=MI")
    assert (key["valid"], key["cached"], key["is_active"]) == ("unknown", [], True)
    (mx,) = answer.json["receiving_dns_records"]
    assert (mx["record_type"], mx["value"], mx["priority"]) == ("MX", "mx.example.net", "10")


async def test_domain_can_be_asked_for_in_all_forms_of_a_request(site: Site):
    body, headers = multipart(NEW)
    assert (await site.world.ask("POST", "/v3/domains", body, headers=headers)).status == 200
    given = {**NEW, "name": "b.example", "wildcard": True}
    answer = await site.world.ask("POST", "/v4/domains", msgspec.json.encode(given))
    assert answer.status == 200
    assert answer.json["domain"]["wildcard"] is True
    assert (await site.ask("POST", "/v3/domains", query="name=c.example&dkim_key_size=1024")).status == 200


async def test_answer_comes_when_other_workers_know_the_domain(site: Site):
    before = site.tenancy.clock.at
    await site.ask("POST", "/v3/domains", NEW)
    assert site.tenancy.clock.at - before == 0.5


async def test_smtp_password_makes_the_postmasters_login_and_is_not_shown_again(site: Site):
    answer = await site.ask("POST", "/v3/domains", {**NEW, "smtp_password": " se cret "})
    assert answer.json["domain"]["smtp_password"] == " se cret "
    document = await site.tenancy.identity.get(SMTP_CREDENTIAL, "postmaster@a.example")
    assert document is not None
    kept = msgspec.json.decode(document.value)["password"]
    assert await site.tenancy.passwords.verify(kept, " se cret ")
    shown = await site.ask("GET", "/v3/domains/a.example")
    assert b"se cret" not in shown.body


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, "Parameter name is required."),
        ({"name": "localhost"}, "not one that mail can be sent from"),
        ({"name": "a b"}, "malformed"),
        ({"name": "a.example\r\nx: y"}, "malformed"),
        ({"smtp_password": "1234"}, "5 to 32 characters"),
        ({"smtp_password": "x" * 33}, "5 to 32 characters"),
        ({"spam_action": "eat"}, "disabled, tag, block, delete"),
        ({"wildcard": "maybe"}, "wildcard is neither yes nor no"),
        ({"require_tls": "2"}, "require_tls is neither"),
        ({"web_scheme": "ftp"}, "http, https"),
        ({"web_prefix": "a.b"}, "web_prefix"),
        ({"dkim_key_size": "512"}, "1024, 2048"),
        ({"dkim_selector": "a.b"}, "selector"),
    ],
)
async def test_bad_parameter_is_named_and_leaves_nothing_behind(site: Site, fields: dict[str, str], text: str):
    answer = await site.ask("POST", "/v3/domains", {**NEW, **fields})
    assert answer.status == 400
    assert text in answer.json["message"]
    assert await site.trace() == 0


@pytest.mark.parametrize("key", [KEY, OTHER])
async def test_name_that_is_taken_is_400_for_everybody(made: Site, key: str):
    answer = await made.ask("POST", "/v3/domains", {**NEW, "name": "A.Example"}, key=key)
    assert (answer.status, answer.json["message"]) == (400, "This domain name is already taken")


async def test_body_over_the_limit_is_413_and_a_broken_one_400(site: Site):
    body = b"name=a.example&x=" + b"y" * 70_000
    assert (await site.world.ask("POST", "/v3/domains", body, headers=URLENCODED)).status == 413
    assert (await site.world.ask("POST", "/v3/domains", b'{"name": "a.exa')).status == 400
    body, headers = multipart(NEW)
    assert (await site.world.ask("POST", "/v3/domains", body[:-10], headers=headers)).status == 400
    assert await site.trace() == 0


async def test_client_that_goes_away_leaves_nothing_behind(site: Site):
    await site.world.ask("POST", "/v3/domains", b"name=a.example&dkim", headers=URLENCODED, gone=True)
    assert await site.trace() == 0


async def test_domain_is_shown_with_its_records(made: Site):
    for path in ("/v3/domains/a.example", "/v4/domains/A.EXAMPLE"):
        answer = await made.ask("GET", path, query="h:extended=true&h:with_dns=true")
        assert answer.status == 200
        assert answer.json["domain"]["name"] == "a.example"
        assert len(answer.json["sending_dns_records"]) == 2
        assert answer.headers["x-mailgun-key-id"] == "aaaaaaaa-00000001"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(("name", "key"), [("a.example", OTHER), ("b.example", KEY), ("a.example%0d%0a", KEY)])
async def test_domain_of_another_looks_like_none(made: Site, method: str, name: str, key: str):
    before = await made.trace()
    answer = await made.ask(method, f"/v3/domains/{name}", key=key)
    assert answer.status == 404
    assert answer.json == {"message": f"Domain not found: {name}"}
    assert await made.trace() == before


async def test_list_is_newest_first_and_pages(site: Site):
    for name in ("b.example", "a.example", "c.example"):
        await site.ask("POST", "/v3/domains", {**NEW, "name": name})
    await site.ask("POST", "/v3/domains", {**NEW, "name": "other.example"}, key=OTHER)

    async def names(query: str) -> tuple[int, list[str]]:
        answer = await site.ask("GET", "/v3/domains", query=query)
        return answer.json["total_count"], [item["name"] for item in answer.json["items"]]

    assert await names("") == (3, ["c.example", "a.example", "b.example"])
    assert await names("limit=1&skip=1") == (3, ["a.example"])
    assert await names("skip=3") == (3, [])
    assert await names("sort=name") == (3, ["a.example", "b.example", "c.example"])
    assert await names("sort=name:desc") == (3, ["c.example", "b.example", "a.example"])
    assert await names("search=B.") == (1, ["b.example"])
    assert await names("state=disabled") == (0, [])


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=²", "skip=-1", "skip=" + "9" * 5000])
async def test_page_out_of_range_is_400(site: Site, query: str):
    answer = await site.ask("GET", "/v3/domains", query=query)
    assert answer.status == 400
    assert query.partition("=")[0] in answer.json["message"]


async def test_list_shows_what_is_known_when_the_directory_is_gone(made: Site):
    await made.ask("GET", "/v3/domains")
    made.tenancy.directory.down = True
    assert (await made.ask("GET", "/v3/domains")).json["total_count"] == 1
    answer = await made.ask("GET", "/v3/domains/a.example")
    assert answer.status == 503
    assert "retry-after" in answer.headers


async def test_settings_can_be_changed_one_by_one(made: Site):
    changes = {"spam_action": "delete", "require_tls": "True", "skip_verification": "1", "web_scheme": "https"}
    for name, value in changes.items():
        answer = await made.ask("PUT", "/v4/domains/a.example", {name: value})
        assert answer.status == 200
    shown = (await made.ask("GET", "/v4/domains/a.example")).json["domain"]
    assert (shown["spam_action"], shown["require_tls"]) == ("block", True)
    assert (shown["skip_verification"], shown["web_scheme"], shown["wildcard"]) == (True, "https", False)


async def test_deleted_domain_is_gone_with_all_that_may_send_for_it(made: Site):
    await made.ask("POST", "/v3/domains/a.example/credentials", {"login": "al"})
    answer = await made.ask("DELETE", "/v3/domains/a.example")
    assert answer.json == {"message": "Domain will be deleted in the background"}
    assert (await made.ask("GET", "/v3/domains/a.example")).status == 404
    assert (await made.ask("GET", "/v3/domains")).json == {"total_count": 0, "items": []}
    assert await made.tenancy.register.credentials() == []
    assert (await made.ask("POST", "/v3/domains", NEW, key=OTHER)).status == 200


async def test_keys_that_may_not_are_refused(made: Site):
    assert (await made.ask("GET", "/v3/domains", key=None)).status == 401
    assert (await made.ask("GET", "/v3/domains", key="key-sending")).status == 403
    assert (await made.ask("GET", "/v3/domains/a.example", key=BASIC)).status == 200
    for method, path in (
        ("POST", "/v3/domains"),
        ("PUT", "/v3/domains/a.example"),
        ("DELETE", "/v3/domains/a.example"),
        ("POST", "/v3/domains/a.example/credentials"),
        ("DELETE", "/v3/domains/a.example/credentials"),
    ):
        assert (await made.ask(method, path, key=BASIC)).status == 403
    assert (await made.ask("GET", "/v3/domains/a.example")).status == 200


async def test_key_for_one_domain_sees_that_one_and_makes_none(made: Site):
    await made.ask("POST", "/v3/domains", {**NEW, "name": "b.example"})
    shown = await made.ask("GET", "/v3/domains", key="key-one-domain")
    assert [item["name"] for item in shown.json["items"]] == ["a.example"]
    assert (await made.ask("GET", "/v3/domains/b.example", key="key-one-domain")).status == 404
    assert (await made.ask("POST", "/v3/domains", {**NEW, "name": "c.example"}, key="key-one-domain")).status == 403


async def test_method_that_is_not_there_is_405(made: Site):
    assert (await made.ask("DELETE", "/v3/domains")).status == 405
    assert (await made.ask("POST", "/v3/domains/a.example", {"x": "y"})).status == 405


# -- logins


CREDENTIALS = "/v3/domains/a.example/credentials"


async def test_login_with_a_given_password_does_not_repeat_it(made: Site):
    answer = await made.ask("POST", CREDENTIALS, {"login": "Al", "password": "se cret"})
    assert answer.json == {"message": "Created 1 credentials pair(s)"}
    shown = await made.ask("GET", CREDENTIALS)
    assert shown.json["total_count"] == 1
    (item,) = shown.json["items"]
    assert (item["login"], item["mailbox"], item["size_bytes"]) == ("al@a.example", "al@a.example", None)
    assert item["created_at"].endswith(" +0000")


async def test_password_that_was_made_is_told_once(made: Site):
    answer = await made.ask("POST", CREDENTIALS, {"mailbox": "al@a.example"})
    password = answer.json["credentials"]["al@a.example"]
    assert len(password) == 32
    document = await made.tenancy.identity.get(SMTP_CREDENTIAL, "al@a.example")
    assert document is not None
    assert await made.tenancy.passwords.verify(msgspec.json.decode(document.value)["password"], password)
    assert password.encode() not in (await made.ask("GET", CREDENTIALS)).body


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "login is required"),
        ({"login": "al@b.example"}, "not an address at a.example"),
        ({"login": "a b"}, "malformed"),
        ({"login": "al\r\n"}, None),
        ({"login": "al", "password": "1234"}, "5 to 32"),
        ({"login": "al", "password": "x" * 33}, "5 to 32"),
    ],
)
async def test_bad_login_is_refused(made: Site, fields: dict[str, str], text: str | None):
    answer = await made.ask("POST", CREDENTIALS, {"x": "y", **fields})
    if text is None:  # the space around a value is nobody's
        assert answer.status == 200
        return
    assert answer.status == 400
    assert text in answer.json["message"]
    assert await made.tenancy.register.credentials() == []


@pytest.mark.parametrize("login", ["al", "al@a.example", "AL@a.example"])
async def test_password_is_changed_and_the_login_deleted_by_either_name(made: Site, login: str):
    await made.ask("POST", CREDENTIALS, {"login": "al", "password": "first"})
    changed = await made.ask("PUT", f"{CREDENTIALS}/{login}", {"password": "second"})
    assert changed.json == {"message": "Password changed"}
    made_anew = await made.ask("PUT", f"{CREDENTIALS}/{login}")
    assert list(made_anew.json["credentials"]) == ["al@a.example"]
    deleted = await made.ask("DELETE", f"{CREDENTIALS}/{login}")
    assert deleted.status == 200
    assert deleted.json["spec"] == "al@a.example"
    assert (await made.ask("DELETE", f"{CREDENTIALS}/{login}")).status == 404
    assert (await made.ask("PUT", f"{CREDENTIALS}/{login}", {"password": "third"})).status == 404


async def test_postmasters_login_cannot_be_deleted_alone(made: Site):
    await made.ask("POST", CREDENTIALS, {"login": "postmaster", "password": "se cret"})
    assert (await made.ask("DELETE", f"{CREDENTIALS}/postmaster@a.example")).status == 400
    answer = await made.ask("DELETE", CREDENTIALS)
    assert answer.json == {"message": "All domain credentials have been deleted", "count": 1}


async def test_logins_of_another_are_out_of_reach(made: Site):
    await made.ask("POST", CREDENTIALS, {"login": "al", "password": "se cret"})
    before = await made.trace()
    for method, path in (
        ("GET", CREDENTIALS),
        ("POST", CREDENTIALS),
        ("DELETE", CREDENTIALS),
        ("PUT", f"{CREDENTIALS}/al"),
        ("DELETE", f"{CREDENTIALS}/al"),
    ):
        answer = await made.ask(method, path, {"login": "al", "password": "mine now"}, key=OTHER)
        assert (answer.status, answer.json["message"]) == (404, "Domain not found: a.example")
    await made.ask("POST", "/v3/domains", {**NEW, "name": "b.example"}, key=OTHER)
    answer = await made.ask(
        "PUT", "/v3/domains/b.example/credentials/al@a.example", {"password": "mine now"}, key=OTHER
    )
    assert answer.status == 404
    assert before <= await made.trace()
    assert [c.login for c in await made.tenancy.register.credentials()] == ["al@a.example"]


async def test_mailboxes_are_the_same_under_their_old_name(made: Site):
    await made.ask("POST", "/v3/a.example/mailboxes", {"mailbox": "al", "password": "se cret"})
    assert (await made.ask("GET", "/v3/a.example/mailboxes")).json["items"][0]["login"] == "al@a.example"
    assert (await made.ask("DELETE", "/v3/a.example/mailboxes/al")).status == 200


async def test_credentials_page(made: Site):
    for name in ("c", "a", "b"):
        await made.ask("POST", CREDENTIALS, {"login": name, "password": "se cret"})
    answer = await made.ask("GET", CREDENTIALS, query="limit=1&skip=1")
    assert answer.json["total_count"] == 3
    assert [item["login"] for item in answer.json["items"]] == ["b@a.example"]
