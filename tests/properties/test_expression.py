"""Filter expressions: parsing what was printed gives the term back; any text is parsed or refused, nothing else."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from pigeonry.domain.errors import BadRequest
from pigeonry.events.expression import DEPTH_MAX, EXPRESSION_CHARACTERS_MAX, TERMS_MAX, parse, show
from pigeonry.events.search import FIELDS
from pigeonry.ports.event_index import Term
from pigeonry.stores.event_filter import decode_candidate, predicate

GRAMMAR = st.lists(
    st.sampled_from(
        [
            "AND",
            "OR",
            "NOT",
            "(",
            ")",
            '"',
            "\\",
            "<",
            ">",
            "9",
            "1.5",
            "nan",
            "inf",
            "a@b.c",
            "<1@x>",
            "{",
            "é",
            " ",
            "\x00",
        ]
    ),
    max_size=24,
).map("".join)
SPACED = st.lists(st.sampled_from(["AND", "OR", "NOT", "(", ")", '"a b"', "x", ">", "7"]), max_size=80).map(" ".join)
EVENT = decode_candidate(
    b'{"event":"accepted","timestamp":1.5,"domain":"d","recipient":"a@b.c","message":{"headers":{"subject":"x y"}}}'
)


def leaves(field: str) -> st.SearchStrategy[Term]:
    exact = field in {"event", "recipient", "tags", "severity", "list", "recipients"}
    return st.text(min_size=1, max_size=8).map(lambda value: Term("is" if exact else "has", field, value))


def terms(field: str) -> st.SearchStrategy[Term]:
    return st.recursive(
        leaves(field),
        lambda inner: st.one_of(
            st.builds(Term, st.sampled_from(["and", "or"]), parts=st.lists(inner, min_size=2, max_size=4).map(tuple)),
            inner.map(lambda part: Term("not", parts=(part,))),
        ),
        max_leaves=6,
    )


@given(st.data(), st.sampled_from(["event", "recipient", "tags", "subject", "from"]))
def test_parsing_what_was_printed_gives_the_term_back(data: st.DataObject, field: str):
    term = data.draw(terms(field))
    assert parse(field, show(term)) == term


@given(st.one_of(st.text(max_size=200), GRAMMAR, SPACED), st.sampled_from(FIELDS))
@example("(" * 5000, "event")
@example("NOT " * 500, "event")
@example("-" * 3000, "size")
@example(">" + "9" * 400, "size")
@example("{" * 2000, "user-variables")
@example('{"a":' + "9" * 400 + "}", "user-variables")
@example('{"a":{"b":1}}', "user-variables")
@example('"\\', "subject")
def test_any_text_is_parsed_or_refused_and_what_is_parsed_can_be_asked(text: str, field: str):
    refused = ""
    term = None
    try:
        term = parse(field, text)
    except BadRequest as error:
        refused = error.text
    assert not refused or field in refused
    if term is not None:
        assert predicate(term)(EVENT) in (True, False)
        assert count(term) <= 2 * TERMS_MAX
        assert depth(term) <= 2 * DEPTH_MAX + 3


@given(st.integers(1, 200))
def test_limits_are_sharp(n: int):
    for text, fits in ((" ".join(["x"] * n), n <= TERMS_MAX), ("(" * n + "x" + ")" * n, n <= DEPTH_MAX)):
        try:
            parse("event", text)
        except BadRequest:
            assert not fits
        else:
            assert fits


def test_length_is_limited_to_the_character():
    assert parse("event", "x" * EXPRESSION_CHARACTERS_MAX) is not None
    try:
        parse("event", "x" * (EXPRESSION_CHARACTERS_MAX + 1))
    except BadRequest:
        return
    raise AssertionError


def count(term: Term) -> int:
    return sum(map(count, term.parts)) if term.parts else 1


def depth(term: Term) -> int:
    return 1 + max(map(depth, term.parts), default=0)
