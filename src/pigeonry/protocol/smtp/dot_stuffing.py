"""Message octets made safe for DATA, and the octets that end them.

The body goes out first and the end separately, because between the two the queue must learn that the message is
about to be complete (invariant I4).

Standards: RFC 5321 section 4.5.2 (transparency), section 4.1.1.4 (end of data).
Trust: bodies are the sender's. A line that starts with a dot is doubled also after a bare LF, which our doors do not
let in, so that no receiver that takes a bare LF for a line end can be made to see an end of data inside a message.
"""

from __future__ import annotations

__all__ = ["end_of_data", "stuffed"]


def stuffed(octets: bytes) -> bytes:
    """The octets with every leading dot of a line doubled; the same object when no line starts with one."""
    if octets.find(b"\n.") >= 0:  # not ``in``, which tries the octets as a number first
        octets = octets.replace(b"\n.", b"\n..")
    if octets.startswith(b"."):
        octets = b"." + octets
    return octets


def end_of_data(octets: bytes) -> bytes:
    """What completes a message whose (non-empty) last part is ``octets``: the final dot, on a line of its own."""
    return b".\r\n" if octets.endswith(b"\r\n") else b"\r\n.\r\n"
