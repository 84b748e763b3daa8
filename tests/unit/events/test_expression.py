from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pigeonry.domain.errors import BadRequest
from pigeonry.events.expression import parse, show
from pigeonry.ports.event_index import Term


def event(value: str) -> Term:
    return Term("is", "event", value)


def test_words_in_a_row_must_all_hold_and_or_binds_less() -> None:
    assert parse("event", "a b OR NOT c") == Term(
        "or", parts=(Term("and", parts=(event("a"), event("b"))), Term("not", parts=(event("c"),)))
    )


def test_addresses_and_message_ids_are_plain_words() -> None:
    assert parse("recipient", "a+b@x.com") == Term("is", "recipient", "a+b@x.com")
    assert parse("message-id", "<20260101.1@x>") == Term("is", "message-id", "20260101.1@x")


def test_a_phrase_keeps_its_blanks() -> None:
    assert parse("subject", '"hello OR world"') == Term("has", "subject", "hello OR world")


def test_sizes_are_compared() -> None:
    assert parse("size", ">1 <9") == Term("and", parts=(Term("gt", "size", "1"), Term("lt", "size", "9")))


@pytest.mark.parametrize("text", ["(", ")", "a OR", "NOT", '"a', "a )", "(" * 40 + "a" + ")" * 40])
def test_what_is_malformed_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadRequest, match="Parameter event"):
        parse("event", text)


TERMS = st.recursive(
    st.text(min_size=1, max_size=8).map(event),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Term("and", parts=tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Term("or", parts=tuple(parts))),
        inner.map(lambda part: Term("not", parts=(part,))),
    ),
    max_leaves=4,
)


@given(TERMS)
def test_parsing_what_was_shown_gives_it_back(term: Term) -> None:
    assert parse("event", show(term)) == term


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_and_nothing_else(text: str) -> None:
    try:
        parse("event", text)
    except BadRequest:
        return
