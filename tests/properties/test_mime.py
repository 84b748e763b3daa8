"""What is composed reads back: by our own parser and by the standard library's."""

import binascii
from email import message_from_bytes, policy

from hypothesis import example, given
from hypothesis import strategies as st

from pigeonry.domain.errors import BadAddress
from pigeonry.protocol.mime import parser
from pigeonry.protocol.mime.addresses import Address, format_list, parse_list, show_address
from pigeonry.protocol.mime.builder import assemble, attachment, base64_lines, crlf_octets, quoted_printable, text_leaf
from pigeonry.protocol.mime.encoded_words import LINE_OCTETS_MAX, decode, encode

PRINTABLE = st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc"))
NAMES = st.text(PRINTABLE, max_size=60).map(str.strip).filter(lambda name: "=?" not in name)


def normalised(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=3_000))
def test_any_text_comes_back_out_of_its_part(text: str) -> None:
    octets = b"".join(
        piece for piece in assemble([[text_leaf(b"plain", text)]], boundary=b"=_b") if isinstance(piece, bytes)
    )
    assert octets.isascii()
    assert b"\x00" not in octets
    assert all(len(line) <= LINE_OCTETS_MAX for line in octets.split(b"\r\n"))
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    shown = parser.text(octets, parser.parse(octets))
    assert shown.removesuffix("\n") == normalised(text).removesuffix("\n")


@given(st.lists(st.binary(max_size=400), max_size=4), st.text(PRINTABLE, min_size=1, max_size=50))
def test_any_files_come_back_out_of_a_message(contents: list[bytes], name: str) -> None:
    files = [
        attachment(filename=name, content_type="application/x-test", size=len(content), body=[base64_lines(content)])
        for content in contents
    ]
    pieces = assemble([[text_leaf(b"plain", "x")]], attachments=files, boundary=b"=_b")
    octets = b"".join(piece for piece in pieces if isinstance(piece, bytes))
    parts = [part for part in parser.leaves(parser.parse(octets)) if part.content_type == "application/x-test"]
    assert [parser.decoded(octets, part) for part in parts] == contents
    assert {part.filename for part in parts} <= {file.filename for file in files}
    message = message_from_bytes(octets, policy=policy.default)
    assert [part.get_content() for part in message.iter_attachments()] == contents  # type: ignore[attr-defined]


@given(
    st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=("Cs", "Cc")), max_size=2_000)
)
def test_any_header_text_comes_back_and_keeps_to_its_lines(text: str) -> None:
    octets = b"Subject: " + encode(text, column=9)
    lines = octets.split(b"\r\n")
    assert all(len(line) <= LINE_OCTETS_MAX for line in lines)
    assert all(line[:1] == b" " and line.strip() for line in lines[1:])
    if "=?" not in text:
        assert decode(octets[9:]) == text.strip() or not text.isascii()
    if not text.isascii():
        assert decode(octets[9:]) == text


@given(st.lists(NAMES, min_size=1, max_size=8))
def test_any_names_come_back_out_of_an_address_list(names: list[str]) -> None:
    addresses = [Address(f"a{number}@example.com", name) for number, name in enumerate(names)]
    octets = format_list(addresses, column=4)
    assert octets.isascii()
    read = parse_list(octets.replace(b"\r\n", b"").decode())
    assert [(a.mailbox, a.display) for a in read] == [(a.mailbox, a.display) for a in addresses]
    assert parse_list(", ".join(map(show_address, addresses))) == addresses


@given(st.text(max_size=200))
def test_whatever_is_read_as_an_address_holds_no_control_character(text: str) -> None:
    try:
        addresses = parse_list(text)
    except BadAddress:
        return
    for address in addresses:
        shown = format_list([address], column=0).replace(b"\r\n ", b" ")
        assert not any(octet < 32 or octet == 127 for octet in shown.replace(b"\t", b""))


@given(st.binary(max_size=600))
def test_the_parser_takes_any_octets(octets: bytes) -> None:
    mended = crlf_octets(octets)
    for part in parser.leaves(parser.parse(mended)):
        assert 0 <= part.start <= part.body <= part.end <= len(mended)
        parser.text(mended, part)


@given(
    st.lists(
        st.sampled_from(
            [
                b"--b",
                b"--b--",
                b"\r\n",
                b"Content-Type: multipart/mixed; boundary=b\r\n",
                b"Content-Type: text/html\r\n",
                b"x",
                b"\r\n\r\n",
            ]
        ),
        max_size=30,
    )
)
def test_the_parser_takes_any_nesting_of_boundaries(pieces: list[bytes]) -> None:
    octets = b"".join(pieces)
    for part in parser.leaves(parser.parse(octets)):
        assert 0 <= part.start <= part.body <= part.end <= len(octets)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([b"a", b".", b" ", b"=", b"\t", b"\r\n", b"\x00", b"\xc3\xa9"]),
            st.integers(1, 160).map(lambda count: b"x" * count),
        ),
        max_size=12,
    ).map(b"".join)
)
@example(b"x" * 75 + b".")
@example(b"x" * 75 + b"..")
@example(b"x" * 75 + b" ")
@example(b".")
def test_quoted_printable_cut_short_is_what_reading_each_octet_gives(octets: bytes) -> None:
    octets += b"\r\n"
    assert quoted_printable(octets) == binascii.b2a_qp(octets)
