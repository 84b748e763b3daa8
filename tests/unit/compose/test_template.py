from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage

import msgspec
import pytest

from pigeonry.compose.draft import Draft
from pigeonry.compose.template import render
from pigeonry.domain.errors import BadRequest, Fault
from pigeonry.domain.message import BodyKind, Message, MessageKey, as_told_of
from support.composing import octets, upload

Compose = Callable[..., Draft]


def variables(**by_address: dict[str, object]) -> str:
    return msgspec.json.encode({k.replace("_at_", "@"): v for k, v in by_address.items()}).decode()


def rendered(draft: Draft) -> list[EmailMessage]:
    body = octets(draft)
    out = []
    for recipient in draft.composed.recipients:
        made = render(body, address=recipient.address, variables=recipient.variables)
        assert made == render(body, address=recipient.address, variables=recipient.variables)
        assert made.count(b"\n") == made.count(b"\r") == made.count(b"\r\n")
        message = message_from_bytes(made, policy=policy.default)
        assert isinstance(message, EmailMessage)
        assert not [defect for part in message.walk() for defect in part.defects]
        out.append(message)
    return out


def test_each_recipient_of_a_batch_sees_itself_alone_and_its_own_values(compose: Compose) -> None:
    draft = compose(
        {
            "to": ["Al Ö <al@x.com>", "bo@x.com"],
            "subject": "Hi %recipient.name%",
            "text": "%recipient.name% / %recipient% / %recipient_email% / %recipient_fname% %recipient_lname%\n",
            "html": "<b>ü %recipient.name%</b>",
            "recipient-variables": variables(
                AL_at_x_com={}, **{"Al@X.com": {"name": "Älfred"}, "bo@x.com": {"name": "Bo"}}
            ),
        }
    )
    assert draft.composed.body_kind is BodyKind.TEMPLATE
    al, bo = rendered(draft)
    assert (al["To"], bo["To"]) == ("Al Ö <al@x.com>", "bo@x.com")
    assert (al["Subject"], bo["Subject"]) == ("Hi Älfred", "Hi Bo")
    text, html = al.iter_parts()
    assert text.get_content().strip() == "Älfred / Al Ö <al@x.com> / al@x.com / Al Ö"
    assert html.get_content().strip() == "<b>ü Älfred</b>"
    assert next(bo.iter_parts()).get_content().strip() == "Bo / bo@x.com / bo@x.com /"
    assert al["Message-Id"] == bo["Message-Id"] == draft.message_id
    assert "bo@x.com" not in al.as_string()


def test_an_empty_object_is_a_batch_too(compose: Compose) -> None:
    messages = rendered(compose({"to": "a@x.com, b@x.com", "recipient-variables": "{}"}))
    assert [message["To"] for message in messages] == ["a@x.com", "b@x.com"]


def test_cc_and_bcc_get_a_copy_of_each_message(compose: Compose) -> None:
    draft = compose(
        {
            "to": "a@x.com, b@x.com",
            "cc": "c@x.com",
            "bcc": "d@x.com",
            "subject": "%recipient.n% %recipient_email%",
            "recipient-variables": variables(**{"a@x.com": {"n": 1}, "b@x.com": {"n": 2}}),
        }
    )
    assert [
        (r.address, m["To"], m["Cc"], m["Subject"])
        for r, m in zip(draft.composed.recipients, rendered(draft), strict=True)
    ] == [
        ("a@x.com", "a@x.com", "c@x.com", "1 a@x.com"),
        ("c@x.com", "a@x.com", "c@x.com", "1 a@x.com"),
        ("d@x.com", "a@x.com", "c@x.com", "1 a@x.com"),
        ("b@x.com", "b@x.com", "c@x.com", "2 b@x.com"),
        ("c@x.com", "b@x.com", "c@x.com", "2 b@x.com"),
        ("d@x.com", "b@x.com", "c@x.com", "2 b@x.com"),
    ]


