"""Password hashes: argon2id, on a lane, as many at once as the lane can do in a second or two.

People choose SMTP passwords, so a stolen store must be expensive to search; a login therefore costs some 20 to 40 ms
of CPU. That is why results are cached (``logins``) and why waiting is bounded here.

Standards: RFC 9106 (argon2). Parameters after its memory-constrained choice, halved twice and checked against OWASP's
minimum (19 MiB, two passes).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import argon2
from argon2.exceptions import InvalidHashError, VerificationError

from pigeonry.domain.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pigeonry.ports.disk import Lane

__all__ = ["PASSWORD_OCTETS_MAX", "WAITING_MAX", "Passwords"]

PASSWORD_OCTETS_MAX: Final = 1024  # a hash of anything longer would be a way to spend our CPU
WAITING_MAX: Final = 50  # at 20 to 40 ms each, the last one waits for less than two seconds
MEMORY_KIB: Final = 19_456  # KiB for each hash
PASSES: Final = 2
_RETRY_AFTER_S: Final = 2.0  # seconds; as long as WAITING_MAX of them take


class Passwords:
    """Hashes and verifies passwords beside the loop.

    Args:
        lane: Its own: a burst of logins must delay nothing else.
    """

    def __init__(self, lane: Lane, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._lane = lane
        self._hasher = argon2.PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1)
        self._nobodys = ""
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The hash to keep, with its parameters and salt.

        Raises:
            Overloaded: Too many wait already.
        """
        with self._place():
            return await self._lane.run(self._hasher.hash, password)

    async def verify(self, kept: str | None, password: str) -> bool:
        """Whether this is the password; with no hash to compare with it takes as long, and says no.

        Raises:
            Overloaded: Too many wait already.
        """
        with self._place():
            return await self._lane.run(self._verify, kept, password)

    def _verify(self, kept: str | None, password: str) -> bool:
        if not self._nobodys:
            self._nobodys = self._hasher.hash("no login has this hash")
        try:
            self._hasher.verify(kept or self._nobodys, password)
        except (VerificationError, InvalidHashError):
            return False
        return kept is not None

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._waiting >= WAITING_MAX:
            raise Overloaded("Too many logins are being checked; try again.", retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
