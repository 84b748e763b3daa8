import asyncio
import gzip
from email import message_from_bytes, policy

import pytest

from pigeonry.domain.errors import StoreBusy, StoreInDoubt
from pigeonry.doors.http.forms import FormReader
from pigeonry.doors.http.v3 import messages
from support.http_door import World, multipart

USUAL = {"from": "al@example.org", "to": "bo@example.com", "subject": "Hello", "text": "Hi"}


async def test_a_message_is_queued_and_answered_with_its_id(world: World) -> None:
    answer = await world.post({})
    (submission,) = world.store.accepted
    assert answer.status == 200
    assert answer.json == {
        "id": f"<{submission.summary.headers.message_id}>",
        "message": "Queued. Thank you.",
    }
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-mailgun-key-id"] == "aaaaaaaa-00000001"
    assert submission.originating_ip == "192.0.2.7"
    assert submission.key == "aaaaaaaa-00000001"


@pytest.mark.parametrize(
    "encoding", ["urlencoded", "multipart", "json", "json-called-urlencoded", "gzip", "chunked", "query"]
)
async def test_the_same_message_may_be_written_in_every_way(world: World, encoding: str) -> None:
    fields = {**USUAL, "to": ["bo@example.com", "cy@example.com"], "o:tag": ["a", "b"]}
    path = "/v3/example.org/messages"
    body, headers = multipart(fields)
    json = (
        b' {"from":"al@example.org","to":["bo@example.com","cy@example.com"],"subject":"Hello","text":"Hi",'
        b'"o:tag":["a","b"],"cc":null,"o:testmode":false}'
    )
    form = b"from=al@example.org&to=bo%40example.com&to[]=cy%40example.com&subject[]=Hello&text=Hi&o%3Atag=a&o:tag[1]=b"
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}
    answer = await {
        "urlencoded": lambda: world.ask("POST", path, form, headers=urlencoded),
        "multipart": lambda: world.ask("POST", path, body, headers=headers),
        "json": lambda: world.ask("POST", path, json, headers={"content-type": "application/json"}),
        "json-called-urlencoded": lambda: world.ask("POST", path, json, headers=urlencoded),
        "gzip": lambda: world.ask("POST", path, gzip.compress(body), headers={**headers, "content-encoding": "gzip"}),
        "chunked": lambda: world.ask("POST", path, [body[n : n + 7] for n in range(0, len(body), 7)], headers=headers),
        "query": lambda: world.ask(
            "POST", path, form[: form.index(b"&o%3A")], query="o:tag=a&o:tag=b", headers=urlencoded
        ),
    }[encoding]()
    assert answer.status == 200, answer.body
    (submission,) = world.store.accepted
    assert [r.address for r in submission.recipients] == ["bo@example.com", "cy@example.com"]
    assert submission.tags == ("a", "b")
    assert not submission.options.testmode
    message = message_from_bytes(world.stored_body(), policy=policy.default)
    assert message["Subject"] == "Hello"
    assert message.get_content() == "Hi\r\n"


async def test_without_a_key_of_ours_the_answer_is_forbidden_in_plain_text(world: World) -> None:
    for key in (None, "nonsense", ""):
        answer = await world.post({}, key=key)
        assert (answer.status, answer.body) == (401, b"Forbidden")
        assert answer.headers["www-authenticate"] == 'Basic realm="MG API"'
        assert answer.headers["content-type"].startswith("text/plain")
    for header in ("Basic !!!", "Basic", "Bearer x", "Basic " + "x" * 5_000, "Basic /w=="):
        assert (await world.post({}, key=None, headers={"authorization": header})).status == 401
    assert world.store.accepted == []


async def test_a_domain_that_is_not_the_callers_is_not_found(world: World) -> None:
    for domain, key in (
        ("nowhere.example", "key-0123456789abcdef"),
        ("example.org", "key-other"),
        ("second.example", "key-sending"),
    ):
        answer = await world.post({}, domain=domain, key=key)
        assert answer.status == 404
        assert answer.json == {"message": f"Domain not found: {domain}"}


