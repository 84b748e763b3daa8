from pigeonry.protocol.mime.headers import fields, head_length, is_field_name, unfold, value, without

HEAD = b"From: a@b.com\r\nSubject: one\r\n two\r\n\tthree\r\nX-A : 1\r\nx-a: 2\r\nBCC: z@y\r\n z2\r\nTo: c@d\r\n"


def test_the_first_field_of_a_name_is_found_whatever_its_case() -> None:
    assert value(HEAD, b"subject") == b"one two\tthree"
    assert value(HEAD, b"x-a") == b"1"
    assert value(HEAD, b"date") is None
    assert value(HEAD, b"two") is None


def test_a_name_is_not_found_inside_another_or_inside_a_value() -> None:
    assert value(b"X-To: a\r\nSubject: to: b\r\n", b"to") is None


def test_fields_come_in_order_with_their_raw_values() -> None:
    assert fields(b"A: 1\r\nB:2\r\n 3\r\nC:") == [(b"A", b" 1"), (b"B", b"2\r\n 3"), (b"C", b"")]


def test_fields_are_taken_out_with_their_folded_lines_and_the_rest_stays_as_it_is() -> None:
    assert without(HEAD, frozenset({b"bcc"}), prefix=b"x-") == (
        b"From: a@b.com\r\nSubject: one\r\n two\r\n\tthree\r\nTo: c@d\r\n"
    )
    assert without(HEAD, frozenset()) == HEAD


def test_the_header_section_ends_at_the_first_empty_line() -> None:
    assert head_length(b"A: 1\r\n\r\nbody\r\n\r\n") == 6
    assert head_length(b"\r\nbody") == 0
    assert head_length(b"A: 1\r\n") == 6


def test_unfolding_keeps_the_blank() -> None:
    assert unfold(b" a\r\n  b\r\n\tc ") == b"a  b\tc"


def test_a_field_name_has_no_blank_colon_or_control() -> None:
    assert is_field_name("X-Good_1")
    assert not any(is_field_name(name) for name in ("", "a b", "a:", "a\r\nb", "é", "a" * 77, "a\n"))


def test_a_field_is_not_found_inside_a_line_that_is_none() -> None:
    assert fields(b"what is this: 1\r\nA: 1\r\n") == [(b"A", b" 1")]


def test_a_long_line_that_is_no_field_is_looked_at_once() -> None:
    # From each of its octets it would be a matter of hours.
    assert fields(b"a" * 2_000_000) == []
