"""What a peer sends is taken for what it can be, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from pigeonry.domain.errors import PigeonryError
from pigeonry.doors.commands.wire import Command, decode_command, encode_command


def test_a_command_comes_back_as_it_was() -> None:
    command = Command("queue.show", {"limit": 3}, slot=1, within_s=2.5)
    assert decode_command(encode_command(command)) == command


@pytest.mark.parametrize("seconds", [-1e9, 1e9, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    octets = msgspec.msgpack.encode({"name": "queue.show", "within_s": seconds})
    with pytest.raises(PigeonryError):
        decode_command(octets)
