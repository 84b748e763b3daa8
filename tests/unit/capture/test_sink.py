from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pigeonry.capture.box import Box
from pigeonry.capture.sink import SLOW_S, TIMEOUT_S, Sink


class HereAndNow:
    async def run(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    def close(self) -> None:
        return


class StillClock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return 1_000.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Wire(asyncio.Transport):
    """What the sink writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.said += data

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


class World:
    def __init__(self, box: Box) -> None:
        self.clock = StillClock()
        self.box = box
        self.sink = Sink(box, clock=self.clock, hostname="sink.test", message_octets_max=100_000)

    async def send(self, recipient: str, *, message_id: str = "m@x") -> tuple[str, bool]:
        """The answer to a message, and whether the connection was closed."""
        wire = Wire()
        connection = self.sink.protocol_factory()
        connection.connection_made(wire)
        text = f"Message-ID: <{message_id}>\r\nSubject: hi\r\nFrom: a@x\r\n\r\n" + "text\r\n" * 5_000
        lines = f"EHLO c\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n{text}.\r\n"
        octets = lines.encode()
        for start in range(0, len(octets), 8_192):
            connection.data_received(octets[start : start + 8_192])  # type: ignore[attr-defined]
        await asyncio.gather(*self.sink.tasks)
        return wire.said.decode().splitlines()[-1], wire.closed


@pytest.fixture
async def world(tmp_path: Path) -> World:
    box = Box(str(tmp_path / "inbox.db"), HereAndNow())
    await box.open()
    return World(box)


async def test_a_message_is_kept_whole(world: World) -> None:
    reply, _ = await world.send("b@y.test")
    assert reply.startswith("250")
    (mail,) = await world.box.newest()
    assert (mail.message_id, mail.forward_paths, mail.subject) == ("m@x", ("b@y.test",), "hi")
    assert mail.size == 5_000 * 6 + len("Message-ID: <m@x>\r\nSubject: hi\r\nFrom: a@x\r\n\r\n")


@pytest.mark.parametrize(
    ("recipient", "code"), [("bounce@y.test", "550 5.1.1"), ("550@y.test", "550 5.7.1"), ("Bounce@y.test", "550")]
)
async def test_some_recipients_are_refused_for_good(world: World, recipient: str, code: str) -> None:
    reply, closed = await world.send(recipient)
    assert reply.startswith(code)
    assert not closed
    assert await world.box.newest() == []


async def test_421_closes_the_connection(world: World) -> None:
    reply, closed = await world.send("421@y.test")
    assert reply.startswith("421 4.3.2")
    assert closed


async def test_defer_takes_each_message_on_its_second_try(world: World) -> None:
    assert (await world.send("defer@y.test"))[0].startswith("451")
    assert (await world.send("defer@y.test", message_id="other@x"))[0].startswith("451")
    assert (await world.send("defer@y.test"))[0].startswith("250")
    assert (await world.send("defer@y.test", message_id="other@x"))[0].startswith("250")


async def test_slow_takes_it_after_a_pause(world: World) -> None:
    assert (await world.send("slow@y.test"))[0].startswith("250")
    assert world.clock.slept == [SLOW_S]


async def test_timeout_says_nothing_for_long_and_closes(world: World) -> None:
    _, closed = await world.send("timeout@y.test")
    assert closed
    assert world.clock.slept == [TIMEOUT_S]
    assert await world.box.newest() == []
