"""Any octets: a source, a number of octets that certainly follow, or BadHeader; nothing else, and never out of bounds.

Under atheris: ``python tests/fuzz/proxy_header.py [corpus]``. Without it the same target runs on damaged headers:
``python tests/fuzz/proxy_header.py --seed 1 --runs 100000``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from pigeonry.protocol.proxy import HEADER_OCTETS_MAX, BadHeader, Source, read  # noqa: E402 - after the path above
from support.fuzzing import main  # noqa: E402 - after the path above
from support.proxy import SIGNATURE, v4, v6  # noqa: E402 - after the path above

SAMPLES = (
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 587\r\n",
    b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    v4("192.0.2.7", 1, b"\x20\x00\x05\x01\x00\x00\x00\x00\x04\x00\x01\x00"),
    v6("2001:db8::7", 9),
    SIGNATURE + b"\x20\x00\x00\x00",
)


def target(octets: bytes) -> None:
    """Read a stream that is split as its first octet says: the end is the same as without splits."""
    step, stream = (octets[0] if octets else 0) + 1, octets[1:]
    assert _end(stream, step) == _end(stream, HEADER_OCTETS_MAX)


def _end(stream: bytes, step: int) -> Source | str:
    header = b""
    while True:
        try:
            said = read(header)
        except BadHeader:
            return "bad"
        if isinstance(said, Source):
            return said
        assert 0 < said <= HEADER_OCTETS_MAX - len(header)
        if len(header) == len(stream):
            return "unfinished"
        header += stream[len(header) : len(header) + min(step, said)]


def generated(dice: random.Random) -> bytes:
    """A header, damaged or cut or followed by something."""
    made = bytearray(dice.choice(SAMPLES) + dice.randbytes(dice.choice((0, 0, 3, 30))))
    for _ in range(dice.choice((0, 1, 1, 4))):
        made[dice.randrange(len(made))] = dice.randrange(256)
    return bytes([dice.randrange(40)]) + bytes(made[: dice.choice((len(made), dice.randrange(len(made) + 1)))])


if __name__ == "__main__":
    main(target, generated)
