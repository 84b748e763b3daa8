import pytest

from pigeonry.doors.smtp.head import HEAD_OCTETS_MAX, HeadRefused, read_head


def test_a_section_over_the_limit_is_refused_without_reading_the_line_that_the_limit_cuts() -> None:
    # From each of its octets it would be a matter of hours.
    with pytest.raises(HeadRefused, match="larger than 128 KiB"):
        read_head(b"From: a@b.cc\r\n" + b"a" * 2 * HEAD_OCTETS_MAX)


def test_lines_over_the_limit_are_refused() -> None:
    with pytest.raises(HeadRefused, match="larger than 128 KiB"):
        read_head(b"X-Long: of a value\r\n" * 10_000)


def test_a_text_that_is_all_header_section_is_taken_to_its_last_line() -> None:
    assert read_head(b"From: a@b.cc\r\nTo: c@d.ee\r\n").values == {"from": " a@b.cc", "to": " c@d.ee"}
