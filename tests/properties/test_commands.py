"""Commands: whatever octets come, they are a command or are refused, and nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pigeonry.domain.errors import PigeonryError, TooLarge
from pigeonry.doors.commands.answering import answer, by_name
from pigeonry.doors.commands.frames import REQUEST_OCTETS_MAX, frame, read_frame
from pigeonry.doors.commands.wire import Answer, Command, decode_command, encode_answer, encode_command, result_of

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TRUNCATED = st.builds(lambda value, cut: msgspec.msgpack.encode(value)[:cut], PLAIN, st.integers(0, 64))
SHAPED = st.builds(
    msgspec.msgpack.encode,
    st.dictionaries(st.sampled_from(["name", "argument", "slot", "within_s", "result", "error", "text"]), PLAIN),
)
OCTETS = st.binary(max_size=200) | TRUNCATED | SHAPED


async def echo(argument: Any) -> Any:
    return argument


@given(OCTETS)
@example(b"\x91" * REQUEST_OCTETS_MAX)
@example(b"\x81\xa8argument" + b"\x81\xa1a" * 10_000)
@example(b"\xc7\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\x83\xa4name\xa4echo\xa8within_s\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xa8argument\x01")
def test_whatever_is_asked_is_answered_by_an_answer(octets: bytes) -> None:
    answered = asyncio.run(answer(octets, by_name({"echo": echo})))
    assert len(answered) <= REQUEST_OCTETS_MAX
    with contextlib.suppress(PigeonryError):
        result_of(answered)


@given(OCTETS)
@example(b"\x91" * REQUEST_OCTETS_MAX)
@example(b"\x81\xa6result" + b"\x91" * 100_000)
def test_whatever_is_answered_is_a_result_or_one_of_our_errors_or_said_to_be_neither(octets: bytes) -> None:
    with contextlib.suppress(PigeonryError, ValueError, RecursionError):
        result_of(octets)


@given(st.text(), PLAIN, st.none() | st.integers(0, 255), st.none() | st.floats(0, 60))
def test_what_one_side_writes_the_other_reads(name: str, value: Any, slot: int | None, within_s: float | None) -> None:
    command = Command(name, value, slot, within_s)
    assert decode_command(encode_command(command)) == command
    assert result_of(encode_answer(Answer(value))) == value


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(1, 30)), st.booleans())
def test_where_the_stream_is_cut_changes_no_frame(bodies: list[bytes], cuts: list[int], ends_within: bool) -> None:
    async def read() -> list[bytes]:
        reader = asyncio.StreamReader(limit=16)
        stream = b"".join(map(frame, bodies)) + (frame(b"last")[:-1] if ends_within else b"")
        heard: list[bytes] = []

        async def feed() -> None:
            rest = stream
            for cut in cuts:
                reader.feed_data(rest[:cut])
                rest = rest[cut:]
                await asyncio.sleep(0)
            reader.feed_data(rest)
            reader.feed_eof()

        feeding = asyncio.ensure_future(feed())
        while (octets := await read_frame(reader)) is not None:
            heard.append(octets)
        await feeding
        return heard

    assert asyncio.run(read()) == bodies


@given(st.integers(0, 2**32 - 1))
@example(REQUEST_OCTETS_MAX)
@example(REQUEST_OCTETS_MAX + 1)
def test_a_length_over_the_bound_is_refused_by_itself_and_no_other_is(length: int) -> None:
    async def read() -> bytes | None:
        reader = asyncio.StreamReader()
        reader.feed_data(length.to_bytes(4, "big"))
        reader.feed_eof()
        return await read_frame(reader, octets_max=REQUEST_OCTETS_MAX)

    try:
        assert asyncio.run(read()) == (b"" if length == 0 else None)
        assert length <= REQUEST_OCTETS_MAX
    except TooLarge:
        assert length > REQUEST_OCTETS_MAX
