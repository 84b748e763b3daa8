from __future__ import annotations

import pytest

from pigeonry.protocol.smtp.dot_stuffing import end_of_data, stuffed


@pytest.mark.parametrize(
    ("octets", "wire"),
    [
        (b"", b""),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b".\r\n", b"..\r\n"),
        (b"a\r\n.\r\n..b\r\n", b"a\r\n..\r\n...b\r\n"),
        (b"a\n.\r\nb", b"a\n..\r\nb"),
        (b"a.\r\nb", b"a.\r\nb"),
    ],
)
def test_leading_dots_are_doubled(octets, wire):
    assert stuffed(octets) == wire


def test_nothing_is_copied_when_no_line_starts_with_a_dot():
    octets = b"a\r\nb." * 100
    assert stuffed(octets) is octets


def test_final_dot_stands_on_a_line_of_its_own():
    assert end_of_data(b"a\r\n") == b".\r\n"
    assert end_of_data(b"a") == b"\r\n.\r\n"
    assert end_of_data(b"a\n") == b"\r\n.\r\n"
