import pytest

from pigeonry.domain.errors import BadAddress
from pigeonry.protocol.mime.addresses import Address, format_address, format_list, parse_list, show_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b.com", [Address("a@b.com")]),
        (" a@b.com ", [Address("a@b.com")]),
        ("a@b.com,c@d.com", [Address("a@b.com"), Address("c@d.com")]),
        ("Al <a@b.com>", [Address("a@b.com", "Al")]),
        ('"Smith, Al" <a@b.com>, c@d.com', [Address("a@b.com", "Smith, Al"), Address("c@d.com")]),
        (r'"a \"q\" \\ b" <a@b.com>', [Address("a@b.com", 'a "q" \\ b')]),
        ("a.b@c.com <a.b@c.com>", [Address("a.b@c.com", "a.b@c.com")]),
        ("a@b.com (a comment, with comma)", [Address("a@b.com")]),
        ("Al (the (nested) one) <a@b.com>", [Address("a@b.com", "Al")]),
        ("=?utf-8?B?w6k=?= <a@b.com>", [Address("a@b.com", "é")]),
        ("=?utf-8?Q?Smith=2C_J?= <a@b.com>", [Address("a@b.com", "Smith, J")]),
        ("Grüße <grüße@bücher.example>", [Address("grüße@xn--bcher-kva.example", "Grüße")]),
        ('"a b"@c.com', [Address('"a b"@c.com')]),
        ("a@[127.0.0.1]", [Address("a@[127.0.0.1]")]),
        ("a+b@C.com", [Address("a+b@c.com")]),
        ("a@b.com,, ,", [Address("a@b.com")]),
        ("", []),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, expected: list[Address]) -> None:
    assert parse_list(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a@",
        "@b",
        "a b@c.com",
        "a@b@c.com",
        "<>",
        "<a@b.com",
        "a@b.com>x",
        '"a <a@b.com>',
        "(a@b.com",
        "friends: a@b.com, c@d.com;",
        "undisclosed-recipients:;",
        "<@x,@y:a@b.com>",
        "a@b..com",
        "a@-b.com",
        "x" * 65 + "@b.com",
        "a@b.com, bad",
    ],
)
def test_what_is_no_address_is_refused_in_the_words_that_clients_look_for(text: str) -> None:
    with pytest.raises(BadAddress, match="is not a valid address"):
        parse_list(text)


@pytest.mark.parametrize("control", ["\r", "\n", "\r\n", "\x00", "\x0b", "\x7f"])
@pytest.mark.parametrize(
    "shape", ["Al{}Bcc: x@y.z <a@b.com>", "a{}@b.com", "a@b{}.com", '"A{}l" <a@b.com>', "a@b.com{},c@d.com"]
)
def test_no_control_character_gets_through(control: str, shape: str) -> None:
    with pytest.raises(BadAddress):
        parse_list(shape.format(control))


def test_an_error_repeats_only_the_printable_start_of_a_bad_address() -> None:
    with pytest.raises(BadAddress) as caught:
        parse_list("é\x07" + "x" * 5_000)
    assert len(caught.value.text) < 300
    assert "\x07" not in caught.value.text


def test_long_runs_of_blanks_and_brackets_take_linear_time() -> None:
    for text in (
        " " * 200_000 + "a",
        "<" * 200_000,
        "(" * 200_000,
        '"' * 200_001,
        "\\" * 200_000,
        "a" * 200_000 + " <",
    ):
        with pytest.raises(BadAddress):
            parse_list(text)


@pytest.mark.parametrize(
    ("address", "octets"),
    [
        (Address("a@b.com"), b"a@b.com"),
        (Address("a@b.com", "Al B"), b"Al B <a@b.com>"),
        (Address("a@b.com", "B, Al"), b'"B, Al" <a@b.com>'),
        (Address("a@b.com", 'x"y\\'), b'"x\\"y\\\\" <a@b.com>'),
        (Address("a@b.com", "é"), b"=?utf-8?B?w6k=?= <a@b.com>"),
    ],
)
def test_an_address_is_written_so_that_it_reads_back(address: Address, octets: bytes) -> None:
    assert format_address(address) == octets
    assert parse_list(octets.decode()) == [address]
    assert parse_list(show_address(address)) == [address]


def test_a_long_list_is_folded_between_addresses() -> None:
    addresses = [Address(f"recipient{number}@example.com") for number in range(50)]
    octets = format_list(addresses, column=4)
    assert max(map(len, octets.split(b"\r\n"))) <= 78
    assert parse_list(octets.replace(b"\r\n", b"").decode()) == addresses


def test_a_list_without_end_is_refused_before_its_addresses_are_read() -> None:
    assert len(parse_list("a@b.com," * 4_096)) == 4_096
    for endless in ("a@b.com," * 4_097 + "bad", "," * 4_098):
        with pytest.raises(BadAddress, match="more than 4096"):
            parse_list(endless)
