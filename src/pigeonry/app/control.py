"""What supervisor and worker say to each other, over a socket pair that the worker inherits.

The supervisor starts, drains and ends; the worker beats, and leaves its last words when its store broke: what a
successor must know before it serves the same shards. When the pair breaks, the other side is gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.app.settings import Settings
from pigeonry.doors.commands.frames import frame, read_frame

if TYPE_CHECKING:
    import socket

__all__ = [
    "BEAT_S",
    "SILENCE_S_MAX",
    "START_S_MAX",
    "Beat",
    "Bye",
    "Certificates",
    "Channel",
    "Drain",
    "FromSupervisor",
    "FromWorker",
    "Go",
    "Handed",
    "Heard",
    "LastWords",
    "Leaving",
    "Prepared",
    "Quiet",
    "Ready",
    "Start",
]

BEAT_S: Final = 0.5  # how often a worker's loop says that it turns
SILENCE_S_MAX: Final = 5.0  # a loop that says nothing for so long serves nobody: the worker is killed
START_S_MAX: Final = 120.0  # imports on a busy machine, before the first beat can come
_UNSENT_OCTETS_MAX: Final = 64 * 1024  # beats nobody reads are dropped, so that a stopped peer costs no memory


class Handed(msgspec.Struct, frozen=True):
    """A listening socket that the worker inherits as descriptor ``fd``."""

    door: str
    fd: int


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Prepare: import, open sockets' ends, build the parts; own nothing yet.

    Args:
        slot: The worker's slot, from 0; with ``workers`` it says which shards are its own.
        generation: How many workers this slot has had.
        command_fd: The listening Unix socket for commands.
    """

    slot: int
    workers: int
    generation: int
    settings: Settings
    data: str
    sealing_key: str
    listeners: tuple[Handed, ...]
    command_fd: int


class Go(msgspec.Struct, frozen=True, tag="go"):
    """Take the shards and open the doors. ``last_words`` are the predecessor's, empty when it left none."""

    last_words: bytes = b""


class Leaving(msgspec.Struct, frozen=True, tag="leaving"):
    """The node goes out of service: hand over what others can have already. The doors stay open until ``Drain``."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Accept nothing more, finish what is under way, end."""


class Certificates(msgspec.Struct, frozen=True, tag="certificates"):
    """Read the certificate again."""


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """All is built; waits for ``Go``."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The doors are open. ``repairs`` are sentences for the operator."""

    pending: int = 0
    repairs: tuple[str, ...] = ()


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The loop turns; ``late_s`` says how late this beat was."""

    late_s: float


class LastWords(msgspec.Struct, frozen=True, tag="last_words"):
    """Messages that were never acknowledged and may be stored: whoever takes over the shards voids them first.

    From a worker that ends, which gives its shards back only when it got ``Heard``; and on to its successor where one
    serves already.
    """

    octets: bytes


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """The last words are with those who must know them. Either way."""


class Quiet(msgspec.Struct, frozen=True, tag="quiet"):
    """From a worker that sends nothing any more and owns nothing. It waits for ``Bye``."""


class Bye(msgspec.Struct, frozen=True, tag="bye"):
    """The worker may end. ``last``: of a node that leaves, so that what belongs to the node is given back as well."""

    last: bool


FromSupervisor = Start | Go | Leaving | Drain | Certificates | LastWords | Heard | Bye
FromWorker = Prepared | Ready | Beat | LastWords | Heard | Quiet

_ENCODER: Final = msgspec.msgpack.Encoder()
_TO_WORKER: Final = msgspec.msgpack.Decoder(FromSupervisor)
_TO_SUPERVISOR: Final = msgspec.msgpack.Decoder(FromWorker)


class Channel:
    """One end of the pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """The channel over a connected Unix socket."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: FromSupervisor | FromWorker) -> None:
        """Send without waiting; a beat is dropped when the peer does not read."""
        if isinstance(message, Beat) and self._writer.transport.get_write_buffer_size() > _UNSENT_OCTETS_MAX:
            return
        if not self._writer.is_closing():
            self._writer.write(frame(_ENCODER.encode(message)))

    async def flush(self) -> None:
        """Wait until all was handed to the kernel, or the peer is gone."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def from_supervisor(self) -> FromSupervisor | None:
        """The supervisor's next message; None when it is gone."""
        octets = await read_frame(self._reader)
        return None if octets is None else _TO_WORKER.decode(octets)

    async def from_worker(self) -> FromWorker | None:
        """The worker's next message; None when it is gone."""
        octets = await read_frame(self._reader)
        return None if octets is None else _TO_SUPERVISOR.decode(octets)

    def close(self) -> None:
        """Break the pair."""
        self._writer.close()
