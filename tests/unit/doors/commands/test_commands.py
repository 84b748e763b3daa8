from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pigeonry.app.sockets import bind_command_socket, command_address
from pigeonry.domain.errors import BadRequest, Conflict, Fault, NotFound, Overloaded, OwnerUnreachable, TooLarge
from pigeonry.doors.commands.answering import answer, by_name
from pigeonry.doors.commands.client import NobodyListens, call, unreachable
from pigeonry.doors.commands.frames import FRAME_OCTETS_MAX, REQUEST_OCTETS_MAX, frame, read_frame
from pigeonry.doors.commands.server import CommandDoor
from pigeonry.doors.commands.wire import Answer, Command, encode_answer, encode_command, refusal, result_of


async def double(argument: Any) -> Any:
    return argument * 2


async def refuse(_argument: Any) -> Any:
    raise Conflict("Another change came first.", retry_after_s=3.0)


async def never(_argument: Any) -> Any:
    await asyncio.Event().wait()


async def breaks(_argument: Any) -> Any:
    raise ZeroDivisionError


ACT = by_name({"double": double, "refuse": refuse, "never": never, "breaks": breaks})


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    listening = bind_command_socket(str(tmp_path), 0)
    door = CommandDoor(ACT)
    task = asyncio.ensure_future(door.run(listening))
    with command_address(str(tmp_path), 0) as address:
        yield address
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_answer_comes_back(path: str) -> None:
    assert await call(path, "double", [1, "a"], timeout_s=5.0) == [1, "a", 1, "a"]


async def test_a_refusal_comes_back_as_what_it_was(path: str) -> None:
    with pytest.raises(Conflict, match="Another change came first") as caught:
        await call(path, "refuse", timeout_s=5.0)
    assert caught.value.retry_after_s == 3.0


async def test_an_unknown_command_is_refused(path: str) -> None:
    with pytest.raises(NotFound):
        await call(path, "nothing", timeout_s=5.0)


async def test_an_owner_that_does_not_answer_is_unreachable(path: str, tmp_path: Path) -> None:
    with pytest.raises(OwnerUnreachable) as asked:
        await call(path, "never", timeout_s=0.05)
    assert not isinstance(asked.value, NobodyListens)
    with pytest.raises(NobodyListens) as unheard:
        await call(str(tmp_path / "nobody.sock"), "double", timeout_s=5.0)
    assert asked.value.retry_after_s == unheard.value.retry_after_s == 2.0


async def test_octets_that_are_no_command_are_answered_and_the_next_command_too(path: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    for octets in (
        b"\xc1",
        b"",
        b"\x91" * REQUEST_OCTETS_MAX,
        encode_command(Command("double"))[:-1],
        b"\x81\xa4name\x01",
    ):
        writer.write(frame(octets))
        answered = await read_frame(reader)
        assert answered is not None
        assert BadRequest.__name__.encode() in answered
    writer.close()
    assert await call(path, "double", 1, timeout_s=5.0) == 2


async def test_a_frame_announced_too_large_is_refused_before_it_is_read(path: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write((REQUEST_OCTETS_MAX + 1).to_bytes(4, "big"))
    answered = await read_frame(reader)
    assert answered is not None
    assert TooLarge.__name__.encode() in answered
    assert await read_frame(reader) is None
    writer.close()


def test_a_frame_of_the_largest_size_is_made_and_one_more_octet_is_not() -> None:
    assert len(frame(bytes(FRAME_OCTETS_MAX))) == FRAME_OCTETS_MAX + 4
    with pytest.raises(TooLarge):
        frame(bytes(FRAME_OCTETS_MAX + 1))


async def test_a_bug_is_answered_and_says_nothing_of_itself(path: str) -> None:
    with pytest.raises(Fault, match=r"^The command failed\.$"):
        await call(path, "breaks", timeout_s=5.0)
    assert await call(path, "double", 2, timeout_s=5.0) == 4


async def test_a_command_that_nobody_waits_for_any_more_is_cut_off() -> None:
    with pytest.raises(Fault, match="took too long"):
        result_of(await answer(encode_command(Command("never", within_s=0.01)), ACT))
    with pytest.raises(Fault, match="took too long"):
        result_of(await answer(encode_command(Command("never", within_s=-1.0)), ACT))


async def test_an_answer_too_large_for_a_frame_is_refused() -> None:
    octets = await answer(encode_command(Command("double", bytes(FRAME_OCTETS_MAX // 2))), ACT)
    with pytest.raises(TooLarge):
        result_of(octets)


def test_an_error_of_another_release_is_a_fault_and_no_name_makes_anything_else() -> None:
    for name in ("NotThoughtOfYet", "EnhancedStatus", "annotations", "PigeonryError", "__builtins__"):
        with pytest.raises(Fault, match="x"):
            result_of(encode_answer(Answer(error=name, text="x")))
    for error in (Overloaded("x", retry_after_s=1.5), unreachable(NobodyListens)):
        with pytest.raises(Overloaded if isinstance(error, Overloaded) else OwnerUnreachable) as caught:
            result_of(encode_answer(refusal(error)))
        assert caught.value.retry_after_s == error.retry_after_s


def test_who_does_not_know_a_field_passes_over_it() -> None:
    import msgspec

    from pigeonry.doors.commands.wire import decode_command

    newer = msgspec.msgpack.encode({"name": "double", "argument": 1, "invented_later": {"a": [1]}})
    assert decode_command(newer) == Command("double", 1)
    assert result_of(msgspec.msgpack.encode({"result": 1, "invented_later": 2})) == 1
