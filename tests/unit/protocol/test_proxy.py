"""What a header says, and what is none."""

from __future__ import annotations

import pytest

from pigeonry.protocol.proxy import HEADER_OCTETS_MAX, LINE_OCTETS_MAX, BadHeader, Source, read
from support.proxy import block, v4, v6


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 587\r\n", Source("192.0.2.7", 56324)),
        (b"PROXY TCP6 2001:DB8::7 2001:db8::1 1 65535\r\n", Source("2001:db8::7", 1)),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", Source("192.0.2.7", 1)),
        (b"PROXY UNKNOWN\r\n", Source()),
        (b"PROXY UNKNOWN anything at all\r\n", Source()),
        (b"PROXY UNKNOWN " + b"x" * (LINE_OCTETS_MAX - 16) + b"\r\n", Source()),
    ],
)
def test_a_line_says_who_it_is(line: bytes, said: Source) -> None:
    assert read(line) == said


@pytest.mark.parametrize(
    "line",
    [
        b"EHLO client.test\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"proxy UNKNOWN\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xb2\r\n",
        b"PROXY UNKNOWN " + b"x" * LINE_OCTETS_MAX,
        b"PROXY UNKNOWN\r\nEHLO x",
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadHeader):
        read(line)


def test_a_line_is_refused_as_soon_as_it_cannot_end_in_time() -> None:
    begun = b"PROXY UNKNOWN".ljust(LINE_OCTETS_MAX - 2, b"x")
    assert read(begun) == 2
    assert read(begun + b"\r") == 1
    for octet in (b"x", b"\n"):
        with pytest.raises(BadHeader):
            read(begun + octet)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (v4("192.0.2.7", 56324), Source("192.0.2.7", 56324)),
        (v6("2001:db8::7", 9), Source("2001:db8::7", 9)),
        (v6("::ffff:192.0.2.7", 9), Source("192.0.2.7", 9)),
        (v4("192.0.2.7", 1, b"\x04\x00\x02\x00\x00"), Source("192.0.2.7", 1)),
        (v4("192.0.2.7", 1, b"\x20\x00\x05\x01\x00\x00\x00\x00"), Source("192.0.2.7", 1, secure=True)),
        (v4("192.0.2.7", 1, b"\x20\x00\x05\x00\x00\x00\x00\x00"), Source("192.0.2.7", 1)),
        (block(0x20, 0x00, b""), Source()),
        (block(0x20, 0xFF, b"whatever"), Source()),
        (block(0x21, 0x00, b""), Source()),
        (block(0x21, 0x31, b"\0" * 216), Source()),
    ],
)
def test_a_block_says_who_it_is(header: bytes, said: Source) -> None:
    assert read(header) == said
    assert read(header[:16]) == (len(header) - 16 or said)


@pytest.mark.parametrize(
    "header",
    [
        block(0x11, 0x11, b"\0" * 12),  # version 1 of the block
        block(0x22, 0x11, b"\0" * 12),  # an unknown command
        block(0x21, 0x41, b"\0" * 12),  # an unknown family
        block(0x21, 0x12, b"\0" * 12),  # datagrams
        block(0x21, 0x13, b"\0" * 12),  # an unknown transport
        block(0x21, 0x11, b"\0" * 11),  # no room for addresses
        block(0x21, 0x21, b"\0" * 35),
        v4("192.0.2.7", 1, b"\x04"),  # additions cut short
        v4("192.0.2.7", 1, b"\x04\x00\x03\x00\x00"),
        v4("192.0.2.7", 1, b"\x20\x00\x04\x01\x00\x00\x00"),  # no room for what it says on TLS
    ],
)
def test_what_is_no_block_is_refused(header: bytes) -> None:
    with pytest.raises(BadHeader):
        read(header)


def test_a_block_is_as_long_as_it_may_be_and_not_an_octet_more() -> None:
    room = HEADER_OCTETS_MAX - 16 - 12 - 3
    assert read(v4("192.0.2.7", 1, b"\x04" + room.to_bytes(2, "big") + b"\0" * room)) == Source("192.0.2.7", 1)
    with pytest.raises(BadHeader):
        read(v4("192.0.2.7", 1, b"\x04" + (room + 1).to_bytes(2, "big") + b"\0" * (room + 1))[:16])


def test_nothing_yet_is_the_beginning_of_either() -> None:
    assert read(b"") == 15