def test_copies_count_against_the_thousand(compose: Compose) -> None:
    to = [f"r{number}@x.com" for number in range(501)]
    with pytest.raises(BadRequest, match="1002 recipients"):
        compose({"to": to, "cc": "c@x.com", "recipient-variables": "{}"})


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("%recipient.a%", "A"),
        ("%recipient.A%", "%recipient.A%"),
        ("%recipient.missing%", "%recipient.missing%"),
        ("%recipient.v:k-1%", "colon"),
        ("%recipient.o%", '{"p":"q"}'),
        ("%recipient.o.p%", "%recipient.o.p%"),
        ("%recipient.n% %recipient.t% %recipient.z%", "1.5 true null"),
        ("%recipient.again%", "%recipient.a%"),
        ("100% sure %%recipient.a%%", "100% sure %A%"),
        ("%unsubscribe_url% %recipient", "%unsubscribe_url% %recipient"),
        ("%recipient.%%name%", "%recipient.%%name%"),
    ],
)
def test_placeholders_are_filled_in_as_upstream_does(compose: Compose, source: str, shown: str) -> None:
    values = {"a": "A", "v:k-1": "colon", "o": {"p": "q"}, "n": 1.5, "t": True, "z": None, "again": "%recipient.a%"}
    (message,) = rendered(
        compose({"subject": source, "text": source, "recipient-variables": variables(**{"bo@example.com": values})})
    )
    assert message["Subject"] == shown
    assert message.get_content().strip() == shown


def test_addresses_with_a_plus_have_their_variables(compose: Compose) -> None:
    (message,) = rendered(
        compose(
            {
                "to": "Bo+Tag@Example.com",
                "subject": "%recipient.x%",
                "recipient-variables": variables(**{"bo+tag@example.com": {"x": "found"}}),
            }
        )
    )
    assert message["Subject"] == "found"


@pytest.mark.parametrize("value", ["a\r\nBcc: x@y.z", "a\nb", "a\rb", "a\x00b"])
@pytest.mark.parametrize("parameter", ["subject", "h:X-A", "h:Reply-To"])
def test_a_value_that_would_break_a_header_is_refused_before_the_answer(
    compose: Compose, parameter: str, value: str
) -> None:
    with pytest.raises(BadRequest, match=r"recipient-variables of bo@example\.com do not fit"):
        compose({parameter: "%recipient.x%", "recipient-variables": variables(**{"bo@example.com": {"x": value}})})


def test_the_same_value_is_fine_in_a_text_and_in_json(compose: Compose) -> None:
    (message,) = rendered(
        compose(
            {
                "text": "%recipient.x%",
                "v:k": "%recipient.x%",
                "recipient-variables": variables(**{"bo@example.com": {"x": 'a\nb"\u00e9'}}),
            }
        )
    )
    assert message.get_content().replace("\r\n", "\n").strip() == 'a\nb"\u00e9'
    assert msgspec.json.decode(str(message["X-Mailgun-Variables"])) == {"k": 'a\nb"\u00e9'}


def test_an_address_header_is_checked_for_every_recipient(compose: Compose) -> None:
    fields = {
        "to": "a@x.com, b@x.com",
        "h:Reply-To": "%recipient.who% <reply+%recipient.id%@example.org>",
        "recipient-variables": variables(**{"a@x.com": {"who": "Ä", "id": "1"}, "b@x.com": {"who": "B", "id": "2"}}),
    }
    assert [m["Reply-To"] for m in rendered(compose(fields))] == ["Ä <reply+1@example.org>", "B <reply+2@example.org>"]
    with pytest.raises(BadRequest, match=r"of a@x\.com do not fit into Reply-To"):
        compose({**fields, "recipient-variables": variables(**{"a@x.com": {"who": "Ä", "id": "1 2"}})})


def test_the_author_may_have_a_name_for_each_recipient(compose: Compose) -> None:
    (message,) = rendered(
        compose(
            {
                "from": "%recipient.agent% <al@example.org>",
                "recipient-variables": variables(**{"bo@example.com": {"agent": "Zoë, of us"}}),
            }
        )
    )
    assert message["From"].addresses[0].display_name == "Zoë, of us"


def test_attachments_are_stored_once_for_all(compose: Compose) -> None:
    draft = compose(
        {"to": [f"r{n}@x.com" for n in range(100)], "text": "%recipient_email%", "recipient-variables": "{}"},
        uploads=[upload("a.bin", b"\x07" * 10_000)],
    )
    assert draft.composed.summary.size < 20_000
    assert len({message["To"] for message in rendered(draft)}) == 100
    assert all(next(m.iter_attachments()).get_content() == b"\x07" * 10_000 for m in rendered(draft)[:3])


def test_values_cannot_blow_a_message_up(compose: Compose) -> None:
    with pytest.raises(BadRequest, match="larger than 25 MiB"):
        compose(
            {
                "text": "%recipient.x%" * 30_000,
                "recipient-variables": variables(**{"bo@example.com": {"x": "y" * 1_000}}),
            }
        )


