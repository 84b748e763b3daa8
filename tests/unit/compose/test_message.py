from collections.abc import Callable
from email import message_from_bytes, policy

import msgspec
import pytest

from pigeonry.compose.draft import Draft
from pigeonry.domain.errors import BadAddress, BadRequest, TooLarge
from pigeonry.domain.message import BodyKind, NewRecipient, Options
from support.composing import NOW, octets, upload

Compose = Callable[..., Draft]


def test_a_plain_message_is_what_rfc_5322_asks_for(compose: Compose) -> None:
    draft = compose()
    message = message_from_bytes(octets(draft), policy=policy.default)
    assert not message.defects
    assert message.keys() == [
        "Received",
        "Date",
        "Message-Id",
        "From",
        "To",
        "Subject",
        "Mime-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ]
    assert message["From"] == "Al <al@example.org>"
    assert message["Message-Id"] == draft.message_id
    assert message.get_content() == "Hi\r\n"
    assert octets(draft).endswith(b"\r\n")


def test_its_submission_carries_everything_the_intake_needs(compose: Compose) -> None:
    draft = compose({"o:tag": ["a", "b"], "v:x": "1", "o:testmode": "yes", "o:dkim": "no"})
    submission = draft.submission()
    assert submission.account == "acct"
    assert submission.domain == "example.org"
    assert submission.key == "k-1"
    assert submission.recipients == (NewRecipient("bo@example.com", 0.0),)
    assert submission.tags == ("a", "b")
    assert msgspec.json.decode(submission.user_variables) == {"x": "1"}
    assert submission.options == Options(dkim=False, testmode=True)
    assert submission.body_kind is BodyKind.OCTETS
    headers = submission.summary.headers
    assert (headers.from_, headers.to, headers.subject) == ("Al <al@example.org>", "bo@example.com", "Hello")
    assert f"<{headers.message_id}>" == draft.message_id


@pytest.mark.parametrize("missing", ["from", "to", "subject"])
def test_a_missing_parameter_is_named(compose: Compose, missing: str) -> None:
    with pytest.raises(BadRequest, match=missing):
        compose({missing: []})


def test_a_message_needs_some_content_which_may_be_empty(compose: Compose) -> None:
    with pytest.raises(BadRequest, match="text, html"):
        compose({"text": []})
    assert octets(compose({"text": ""})).endswith(b"\r\n\r\n\r\n")
    assert b"text/html" in octets(compose({"text": "", "html": "<p>"}))
    assert b"text/plain" not in octets(compose({"text": "", "html": "<p>"}))


@pytest.mark.parametrize("parameter", ["from", "to", "cc", "bcc"])
def test_one_bad_address_fails_the_whole_call_and_is_named(compose: Compose, parameter: str) -> None:
    with pytest.raises(BadAddress, match=rf"Parameter {parameter}: 'nonsense' is not a valid address"):
        compose({parameter: "fine@example.com, nonsense"})


def test_to_cc_and_bcc_all_get_it_once_and_only_to_and_cc_are_shown(compose: Compose) -> None:
    draft = compose({"to": ["a@x.com", "b@x.com, A@x.com"], "cc": "c@x.com, b@x.com", "bcc": "d@x.com"})
    assert [r.address for r in draft.composed.recipients] == ["a@x.com", "b@x.com", "c@x.com", "d@x.com"]
    message = message_from_bytes(octets(draft), policy=policy.default)
    assert message["To"] == "a@x.com, b@x.com"
    assert message["Cc"] == "c@x.com, b@x.com"
    assert b"d@x.com" not in octets(draft)


def test_a_thousand_recipients_are_taken_and_one_more_is_not(compose: Compose) -> None:
    addresses = [f"r{number}@example.com" for number in range(1_000)]
    draft = compose({"to": addresses})
    assert len(draft.composed.recipients) == 1_000
    assert max(map(len, octets(draft).split(b"\r\n"))) <= 998
    assert draft.composed.summary.recipients is msgspec.UNSET
    assert len(draft.composed.summary.headers.to) <= 2_000
    with pytest.raises(BadRequest, match="1001 recipients"):
        compose({"to": addresses, "bcc": "one@more.com"})


CONTROLS = ["\r\nBcc: x@y.z", "\nX: y", "\r", "\x00", "\x1b"]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(
    "parameter", ["from", "to", "cc", "subject", "h:X-A", "h:Reply-To", "o:tag", "h:Message-Id", "h:To"]
)
def test_no_parameter_can_write_a_header_of_its_own(compose: Compose, parameter: str, control: str) -> None:
    value = {"h:Message-Id": "<a@b>", "o:tag": "t"}.get(parameter, "a@b.com")
    with pytest.raises((BadRequest, BadAddress)) as caught:
        compose({parameter: value + control + "c"})
    assert parameter in caught.value.text


@pytest.mark.parametrize(
    "name", ["h:X-A\r\nB", "h:a b", "h:a:b", "h:", "h:é", "v:a\r\nb", "h:Bcc", "h:Content-Type", "h:Received"]
)
def test_no_parameter_name_can_either(compose: Compose, name: str) -> None:
    with pytest.raises(BadRequest, match=r"Parameter [hv]:"):
        compose({name: "x"})


def test_a_file_name_cannot_either(compose: Compose) -> None:
    with pytest.raises(BadRequest, match="file name"):
        compose(uploads=[upload("a\r\nX-B: c", b"")])


def test_headers_that_the_client_gives_replace_ours(compose: Compose) -> None:
    draft = compose(
        {
            "h:To": "everyone <list@example.org>",
            "h:Date": "Fri, 02 Jan 2026 00:00:00 +0000",
            "h:Message-Id": "my-own@example.org",
            "h:Sender": "me@example.org",
            "h:Reply-To": "Grüße <r@example.org>",
            "h:X-Thing": ["1", "ä"],
            "from": "other@example.net",
        }
    )
    message = message_from_bytes(octets(draft), policy=policy.default)
    assert message["To"] == "everyone <list@example.org>"
    assert message.get_all("Date") == ["Fri, 02 Jan 2026 00:00:00 +0000"]
    assert message.get_all("Message-Id") == ["<my-own@example.org>"] == [draft.message_id]
    assert message.get_all("Sender") == ["me@example.org"]
    assert message["Reply-To"] == "Grüße <r@example.org>"
    assert message.get_all("X-Thing") == ["1", "ä"]
    assert draft.composed.recipients[0].address == "bo@example.com"


def test_a_foreign_author_gets_a_sender_and_bounces_go_to_the_sending_domain(compose: Compose) -> None:
    draft = compose({"from": "me@other.net"})
    assert b"\r\nSender: me=other.net@example.org\r\n" in octets(draft)
    assert draft.composed.reverse_path == "postmaster@example.org"
    own = compose({"from": "me@example.org"})
    assert b"Sender:" not in octets(own)
    assert own.composed.reverse_path == "me@example.org"
    assert b"Sender:" not in octets(compose({"from": "me@other.net"}, any_sender=True))
    assert b"\r\nSender: postmaster@example.org\r\n" in octets(compose({"from": '"a b"@other.net'}))


def test_variables_and_tags_stay_in_the_message_unless_suppressed(compose: Compose) -> None:
    fields: dict[str, str | list[str]] = {
        "v:name": "Grüße",
        "h:X-Mailgun-Variables": '{"n": 2, "o": {"p": [1]}}',
        "o:tag": "spring",
    }
    draft = compose(fields)
    message = message_from_bytes(octets(draft))
    variables = {"name": "Grüße", "n": 2, "o": {"p": [1]}}
    assert msgspec.json.decode(str(message["X-Mailgun-Variables"])) == variables
    assert msgspec.json.decode(draft.composed.user_variables) == variables
    assert message.get_all("X-Mailgun-Tag") == ["spring"]
    assert b"X-Mailgun-" not in octets(compose({**fields, "o:suppress-headers": "all"}))
    assert b"X-Mailgun-Tag" not in octets(compose({**fields, "o:suppress-headers": "x, X-Mailgun-Tag"}))


def test_files_are_listed_in_events_with_their_decoded_size(compose: Compose) -> None:
    draft = compose(
        {"html": "<img src=cid:i.png>"},
        uploads=[upload("a.pdf", b"x" * 1_000), upload("i.png", b"y" * 10, field="inline", kind="image/png")],
    )
    assert [(a.filename, a.content_type, a.size) for a in draft.composed.summary.attachments] == [
        ("a.pdf", "application/pdf", 1_000),
        ("i.png", "image/png", 10),
    ]
    assert b"Content-ID: <i.png>" in octets(draft)
    assert draft.composed.summary.size == len(octets(draft))


def test_a_message_over_the_limit_is_refused(compose: Compose) -> None:
    lines = b"A" * 1_000_000
    big = upload("a", b"")
    big.lines = [lines] * 37
    with pytest.raises(TooLarge):
        compose(uploads=[big])


def test_utf_8_in_a_local_part_asks_for_smtputf8(compose: Compose) -> None:
    assert compose({"to": "grüße@example.com"}).composed.smtputf8
    assert not compose({"to": "Grüße <a@bücher.example>"}).composed.smtputf8


def test_a_scheduled_message_is_due_then_and_says_so(compose: Compose) -> None:
    draft = compose({"o:deliverytime": str(int(NOW) + 3_600)})
    assert draft.composed.recipients[0].due == int(NOW) + 3_600
    assert draft.composed.summary.scheduled_for == int(NOW) + 3_600
    assert compose({"o:deliverytime": "Thu, 01 Jan 2020 00:00:00 GMT"}).composed.recipients[0].due == 0.0


def test_without_recipient_variables_placeholders_are_ordinary_text(compose: Compose) -> None:
    assert b"Subject: 100% %recipient.x%\r\n" in octets(compose({"subject": "100% %recipient.x%"}))