async def test_a_sending_key_sends_for_its_domain_and_a_reading_key_does_not(world: World) -> None:
    assert (await world.post({}, key="key-sending")).status == 200
    assert (await world.post({}, domain="Example.ORG")).status == 200
    answer = await world.post({}, key="key-basic")
    assert answer.status == 403
    assert answer.json["message"] == answer.json["Error"]


async def test_nobody_acts_for_a_subaccount(world: World) -> None:
    assert (await world.post({}, headers={"x-mailgun-on-behalf-of": "x"})).status == 403


async def test_a_disabled_domain_is_refused_and_the_refusal_is_recorded(world: World) -> None:
    answer = await world.post({}, domain="off.example")
    assert answer.status == 403
    assert "off.example is not allowed to send" in answer.json["message"]
    assert len(world.store.rejected) == 1
    assert world.store.accepted == []


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (b"", {}, 400, "from"),
        (b"from=a@b.com", {}, 400, "to"),
        (b"subject=%ff", {}, 400, "UTF-8"),
        (b"{", {}, 400, "JSON"),
        (b'{"a": NaN}', {}, 400, "JSON"),
        (b'{"from": "\\ud800"}', {}, 400, "JSON"),
        (b"&".join([b"a=b"] * 5_000), {}, 400, "fields"),
        (b"a" * 600 + b"=b", {}, 400, "name"),
        (b"x", {"content-type": "multipart/form-data"}, 400, "boundary"),
        (b"x", {"content-type": "multipart/form-data; boundary=" + "x" * 300}, 400, "boundary"),
        (b"--b\r\nnonsense", {"content-type": "multipart/form-data; boundary=b"}, 400, "not complete"),
        (
            b"--b\r\nno header\r\n\r\nx\r\n--b--\r\n",
            {"content-type": "multipart/form-data; boundary=b"},
            400,
            "malformed",
        ),
        (b"x", {"content-encoding": "br"}, 400, "Content-Encoding"),
        (b"x", {"content-encoding": "gzip"}, 400, "gzip"),
        (gzip.compress(b"from=a@b.com", mtime=0)[:-5], {"content-encoding": "gzip"}, 400, "gzip"),
        (gzip.compress(b"from=a@b.com", mtime=0) + b"x", {"content-encoding": "gzip"}, 400, "behind the end"),
        (gzip.compress(b"a" * 30_000_000, mtime=0), {"content-encoding": "gzip"}, 413, "larger"),
        (b"x", {"content-length": "30000000"}, 413, "larger"),
        (b"from=a@b.com&to=c@d.com&subject=s&text=t&attachment=x", {}, 400, "attachment"),
    ],
)
async def test_a_malformed_request_gets_a_precise_answer_and_leaves_nothing(
    world: World, body: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    answer = await world.ask("POST", "/v3/example.org/messages", body, headers=headers)
    assert answer.status == status
    assert text in answer.json["message"]
    assert world.store.accepted == world.store.rejected == world.bodies.spools == []


async def test_too_many_parts_are_refused(world: World) -> None:
    body, headers = multipart({"to": ["a@b.com"] * 4_200})
    answer = await world.ask("POST", "/v3/example.org/messages", body, headers=headers)
    assert answer.status == 400
    assert "parts" in answer.json["message"]


async def test_a_client_that_goes_away_gets_no_answer_and_leaves_nothing(world: World) -> None:
    answer = await world.ask("POST", "/v3/example.org/messages", b"from=al@example.org&to=bo", gone=True)
    assert answer.status == 0
    assert world.store.accepted == []


async def test_a_body_that_does_not_arrive_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "BODY_DEADLINE_S", 0.0)
    answer = await world.ask("POST", "/v3/example.org/messages", b"from=al@example.org", stuck=True)
    assert answer.status == 400
    assert "did not arrive" in answer.json["message"]


