from __future__ import annotations

import pytest

from pigeonry.protocol.smtp.data import HELD_OCTETS_MAX, TextProblem, TextReceiver, longer_line, only_crlf


def received(
    stream: bytes, *, by: int = 0, octets_max: int = 10_000_000, line: int = 8_192
) -> tuple[bytes, bytes, TextReceiver]:
    """Text, what stood behind the final dot, and the receiver."""
    receiver = TextReceiver(octets_max=octets_max, line_octets_max=line)
    text = b""
    step = by or len(stream)
    for at in range(0, len(stream), step):
        piece = stream[at : at + step]
        end = receiver.feed(piece, 0)
        if end >= 0:
            text += receiver.rest()
            return text, stream[at + end :], receiver
        text += receiver.take()
    raise AssertionError("the end was not found")


@pytest.mark.parametrize("by", [0, 1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b".\r\n", b""),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"..a\r\n..b\r\nc\r\n.\r\n", b".a\r\n.b\r\nc\r\n"),
        (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n"),
        (b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\r\n...\r\n.\r\n", b"a\r\n..\r\n"),
        (b"a.\r\nb\r\n.\r\n", b"a.\r\nb\r\n"),
    ],
)
def test_text_is_unstuffed_and_ends_at_the_lone_dot(stream: bytes, text: bytes, by: int) -> None:
    got, rest, receiver = received(stream + b"QUIT\r\n", by=by)
    assert receiver.problem is None
    assert got == text
    assert b"QUIT\r\n".startswith(rest)
    assert by or rest == b"QUIT\r\n"
    assert receiver.length == len(text)


@pytest.mark.parametrize("by", [0, 1, 3])
@pytest.mark.parametrize(
    "stream",
    [
        b"a\n.\nb\r\n.\r\n",
        b"a\n.\r\nb\r\n.\r\n",
        b"a\r\n.\nb\r\n.\r\n",
        b"a\r.\rb\r\n.\r\n",
        b"a\r\n.\rb\r\n.\r\n",
        b"a\r\r\n.\r\n",
        b"a\rb\r\n.\r\n",
        b"\n\r\n.\r\n",
        b"..a\nb\r\n.\r\n",
    ],
)
def test_a_bare_line_end_ends_nothing_and_spoils_the_text(stream: bytes, by: int) -> None:
    text, rest, receiver = received(stream, by=by)
    assert (text, rest) == (b"", b"")
    assert receiver.problem is TextProblem.BARE_LINE_END


@pytest.mark.parametrize(("octets", "problem"), [(998, None), (999, TextProblem.LINE_TOO_LONG)])
def test_the_longest_line_is_exactly_as_long_as_allowed(octets: int, problem: TextProblem | None) -> None:
    stream = b"short\r\n" * 300 + b"x" * octets + b"\r\n" + b"short\r\n" * 300 + b".\r\n"
    assert received(stream, line=998)[2].problem is problem


@pytest.mark.parametrize(("octets", "problem"), [(100, None), (99, TextProblem.TOO_LARGE)])
def test_the_largest_text_is_exactly_as_large_as_allowed(octets: int, problem: TextProblem | None) -> None:
    assert received(b"x" * 98 + b"\r\n.\r\n", octets_max=octets)[2].problem is problem


def test_stuffing_does_not_count_as_size() -> None:
    assert received(b"..\r\n" * 10 + b".\r\n", octets_max=30)[2].problem is None


@pytest.mark.parametrize("by", [1_000, 65_536, 300_000])
def test_a_large_text_leaves_in_pieces_of_whole_lines(by: int) -> None:
    lines = b"".join(b".%d %b\r\n" % (number, b"x" * (number % 90)) for number in range(20_000))
    receiver = TextReceiver(octets_max=10_000_000)
    stream = lines.replace(b"\r\n.", b"\r\n..")
    stream = b"." + stream + b".\r\n"
    pieces = []
    for at in range(0, len(stream), by):
        end = receiver.feed(stream[at : at + by], 0)
        if end < 0 and (piece := receiver.take()):
            pieces.append(piece)
    pieces.append(receiver.rest())
    assert b"".join(pieces) == lines
    assert len(pieces) > 2
    assert all(piece.endswith(b"\r\n") for piece in pieces)
    assert all(len(piece) < HELD_OCTETS_MAX + by for piece in pieces)


def test_an_endless_line_is_not_held() -> None:
    receiver = TextReceiver(octets_max=10**9)
    for _ in range(40):
        assert receiver.feed(b"x" * 65_536, 0) == -1
        receiver.take()
        assert receiver._held is not None
        assert len(receiver._held) <= HELD_OCTETS_MAX + 65_536
    assert receiver.feed(b"\r\n.\r\n", 0) == 5
    assert receiver.rest() == b""
    assert receiver.problem is TextProblem.LINE_TOO_LONG


def test_what_is_kept_of_a_spoilt_text_is_not_taken_for_an_end() -> None:
    receiver = TextReceiver(octets_max=10**9)
    assert receiver.feed(b"x" * HELD_OCTETS_MAX, 0) == -1
    receiver.take()
    assert receiver.problem is not None
    assert receiver.feed(b"x" * HELD_OCTETS_MAX + b".\r\ny", 0) == -1
    receiver.take()
    assert receiver.feed(b"y", 0) == -1
    assert receiver.feed(b".\r\n", 0) == -1
    assert receiver.feed(b".\r\n", 0) == 3


def test_chunks_are_taken_as_they_are_and_get_a_last_line_end() -> None:
    receiver = TextReceiver(octets_max=100)
    receiver.feed_chunk(b".a\r\n..")
    receiver.feed_chunk(memoryview(b"\r\nend"))
    assert receiver.rest() == b".a\r\n..\r\nend\r\n"
    assert receiver.received == 11


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        (b"", True),
        (b"\r\n", True),
        (b"a\r\nb\r\n", True),
        (b"a", False),
        (b"\n", False),
        (b"\r", False),
        (b"\n\r", False),
    ],
)
def test_only_crlf_is_known_from_its_parts(text: bytes, *, sound: bool) -> None:
    assert only_crlf(text) is sound


@pytest.mark.parametrize("position", range(0, 60, 7))
def test_a_long_line_is_found_wherever_it_stands(position: int) -> None:
    lines = [b"x" * 10] * 60
    assert not longer_line(b"\r\n".join([*lines, b""]), 10)
    lines[position] = b"x" * 11
    assert longer_line(b"\r\n".join([*lines, b""]), 10)
