"""What ``Checker`` passes renders, the same each time, and writes no header of its own."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pigeonry.compose import template
from pigeonry.compose.recipients import batch_recipients
from pigeonry.domain.errors import BadRequest
from pigeonry.protocol.mime.addresses import Address
from pigeonry.protocol.mime.builder import Piece, Slot

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
SOURCE = st.lists(
    st.sampled_from(
        ["%recipient.a%", "%recipient.b%", "%recipient%", "%recipient_name%", "%", "x", "é", ", ", "<a@b.com>", "\n"]
    ),
    max_size=8,
).map("".join)
HEADER_SOURCE = SOURCE.map(lambda source: source.replace("\n", ""))
KINDS = st.sampled_from(
    [template.HEADER, template.ADDRESSES, template.JSON_HEADER, template.QUOTED_PRINTABLE, template.BASE64]
)


@st.composite
def pieces(draw: st.DrawFn) -> list[Piece]:
    out: list[Piece] = [Slot(template.RECIPIENT, "", "To")]
    for kind in draw(st.lists(KINDS, max_size=5)):
        body = kind in (template.QUOTED_PRINTABLE, template.BASE64)
        source = draw(SOURCE if body else HEADER_SOURCE)
        if kind == template.ADDRESSES:
            source = draw(st.sampled_from(["%recipient.a% <a@b.com>", "%recipient%", "%recipient.b%@c.com", source]))
        if kind == template.JSON_HEADER:
            source = json.dumps({"k": [source, {"%": source}], "n": 1}, ensure_ascii=draw(st.booleans()))
        out.append(Slot(kind, source + "\r\n" if body else source, "" if body else f"X-{kind}"))
    return out


@given(pieces(), TEXT, TEXT, st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), max_size=20))
def test_what_the_check_passes_always_renders_the_same(given_pieces: list[Piece], a: str, b: str, name: str) -> None:
    checker = template.Checker(given_pieces)
    assert checker.keys <= {"a", "b"}
    (recipient,) = batch_recipients(
        [Address("r@example.com", name)],
        (),
        {"r@example.com": {"a": a, "b": b}},
        keys=checker.keys,
        due=0.0,
        user_variables="{}",
    )
    octets = b"".join(template.stored(given_pieces))
    try:
        checker.check(address=recipient.address, variables=recipient.variables)
    except BadRequest:
        return
    made = template.render(octets, address=recipient.address, variables=recipient.variables)
    assert made == template.render(octets, address=recipient.address, variables=recipient.variables)
    assert made.count(b"\r") == made.count(b"\n") == made.count(b"\r\n")
    headers = [piece for piece in given_pieces if isinstance(piece, Slot) and piece.name]
    head = b"".join(
        template.render(b"".join(template.stored([slot])), address=recipient.address, variables=recipient.variables)
        for slot in headers
    )
    starts = [line for line in head.split(b"\r\n") if line and line[:1] not in b" \t"]
    assert [line.partition(b":")[0].decode() for line in starts] == [slot.name for slot in headers]


@given(st.lists(st.one_of(st.binary(max_size=50), TEXT.map(lambda t: Slot(template.HEADER, t, "X"))), max_size=10))
def test_what_is_stored_reads_back(given_pieces: list[Piece]) -> None:
    read = list(template.pieces_of(b"".join(template.stored(given_pieces))))
    assert [p for p in read if isinstance(p, Slot)] == [p for p in given_pieces if isinstance(p, Slot)]
    octets = [bytes(p) for p in read if not isinstance(p, Slot)]
    assert b"".join(octets) == b"".join(p for p in given_pieces if isinstance(p, bytes))
