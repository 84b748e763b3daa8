"""The receiver of the drills, asked as a client of ours asks."""

from __future__ import annotations

import asyncio

from pigeonry.drills.receiver import Misbehaviour, Receiver
from pigeonry.testing.dice import SeededDice

TRANSACTION = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<%s@y.test>\r\nDATA\r\n"


async def test_commands_that_follow_a_dot_are_answered_after_it_also_when_the_receiver_thinks() -> None:
    receiver = Receiver(SeededDice("1"), Misbehaviour(thinks_s=0.01))
    port = await receiver.start("127.0.0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(TRANSACTION % b"one" + b"text\r\n.\r\n" + TRANSACTION % b"two" + b"text\r\n.\r\nQUIT\r\n")
        said = (await reader.read()).split(b"\r\n")
    finally:
        writer.close()
        await receiver.stop()
    codes = [line[:3] for line in said if line]
    transaction = [b"250", b"250", b"354", b"250"]
    assert codes == [b"220", *transaction, *transaction, b"221"]
    assert dict(receiver.taken) == {"one@y.test": 1, "two@y.test": 1}
