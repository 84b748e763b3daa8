from email.header import decode_header, make_header

import pytest

from pigeonry.protocol.mime.encoded_words import decode, encode, fold


@pytest.mark.parametrize("text", ["", "plain", "with = and ?", "a" * 60, "two  blanks", "tab\there"])
def test_short_ascii_stays_as_it_is(text: str) -> None:
    assert encode(text, column=9) == text.encode()


@pytest.mark.parametrize("text", ["Grüße", "日本語" * 40, "a é " * 60, "🕊" * 30, "é" + "a" * 3_000])
def test_other_text_becomes_encoded_words_that_every_reader_understands(text: str) -> None:
    octets = encode(text, column=9)
    assert octets.isascii()
    assert all(len(line) <= 76 for line in octets.split(b"\r\n"))
    assert str(make_header(decode_header(octets.decode().replace("\r\n", "")))) == text
    assert decode(octets) == text


def test_no_character_is_split_over_two_words() -> None:
    for word in encode("🕊" * 40, column=9).split(b"\r\n "):
        assert set(decode(word)) == {"🕊"}


def test_long_ascii_is_folded_at_blanks_and_unfolds_to_itself() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    octets = encode(text, column=9)
    assert max(map(len, octets.split(b"\r\n"))) <= 78
    assert octets.replace(b"\r\n", b"").decode() == text


def test_a_token_too_long_for_a_line_is_broken_up_by_encoding_it() -> None:
    octets = encode("x" * 5_000, column=9)
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert decode(octets) == "x" * 5_000


def test_folding_makes_no_line_of_blanks() -> None:
    for text in (b"a" * 70 + b" " * 200, b" " * 200 + b"a", b"a" + b" " * 100 + b"b" * 100):
        assert all(line.strip() for line in fold(text, column=9).split(b"\r\n"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", "plain"),
        (b" =?iso-8859-1?Q?caf=E9_au_lait?= ", "café au lait"),
        (b"=?utf-8?B?w6k=?=\r\n =?utf-8?B?w6k=?=", "éé"),
        (b"=?utf-8?B?w6k=?= and =?utf-8?B?w6k=?=", "é and é"),
        (b"=?utf-8?B?8J+V?= =?utf-8?B?ig==?=", "🕊"),
        (b"=?no-such-charset?B?w6k=?=", "é"),
        (b"=?utf-8*en?Q?x?=", "x"),
        (b"=?utf-8?B?!?=", ""),
        (b"=?utf-8?X?zz?=", "=?utf-8?X?zz?="),
        (b"raw \xc3\xa9", "raw é"),
        (b"raw \xe9", "raw \ufffd"),
        (b"=?utf-8?Q?a=ZZ?=", "a=ZZ"),
    ],
)
def test_whatever_comes_is_decoded_as_far_as_it_can_be(value: bytes, text: str) -> None:
    assert decode(value) == text


class Counting(bytes):
    """Octets that count how many are copied out of them."""

    copied = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        part = super().__getitem__(index)
        Counting.copied += len(part)
        return part


@pytest.mark.parametrize("value", [b"word " * 4_000, b"a" * 90 + b" " * 20_000, b"x " * 100 + b" " * 20_000])
def test_folding_looks_at_each_octet_a_few_times(value: bytes) -> None:
    Counting.copied = 0
    folded = fold(Counting(value), column=9)
    assert Counting.copied <= 3 * len(value)
    assert folded.replace(b"\r\n", b"") == value
    assert all(line.strip() for line in folded.split(b"\r\n"))
