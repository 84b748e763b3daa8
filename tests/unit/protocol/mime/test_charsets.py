import encodings

import pytest

from pigeonry.protocol.mime.charsets import decoded
from pigeonry.protocol.mime.encoded_words import decode


@pytest.mark.parametrize(
    ("charset", "octets"),
    [
        ("UTF-8", "é".encode()),
        ("iso-8859-1", b"\xe9"),
        ("latin1", b"\xe9"),
        ("Windows-1252", b"\xe9"),
        ("cp850", b"\x82"),
        ("utf-16le", b"\xe9\x00"),
        ("us-ascii", b"\xe9"),
    ],
)
def test_charsets_of_mail_are_known_by_their_names(charset: str, octets: bytes) -> None:
    assert decoded(octets, charset) == ("\N{REPLACEMENT CHARACTER}" if charset == "us-ascii" else "é")


@pytest.mark.parametrize("charset", ["koi8-u", "gb18030", "big5", "euc-kr", "shift_jis", "iso-2022-jp", "utf-7"])
def test_other_scripts_are_known(charset: str) -> None:
    assert decoded(b"plain", charset) == "plain"


@pytest.mark.parametrize(
    "charset",
    ["punycode", "idna", "unicode-escape", "raw_unicode_escape", "rot13", "zlib", "hex", "undefined", "", "../x"],
)
def test_what_is_no_charset_of_mail_is_not_read(charset: str) -> None:
    with pytest.raises(LookupError):
        decoded(b"abc", charset)


def test_punycode_in_a_header_is_shown_as_it_is() -> None:
    # As punycode this would take an hour: its time grows with the square of the length.
    text = "b" * 2_000_000
    assert decode(b"=?punycode?q?%b?=" % text.encode()) == text


def test_names_that_nobody_knows_are_not_kept() -> None:
    with pytest.raises(LookupError):
        decoded(b"abc", "x-made-up-by-an-attacker")
    assert "x_made_up_by_an_attacker" not in encodings._cache  # type: ignore[attr-defined]
    assert not any("made" in name for name in encodings._cache)  # type: ignore[attr-defined]


def test_strictness_is_the_callers_choice() -> None:
    with pytest.raises(ValueError, match="invalid start byte"):
        decoded(b"\xff", "utf-8", errors="strict")
    assert decoded(bytearray(b"ok"), "utf8", errors="strict") == "ok"
