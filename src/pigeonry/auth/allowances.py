"""How much an account may send: its limits in memory, from Identity's change feed, and what is left of them.

An account without a limit is in no table here, and costs a look into an empty one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pigeonry.auth.register import ACCOUNT
from pigeonry.domain.errors import TooManyRequests
from pigeonry.domain.tenant import Account
from pigeonry.ports.buckets import Rate
from pigeonry.ports.feed import POLL_S, Follower
from pigeonry.telemetry.views import tell_of_silence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pigeonry.ports.documents import Change, Identity
    from pigeonry.ports.environment import Clock

__all__ = ["Allowances"]

HOUR_S: Final = 3_600.0  # seconds of an hour
DAY_S: Final = 86_400.0  # seconds of a day
_DECODER: Final = msgspec.json.Decoder(Account)
_TELL: Final = tell_of_silence("identity", view="accounts", consequence="limits stay as they were last known")


class Allowances:
    """The accounts that have limits.

    Args:
        take: Takes so many tokens of a named rate; 0.0, or the seconds until there may be enough.
        put_back: Puts some back.
    """

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        *,
        take: Callable[[str, Rate, int], Awaitable[float]],
        put_back: Callable[[str, int], Awaitable[None]],
        poll_s: float = POLL_S,
    ) -> None:
        self._take = take
        self._put_back = put_back
        self._follower = Follower(identity, clock, self._apply, poll_s=poll_s)
        self._rates: dict[str, tuple[tuple[str, str, Rate], ...]] = {}
        self.refused = 0
        """Messages that were over a limit."""

    def any(self) -> bool:
        """Whether any account has a limit."""
        return bool(self._rates)

    async def spend(self, account: str, recipients: int) -> None:
        """Count a message to so many recipients; one to more than the limit counts as the limit.

        Raises:
            TooManyRequests: It is over a limit; nothing was counted.
        """
        spent: list[str] = []
        for name, said, rate in self._rates.get(account, ()):
            wait = await self._take(name, rate, recipients)
            if wait:
                for other in spent:
                    await self._put_back(other, recipients)
                self.refused += 1
                raise TooManyRequests(
                    f"This account may send to {rate.limit} recipients {said}. Try again later.", retry_after_s=wait
                )
            spent.append(name)

    async def spare(self, account: str, recipients: int) -> None:
        """What was counted was not taken after all."""
        for name, _, _ in self._rates.get(account, ()):
            await self._put_back(name, recipients)

    async def refresh(self) -> None:
        """Take in all changes there are now.

        Raises:
            Fault: Identity cannot be reached.
        """
        await self._follower.refresh()

    async def run(self) -> None:
        """Follow the change feed until cancelled."""
        await self._follower.run(_TELL)

    def _apply(self, change: Change) -> None:
        if change.kind != ACCOUNT:
            return
        self._rates.pop(change.id, None)
        if change.document is None:
            return
        account = _DECODER.decode(change.document.value)
        rates = [
            (f"account:{account.id}:{word}", said, Rate(limit, period_s))
            for word, said, limit, period_s in (
                ("hour", "an hour", account.hourly, HOUR_S),
                ("day", "a day", account.daily, DAY_S),
            )
            if limit
        ]
        if rates:
            self._rates[account.id] = tuple(rates)
