"""What an operator has told delivery to do with some of the mail, until a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from pigeonry.domain.message import Pending

__all__ = ["ACTIONS", "Action", "Intervention", "Scope"]

Action = Literal["suspend", "drop", "rebind"]
ACTIONS: Final[tuple[Action, ...]] = ("drop", "suspend", "rebind")
"""The first of these that is told of a recipient is done: what is to be dropped needs neither rest nor another pool."""


class Scope(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Whose mail: all that is named must hold; what is left empty holds for everybody.

    Args:
        account: Who sends it.
        domain: From which sending domain.
        to: To which domain of recipients.
        tag: With which tag.
        site: To which site, as routes name it: the receiving hosts that share limits.
        source: From which egress source's address.
    """

    account: str = ""
    domain: str = ""
    to: str = ""
    tag: str = ""
    site: str = ""
    source: str = ""

    def concerns(self, pending: Pending) -> bool:
        """Whether it is about a recipient, by what the queue knows of it."""
        return (
            self.account in ("", pending.tenant)
            and self.domain in ("", pending.domain)
            and (not self.to or pending.address.endswith(f"@{self.to}"))
        )

    def __str__(self) -> str:
        named = msgspec.to_builtins(self)
        return " ".join(f"{field}={value}" for field, value in named.items())


class Intervention(msgspec.Struct, frozen=True):
    """One.

    Args:
        id: Names it to who lifts it.
        action: ``suspend``: it waits, and expires as it would have. ``drop``: it fails for good. ``rebind``: it leaves
            by ``pool``, whatever its domain says.
        reason: Why, for those who ask what became of a message.
        made_at: Seconds since the Unix epoch.
        until: Seconds since the Unix epoch; then it is over by itself.
    """

    id: str
    action: Action
    scope: Scope
    reason: str
    made_at: float
    until: float
    pool: str = ""
