from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.policy import SMTP

import msgspec
import pytest

from pigeonry.compose.draft import Draft
from pigeonry.compose.template import render
from pigeonry.domain.errors import BadAddress, BadRequest
from pigeonry.domain.event import Attachment
from pigeonry.domain.message import BodyKind, Options
from support.composing import octets

Compose = Callable[..., Draft]
WHOLE = (
    b"From: Al <al@example.org>\r\nTo: bo@example.com\r\nSubject:  odd   spacing\r\nDate: x\r\n"
    b"Message-ID: <own@id>\r\nX-Odd:\r\n\tfolded \r\n\r\nbody\r\n.\r\n"
)


def test_a_message_stays_octet_for_octet_behind_our_trace_line(compose_ready: Compose) -> None:
    draft = compose_ready(WHOLE)
    trace, separator, rest = octets(draft).partition(b"+0000\r\n")
    assert trace.startswith(b"Received: by mx.example.net with HTTP id ")
    assert separator + rest == b"+0000\r\n" + WHOLE
    assert draft.message_id == "<own@id>"
    assert draft.composed.summary.headers.message_id == "own@id"
    assert draft.composed.summary.headers.subject == "odd   spacing"
    assert not draft.composed.eight_bit
    assert draft.composed.reverse_path == "al@example.org"


def test_what_is_missing_is_added(compose_ready: Compose) -> None:
    draft = compose_ready(b"From: me@other.net\r\n\r\nx")
    message = message_from_bytes(octets(draft), policy=policy.default)
    assert message["Date"] == "Thu, 01 Jan 2026 00:00:00 +0000"
    assert message["Message-Id"] == draft.message_id
    assert message["Sender"] == "me=other.net@example.org"
    assert octets(draft).endswith(b"\r\n\r\nx\r\n")
    assert draft.composed.reverse_path == "postmaster@example.org"


def test_an_empty_date_or_message_id_is_a_missing_one(compose_ready: Compose) -> None:
    draft = compose_ready(b"From: a@example.org\r\nDate:\r\nMessage-ID: \r\n\r\nx\r\n")
    message = message_from_bytes(octets(draft), policy=policy.default)
    assert message.get_all("Date") == ["Thu, 01 Jan 2026 00:00:00 +0000"]
    assert message.get_all("Message-Id") == [draft.message_id]


def test_a_message_without_a_body_is_one(compose_ready: Compose) -> None:
    for message in (b"From: a@example.org", b"From: a@example.org\r\n", b"From: a@example.org\r\n\r\n"):
        assert octets(compose_ready(message)).partition(b"\r\n\r\n")[2].strip() == b""


def test_bcc_and_control_headers_leave_and_are_obeyed(compose_ready: Compose) -> None:
    draft = compose_ready(
        b"From: a@example.org\r\nBcc: secret@x.com,\r\n more@x.com\r\nX-Mailgun-Drop-Message: yes\r\nReturn-Path: <q@x>\r\n"
        b'X-Mailgun-Tag: one\r\nX-Mailgun-Variables: {"k": "\xc3\xa9"}\r\nX-Mailgun-Unknown: y\r\nSubject: s\r\n\r\nx\r\n'
    )
    message = message_from_bytes(octets(draft))
    assert message.keys() == [
        "Received",
        "X-Mailgun-Variables",
        "X-Mailgun-Tag",
        "Date",
        "Message-Id",
        "From",
        "Subject",
    ]
    assert draft.composed.options == Options(testmode=True)
    assert draft.composed.tags == ("one",)
    assert msgspec.json.decode(draft.composed.user_variables) == {"k": "é"}
    assert [r.address for r in draft.composed.recipients] == ["bo@example.com"]


def test_parameters_win_over_headers(compose_ready: Compose) -> None:
    draft = compose_ready(
        b"From: a@example.org\r\nX-Mailgun-Tag: one\r\nSubject: s\r\nReply-To: x@y.z\r\n\r\nx\r\n",
        {"o:tag": "two", "h:Reply-To": "r@example.org"},
    )
    assert draft.composed.tags == ("two",)
    assert message_from_bytes(octets(draft)).get_all("Reply-To") == ["r@example.org"]


