from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pigeonry.app.sockets import bind_command_socket, command_address
from pigeonry.domain.errors import BadRequest, Conflict, NotFound, OwnerUnreachable, TooLarge
from pigeonry.doors.commands.client import call
from pigeonry.doors.commands.frames import FRAME_OCTETS_MAX, frame, read_frame
from pigeonry.doors.commands.server import CommandDoor


async def double(argument: Any) -> Any:
    return argument * 2


async def refuse(_argument: Any) -> Any:
    raise Conflict("Another change came first.")


async def never(_argument: Any) -> Any:
    await asyncio.Event().wait()


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    listening = bind_command_socket(str(tmp_path), 0)
    door = CommandDoor({"double": double, "refuse": refuse, "never": never})
    task = asyncio.ensure_future(door.run(listening))
    with command_address(str(tmp_path), 0) as address:
        yield address
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_answer_comes_back(path: str) -> None:
    assert await call(path, "double", [1, "a"], timeout_s=5.0) == [1, "a", 1, "a"]


async def test_a_refusal_comes_back_as_what_it_was(path: str) -> None:
    with pytest.raises(Conflict, match="Another change came first"):
        await call(path, "refuse", timeout_s=5.0)


async def test_an_unknown_command_is_refused(path: str) -> None:
    with pytest.raises(NotFound):
        await call(path, "nothing", timeout_s=5.0)


async def test_an_owner_that_does_not_answer_is_unreachable(path: str, tmp_path: Path) -> None:
    with pytest.raises(OwnerUnreachable):
        await call(path, "never", timeout_s=0.05)
    with pytest.raises(OwnerUnreachable):
        await call(str(tmp_path / "nobody.sock"), "double", timeout_s=5.0)


async def test_octets_that_are_no_command_are_answered_and_the_next_command_too(path: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(frame(b"\xc1"))
    answer = await read_frame(reader)
    assert answer is not None
    assert BadRequest.__name__.encode() in answer
    writer.close()
    assert await call(path, "double", 1, timeout_s=5.0) == 2


async def test_a_frame_announced_too_large_is_refused_before_it_is_read(path: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write((FRAME_OCTETS_MAX + 1).to_bytes(4, "big"))
    answer = await read_frame(reader)
    assert answer is not None
    assert TooLarge.__name__.encode() in answer
    assert await read_frame(reader) is None
    writer.close()


def test_a_frame_of_the_largest_size_is_made_and_one_more_octet_is_not() -> None:
    assert len(frame(bytes(FRAME_OCTETS_MAX))) == FRAME_OCTETS_MAX + 4
    with pytest.raises(TooLarge):
        frame(bytes(FRAME_OCTETS_MAX + 1))