def test_only_the_variables_that_are_asked_for_are_kept(compose: Compose) -> None:
    draft = compose(
        {
            "text": "%recipient.a%",
            "recipient-variables": variables(**{"bo@example.com": {"a": "1", "b": "2", "%name%": "x", "%to%": "y"}}),
        }
    )
    assert msgspec.json.decode(draft.composed.recipients[0].variables) == {"a": "1"}


@pytest.mark.parametrize("text", ["", "[]", "1", '{"a@b": 1}', '{"a@b": null}', "{", "nonsense", '{"a":' * 3_000])
def test_recipient_variables_must_be_an_object_of_objects(compose: Compose, text: str) -> None:
    with pytest.raises(BadRequest, match="recipient-variables is not a JSON object of objects"):
        compose({"recipient-variables": text})


def test_events_of_a_batch_name_nobody_else(compose: Compose) -> None:
    summary = compose({"to": "a@x.com, b@x.com", "recipient-variables": "{}"}).composed.summary
    assert summary.headers.to == "%recipient%"
    assert summary.recipients is msgspec.UNSET


def test_dense_text_stays_base64_for_everybody(compose: Compose) -> None:
    (message,) = rendered(compose({"text": "日本語 %recipient_email%" + "語" * 200, "recipient-variables": "{}"}))
    assert message["Content-Transfer-Encoding"] == "base64"
    assert message.get_content().startswith("日本語 bo@example.com")


def test_octets_that_are_no_template_are_a_fault_of_ours() -> None:
    for body in (b"", b"From: a@b\r\n\r\n", b"PGT1"):
        with pytest.raises((Fault, msgspec.DecodeError)):
            render(body, address="a@b.com", variables=b"{}")


def test_user_variables_are_filled_in_for_the_events_of_each_recipient(compose: Compose) -> None:
    draft = compose(
        {
            "to": "Bo B <bo@example.com>, cy@example.com, di@example.com",
            "v:name": "%recipient.n\u00e4me%",
            "v:both": "%recipient_email%, %recipient.none%",
            "v:plain": "x",
            "h:X-Mailgun-Variables": '{"o": [{"p": "%recipient.q\\"%"}, 1], "%recipient.n\u00e4me%": 2}',
            "o:suppress-headers": "all",
            "recipient-variables": variables(
                **{"bo@example.com": {"n\u00e4me": 'B"\n', 'q"': 7}, "di@example.com": {"n\u00e4me": "D" * 4_090}}
            ),
        }
    )
    message = Message(
        MessageKey(0, 0, 0),
        "acct",
        "example.org",
        "",
        draft.composed.summary,
        0.0,
        1.0,
        draft.composed.body_kind,
        user_variables=draft.composed.user_variables,
    )
    told = [as_told_of(message, each.address, each.variables) for each in draft.composed.recipients]
    assert [each.summary.headers.to for each in told] == ["bo@example.com", "cy@example.com", "di@example.com"]
    bo, cy, di = [msgspec.json.decode(each.user_variables) for each in told]
    assert bo == {
        "o": [{"p": "7"}, 1],
        'B"\n': 2,
        "name": 'B"\n',
        "both": "bo@example.com, %recipient.none%",
        "plain": "x",
    }
    assert cy["name"] == "%recipient.n\u00e4me%"
    assert cy["both"].startswith("cy@example.com")
    assert "name" not in di, "over 4 KiB: cut like any other"
    assert message.user_variables == draft.composed.user_variables


def test_recipients_keep_no_user_variables_that_are_the_same_for_all(compose: Compose) -> None:
    draft = compose({"v:plain": "50%", "recipient-variables": variables(**{"bo@example.com": {"x": "1"}})})
    assert draft.composed.recipients[0].variables == b"{}"


def test_a_placeholder_does_not_go_beyond_the_string_it_begins_in(compose: Compose) -> None:
    (message,) = rendered(
        compose(
            {
                "v:a": "%recipient.x",
                "v:b": "y%",
                "recipient-variables": variables(**{"bo@example.com": {'x","b":"y': "z", 'x", "b": "y': "z"}}),
            }
        )
    )
    assert msgspec.json.decode(str(message["X-Mailgun-Variables"])) == {"a": "%recipient.x", "b": "y%"}