@pytest.mark.parametrize(
    "message",
    [
        b"Subject: no author\r\n\r\nx",
        b"\r\nFrom: a@example.org\r\n\r\nx",
        b"From: nonsense\r\n\r\nx",
        b"From: a@example.org\r\nno header\r\n\r\nx",
        b" From: a@example.org\r\n\r\nx",
        b"From: a@example.org\r\nX: a\x00b\r\n\r\nx",
        b"From a@example.org\r\nFrom: a@example.org\r\n\r\nx",
        b"From:\r\n\r\nx",
        b"From: a@example.org\r\n" + b"X: y\r\n" * 30_000,
        b"From: a@example.org\r\nX-Mailgun-Drop-Message: perhaps\r\n\r\nx",
    ],
)
def test_a_message_that_cannot_be_sent_is_refused_by_name(compose_ready: Compose, message: bytes) -> None:
    with pytest.raises((BadRequest, BadAddress), match=r"message|testmode"):
        compose_ready(message)


def test_missing_parameters_are_named(compose_ready: Compose) -> None:
    with pytest.raises(BadRequest, match="message"):
        compose_ready(b"")
    with pytest.raises(BadRequest, match="to"):
        compose_ready(WHOLE, {"to": ""})


def test_eight_bit_content_is_said_to_be(compose_ready: Compose) -> None:
    assert compose_ready(b"From: a@example.org\r\n\r\n\xc3\xa9\r\n").composed.eight_bit


def batch_message() -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = "Al <al@example.org>"
    message["To"] = "everyone@example.org"
    message["Subject"] = "Grüße %recipient.name%"
    message.set_content("plain é %recipient.name%\n")
    message.add_alternative("<b>%recipient.name%</b>\n", subtype="html")
    message.add_attachment(b"%recipient.name%", maintype="application", subtype="octet-stream", filename="a.bin")
    return message.as_bytes()


def test_a_batch_opens_headers_and_texts_and_leaves_files_alone(compose_ready: Compose) -> None:
    draft = compose_ready(
        batch_message(),
        {
            "to": "Bo <bo@x.com>, cy@x.com",
            "recipient-variables": '{"bo@x.com":{"name":"Böb"},"cy@x.com":{"name":"Cy"}}',
        },
    )
    assert draft.composed.body_kind is BodyKind.TEMPLATE
    made = []
    for recipient in draft.composed.recipients:
        body = render(octets(draft), address=recipient.address, variables=recipient.variables)
        made.append(message_from_bytes(body, policy=policy.default))
    assert [m["To"] for m in made] == ["Bo <bo@x.com>", "cy@x.com"]
    assert made[0]["Subject"] == "Grüße Böb"
    texts = [part.get_content().strip() for part in made[0].walk() if part.get_content_maintype() == "text"]
    assert texts == ["plain é Böb", "<b>Böb</b>"]
    (file,) = made[1].iter_attachments()  # type: ignore[attr-defined]
    assert file.get_content() == b"%recipient.name%"
    assert not [defect for m in made for part in m.walk() for defect in part.defects]


def test_a_batch_of_a_single_part_keeps_one_content_type(compose_ready: Compose) -> None:
    draft = compose_ready(
        b"From: a@example.org\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        b"\xe9 %recipient_email%\r\n",
        {"recipient-variables": "{}"},
    )
    message = message_from_bytes(render(octets(draft), address="x@y.com", variables=b"{}"), policy=policy.default)
    assert len(message.get_all("Content-Type")) == len(message.get_all("Content-Transfer-Encoding")) == 1
    assert message.get_content().strip() == "é x@y.com"


def test_recipient_variables_may_come_as_a_header(compose_ready: Compose) -> None:
    draft = compose_ready(
        b'From: a@example.org\r\nSubject: %recipient.n%\r\nX-Mailgun-Recipient-Variables: {"bo@example.com":\r\n {"n": 7}}\r\n\r\nx\r\n'
    )
    body = render(octets(draft), address="bo@example.com", variables=draft.composed.recipients[0].variables)
    assert b"\r\nSubject: 7\r\n" in body
    assert b"Recipient-Variables" not in body


def test_files_of_a_ready_made_message_are_listed_in_its_events(compose_ready: Compose) -> None:
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = "al@example.org"
    message.set_content("text")
    message.add_alternative("<b>html</b>", subtype="html")
    for length in (0, 1, 2, 3, 57, 100):
        message.add_attachment(b"x" * length, maintype="image", subtype="png", filename=f"gr\u00fcn-{length}.png")
    draft = compose_ready(message.as_bytes())
    assert draft.composed.summary.attachments == tuple(
        Attachment(f"gr\u00fcn-{length}.png", "image/png", length) for length in (0, 1, 2, 3, 57, 100)
    )
    alone = b"From: al@example.org\r\nContent-Type: application/pdf\r\n\r\n%PDF\r\n"
    assert compose_ready(alone).composed.summary.attachments == (Attachment("attachment-1", "application/pdf", 6),)
    assert compose_ready(b"From: al@example.org\r\n\r\ntext\r\n").composed.summary.attachments == ()
