"""Bodies: streamed in, immutable from their commit on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pigeonry.domain.message import BodyRef

__all__ = ["BodyStore", "Spool"]


class Spool(Protocol):
    """A large body being received into a place of its own.

    Nothing of it stays unless ``finish`` was called and its message accepted; in a cluster what was given up leaves by
    its time to live.

    ``write`` buffers in memory up to 256 KiB and never blocks the loop for longer than a write into the page cache.
    """

    @property
    def length(self) -> int:
        """Octets written so far."""
        ...

    def write(self, octets: bytes | memoryview) -> None:
        """Append.

        Raises:
            StoreBusy: The disk is full, or the store lags too far behind.
        """
        ...

    async def finish(self) -> bytes | BodyRef:
        """The body for ``Accept``: octets when it is small, else a reference to where it is, durable.

        Raises:
            StoreBusy: The disk is full, or the store does not answer.
        """
        ...

    def discard(self) -> None:
        """Forget it; safe to call at any time, also after ``finish``, when the commit was refused or is in doubt."""
        ...


class BodyStore(Protocol):
    """Where the octets of messages are. tests/conformance/test_body_store.py holds every store to this."""

    def spool(self) -> Spool:
        """Start receiving a body in the shard that now accepts."""
        ...

    async def read(self, ref: BodyRef) -> bytes:
        """The octets.

        Raises:
            StoreBusy: They cannot be read or do not match their checksum.
        """
        ...
