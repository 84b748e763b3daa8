"""A batch is checked for every recipient before the answer: what that may cost has bounds."""

import json
from collections.abc import Callable

import pytest

from pigeonry.compose.draft import Draft
from pigeonry.domain.errors import BadRequest
from support.composing import upload

Compose = Callable[..., Draft]
MANY = [f"r{number}@example.com" for number in range(1_000)]


def variables(**values: str) -> str:
    return json.dumps(dict.fromkeys(MANY, values))


def test_a_thousand_recipients_with_ordinary_variables_are_taken(compose: Compose) -> None:
    draft = compose(
        {
            "to": ", ".join(MANY),
            "subject": "For %recipient.name% of %recipient.town%",
            "text": "Dear %recipient.name%",
            "recipient-variables": variables(name="A name", town="A town"),
        }
    )
    assert len(draft.composed.recipients) == 1_000


def test_a_header_may_not_grow_over_what_a_header_section_has(compose: Compose) -> None:
    with pytest.raises(BadRequest, match="larger than 128 KiB"):
        compose(
            {
                "subject": "%recipient.a%" * 1_000,
                "recipient-variables": json.dumps({"bo@example.com": {"a": "x" * 200}}),
            }
        )


def test_all_recipients_headers_together_are_bounded(compose: Compose) -> None:
    with pytest.raises(BadRequest, match="headers of all recipients together larger than 16 MiB"):
        compose(
            {
                "to": ", ".join(MANY),
                "subject": "%recipient.a%" * 200,
                "recipient-variables": variables(a="x" * 100),
            }
        )


def test_different_placeholders_are_bounded(compose: Compose) -> None:
    with pytest.raises(BadRequest, match="more than 1000 different recipient variables"):
        compose({"text": "".join(f"%recipient.{n}%" for n in range(1_001)), "recipient-variables": "{}"})


@pytest.mark.parametrize(
    "asked",
    [
        {"subject": "%recipient.a%" * 250},
        {"text": "".join(f"%recipient.{n}%" for n in range(251))},
        {"v:a": "%recipient.a%" * 125},
        {"v:a": "%recipient.a%" * 251, "o:suppress-headers": "all"},
    ],
)
def test_places_that_are_filled_in_are_bounded(compose: Compose, asked: dict[str, str]) -> None:
    fields = {"to": ", ".join(MANY), "recipient-variables": variables(a=""), **asked}
    with pytest.raises(BadRequest, match="at more than 250000 places"):
        compose(fields)
    assert compose({**fields, "to": ", ".join(MANY[:330])}).composed.recipients


def test_copies_do_not_multiply_large_variables(compose: Compose) -> None:
    with pytest.raises(BadRequest, match="recipients and copies together are larger than 16 MiB"):
        compose(
            {
                "cc": ", ".join(MANY[1:]),
                "text": "%recipient.a%",
                "recipient-variables": json.dumps({"bo@example.com": {"a": "x" * 1_000_000}}),
            }
        )


def test_events_list_the_first_files_only(compose: Compose) -> None:
    few = [upload(f"{number}.pdf", b"x", kind="application/pdf") for number in range(100)]
    assert len(compose(uploads=few).composed.summary.attachments) == 100
    many = [upload(f"{number:03d}" + "n" * 240, b"x", kind="application/pdf") for number in range(500)]
    listed = compose(uploads=many).composed.summary.attachments
    assert [file.filename[:3] for file in listed] == [f"{number:03d}" for number in range(26)]