async def test_a_request_that_is_cancelled_ends_as_cancelled(world: World) -> None:
    task = asyncio.ensure_future(world.ask("POST", "/v3/example.org/messages", b"from=al@example.org", stuck=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.gate.in_flight_octets == 0


async def test_files_keep_name_type_and_content(world: World) -> None:
    body, headers = multipart(
        {**USUAL, "html": "<img src='cid:i.png'>"},
        [
            ("attachment", "grüße.pdf", "application/pdf", b"\x00\r\n\x01" * 1_000),
            ("attachment", "", "text/csv", b"a,b"),
            ("inline", "i.png", "image/png", b"png"),
            ("attachment", "", "application/octet-stream", b""),
        ],
    )
    assert (await world.ask("POST", "/v3/example.org/messages", body, headers=headers)).status == 200
    message = message_from_bytes(world.stored_body(), policy=policy.default)
    files = list(message.iter_attachments())  # type: ignore[attr-defined]
    assert [file.get_filename() for file in files] == ["grüße.pdf", "attachment"]
    assert files[0].get_content() == b"\x00\r\n\x01" * 1_000
    assert files[0].get_content_type() == "application/pdf"
    image = next(part for part in message.walk() if part.get_content_type() == "image/png")
    assert (image["Content-ID"], image.get_content()) == ("<i.png>", b"png")


async def test_a_large_file_goes_through_a_spool_in_slices(world: World) -> None:
    content = bytes(range(256)) * 16_384  # 4 MiB
    body, headers = multipart(dict(USUAL), [("attachment", "a.bin", "", content)])
    chunks = [body[n : n + 65_536] for n in range(0, len(body), 65_536)]
    assert (await world.ask("POST", "/v3/example.org/messages", chunks, headers=headers)).status == 200
    (spool,) = world.bodies.spools
    assert max(spool.writes) <= 1_048_576
    assert not spool.discarded
    message = message_from_bytes(world.stored_body(), policy=policy.default)
    (file,) = message.iter_attachments()  # type: ignore[attr-defined]
    assert file.get_content() == content


async def test_a_spool_is_discarded_when_the_commit_fails(world: World) -> None:
    world.store.fails = StoreBusy("The disk is full.")
    body, headers = multipart(dict(USUAL), [("attachment", "a.bin", "", b"x" * 1_000_000)])
    answer = await world.ask("POST", "/v3/example.org/messages", body, headers=headers)
    assert answer.status == 503
    assert world.bodies.spools[0].discarded


@pytest.mark.parametrize("error", [StoreBusy("Not in time."), StoreInDoubt("Not in time.")])
async def test_a_fault_behind_is_503_with_a_time_to_come_back(world: World, error: StoreBusy) -> None:
    world.store.fails = error
    answer = await world.post({})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0


async def test_load_is_shed_before_the_body_is_looked_at(world: World) -> None:
    world.store.shed = "busy"
    answer = await world.ask("POST", "/v3/example.org/messages", b"nonsense %ff")
    assert (answer.status, "retry-after" in answer.headers) == (503, True)


async def test_bodies_in_flight_are_bounded_also_when_their_length_is_not_said() -> None:
    world = World(in_flight_octets_max=100_000)
    chunks = [b"text=" + b"x" * 60_000, b"y" * 60_000]
    assert (await world.ask("POST", "/v3/example.org/messages", chunks)).status == 503
    assert (await world.ask("POST", "/v3/example.org/messages", b"x" * 100_001)).status == 503
    assert (await world.post({})).status == 200


async def test_a_thousand_recipients_with_variables_are_all_or_nothing(world: World) -> None:
    to = [f"r{n}@example.com" for n in range(1_000)]
    variables = "{" + ",".join(f'"{a}":{{"n":"{n}"}}' for n, a in enumerate(to)) + "}"
    fields: dict[str, str | list[str]] = {"to": to, "subject": "%recipient.n%", "recipient-variables": variables}
    assert (await world.post(fields)).status == 200
    assert len(world.store.accepted[0].recipients) == 1_000
    bad = variables.replace('"n":"999"', '"n":"9\\r\\n99"')
    answer = await world.post({**fields, "recipient-variables": bad})
    assert answer.status == 400
    assert "r999@example.com" in answer.json["message"]
    assert len(world.store.accepted) == 1


@pytest.mark.parametrize("as_file", [True, False])
async def test_a_ready_made_message_has_its_line_ends_mended(world: World, as_file: bool) -> None:
    message = "From: al@example.org\nSubject: hi\r\rbo\rdy\nend"
    if as_file:
        body, headers = multipart({"to": "bo@example.com"}, [("message", "m.eml", "message/rfc822", message.encode())])
    else:
        body, headers = multipart({"to": "bo@example.com", "message": message})
    chunks = [body[n : n + 3] for n in range(0, len(body), 3)]
    assert (await world.ask("POST", "/v3/example.org/messages.mime", chunks, headers=headers)).status == 200
    octets = world.stored_body()
    assert octets.endswith(b"\r\nSubject: hi\r\n\r\nbo\r\ndy\r\nend\r\n")
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")


async def test_a_bug_is_a_500_that_tells_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(world.door._messages, "_accept", broken)
    answer = await world.post({})
    assert (answer.status, answer.json) == (500, {"message": "Internal Server Error"})


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ('["a@x.test", null, "b@x.test"]', ["a@x.test", "b@x.test"]),
        ("null", None),
        ("[]", None),
        ("true", ["yes"]),
        ("false", ["no"]),
        ("1.50", ["1.50"]),
        ("123456789012345678901234567890", ["123456789012345678901234567890"]),
        ('{"a": [1.0]}', ['{"a": [1.0]}']),
        ('"\\u00e9\\n"', ["\u00e9\n"]),
    ],
)
def test_a_json_value_is_what_a_form_would_have_held(value: str, kept: list[str] | None) -> None:
    reader = FormReader(content_type=b"application/json", grow=lambda _: None)
    reader.feed(b'{"v:x": %b}' % value.encode())
    assert reader.finish().fields.get("v:x") == kept


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"to":[' + b"0," * 65_537 + b"0]}", "commas"),
        (b'{"to":[' + b"[]," * 4_096 + b"0]}", "values"),
        (b"{" + b",".join(b'"%d":0' % n for n in range(4_097)) + b"}", "fields"),
        (b'{"to":"\\ud800@x.test"}', "not a JSON object"),
        (b'{"to":[' + b"[" * 5_000 + b"]" * 5_000 + b"]}", "not a JSON object"),
        (b'{"to":{"a":"\xff"}}', "not a JSON object"),
    ],
)
async def test_json_that_grows_out_of_bounds_is_400(world: World, body: bytes, text: str) -> None:
    answer = await world.ask("POST", "/v3/example.org/messages", body, headers={"content-type": "application/json"})
    assert answer.status == 400
    assert text in answer.json["message"]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('filename="gr\u00fcn.txt"', "gr\u00fcn.txt"),
        ("filename*=UTF-8''gr%C3%BCn.txt", "gr\u00fcn.txt"),
        ("filename=\"gruen.txt\"; filename*=UTF-8''gr%C3%BCn.txt", "gr\u00fcn.txt"),
        ('filename*0="gr"; filename*1="un.txt"', "grun.txt"),
        ('filename="=?utf-8?Q?gr=C3=BCn.txt?="', "gr\u00fcn.txt"),
        ("filename=plain.txt", "plain.txt"),
        ('filename="2*2.txt"', "2*2.txt"),
    ],
)
async def test_a_file_keeps_its_name_in_whatever_way_it_is_written(world: World, disposition: str, name: str) -> None:
    body, headers = multipart(USUAL)
    file = f'Content-Disposition: form-data; name="attachment"; {disposition}\r\n\r\nx\r\n'
    body = body.replace(b"------b0undary--", f"------b0undary\r\n{file}------b0undary--".encode())
    answer = await world.ask("POST", "/v3/example.org/messages", body, headers=headers)
    assert answer.status == 200
    assert [attachment.filename for attachment in world.store.accepted[0].summary.attachments] == [name]
    (sent,) = message_from_bytes(world.stored_body(), policy=policy.default).iter_attachments()
    assert sent.get_filename() == name
